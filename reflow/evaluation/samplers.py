"""The processes that draw the samples of an evaluation, each its share; the first one gets what all made.

A sample depends on its number alone (to rounding), so any number of processes makes the same ones.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reflow.data import DataSet
from reflow.distributed import World, gathered
from reflow.evaluation.scores import evenly
from reflow.metrics.diagnostics import FlowFigures, FlowRows, flow_figures, flow_rows, no_flow_rows
from reflow.metrics.divergence import is_exact, probes_for
from reflow.metrics.likelihood import (
    Likelihood,
    LikelihoodFigures,
    likelihood_figures,
    log_likelihood,
    no_likelihood,
)
from reflow.metrics.trajectories import NODES
from reflow.models import Model
from reflow.pixels import dequantised
from reflow.recipes.recipe import Recipe, SolverSettings
from reflow.sampling.generate import generate, source_of
from reflow.solvers.fixed_grid import METHODS
from reflow.solvers.grids import GRIDS

STREAM = "evaluate"
ADAPTIVE = 40  # evaluations of a sample with a step size of its own, until they are counted
AT_MIDPOINT = 5  # evaluations there: 4, and the ways back count as one

LIKELIHOOD_BATCH = 100  # samples; the way back through the network keeps its activations
DIVERGENCE_PROBES = 2  # of a sample: the least that tells samples' spread from the probes'

Look = Literal["flow", "likelihood"]  # what is told of a velocity field beside its samples
Watch = Callable[[float], None]  # is told which share of the work is done


@dataclass(frozen=True)
class Samplers:
    """Who generates with which recipe, on which device, and the labels that samples take in turn."""

    recipe: Recipe
    labels: list[int] | None
    device: torch.device
    world: World

    def together(self, parts: Iterable[Tensor], like: Tensor) -> Tensor | None:
        """Return the rows of all processes in order, on the first one; `like` (0, ...) is no row."""
        ranks = gathered(torch.cat([like, *parts]), self.world)
        return None if ranks is None else torch.cat(ranks)

    def samples(self, model: Model, method: SolverSettings, watch: Watch) -> tuple[Tensor, Tensor] | None:
        """Return samples (N, *event) and what they cost (N,), on the first process."""
        settings = self.recipe.evaluate
        mine = self.world.share(settings.samples)
        batches = []
        for batch in generate(
            model,
            len(mine),
            method=method,
            seed=self.recipe.seed,
            stream=STREAM,
            batch=settings.batch,
            device=self.device,
            labels=self.labels,
            first=mine.start,
        ):
            batches.append(batch)
            watch(min(1.0, len(batches) * settings.batch / len(mine)))
        x1 = self.together((batch.pair.x1 for batch in batches), torch.empty(0, *model.event))
        nfe = self.together((batch.nfe for batch in batches), torch.empty(0, dtype=torch.int64))
        return None if x1 is None or nfe is None else (x1, nfe)

    def flow(self, model: Model, watch: Watch) -> FlowFigures | None:
        """Return what the flow does on its trajectories, on the first process."""
        recipe, settings = self.recipe, self.recipe.evaluate
        source = source_of(model, seed=recipe.seed, stream=STREAM, device=self.device)
        found = []
        for numbers in self._shared(settings.straightness_samples, settings.batch, watch):
            probes = probes_for(recipe.seed, "divergence", numbers, DIVERGENCE_PROBES, model.event)
            rows = flow_rows(
                model,
                source.noise(numbers).to(self.device),
                _on_device(source.label(numbers), self.device),
                tolerance=settings.straightness_tolerance,
                probes=_on_device(probes, self.device),
            )
            found.append(rows)
        exact = is_exact(DIVERGENCE_PROBES, model.event)
        everyone = self._rows(found, no_flow_rows(model.event, 1 if exact else DIVERGENCE_PROBES))
        return None if everyone is None else flow_figures(FlowRows(*everyone), exact=exact)

    def likelihood(self, model: Model, held_out: DataSet, watch: Watch) -> LikelihoodFigures | None:
        """Return how likely held-out samples are under the model, on the first process."""
        recipe, settings = self.recipe, self.recipe.evaluate
        wanted = min(settings.likelihood_samples, len(held_out))
        image, found = len(model.event) == 3, []
        for numbers in self._shared(wanted, LIKELIHOOD_BATCH, watch):
            x1, label = held_out.take(evenly(len(held_out), wanted)[numbers.start : numbers.stop])
            x1 = dequantised(x1, recipe.seed, "likelihood", numbers) if image else x1
            probes = probes_for(recipe.seed, "probes", numbers, settings.likelihood_probes, model.event)
            one = log_likelihood(
                model,
                x1.to(self.device),
                tolerance=settings.likelihood_tolerance,
                label=None if model.classes is None else _on_device(label, self.device),
                probes=_on_device(probes, self.device),
            )
            found.append(one)
        exact = is_exact(settings.likelihood_probes, model.event)
        everyone = self._rows(found, no_likelihood(1 if exact else settings.likelihood_probes))
        if everyone is None:
            return None
        return likelihood_figures(Likelihood(*everyone), model.event, exact=exact, dequantised=image)

    def _shared(self, count: int, size: int, watch: Watch) -> Iterator[range]:
        """Yield the numbers of this process's share in batches, and tell how much of it is done."""
        mine = self.world.share(count)
        for start in range(mine.start, mine.stop, size):
            numbers = range(start, min(start + size, mine.stop))
            yield numbers
            watch((numbers.stop - mine.start) / len(mine))

    def _rows(self, found: Sequence[Sequence[Tensor]], like: Sequence[Tensor]) -> list[Tensor] | None:
        """Return the rows of all processes, column by column, on the first one."""
        every = (
            self.together((rows[number].cpu() for rows in found), none) for number, none in enumerate(like)
        )
        columns = [column for column in every if column is not None]
        return columns or None

    def cost(self, what: SolverSettings | Look) -> int:
        """Return the evaluations that samples by a method, or a look at the flow, are expected to take."""
        settings = self.recipe.evaluate
        if isinstance(what, str):
            looks = {
                "flow": settings.straightness_samples * (AT_MIDPOINT * NODES + ADAPTIVE),
                "likelihood": settings.likelihood_samples * ADAPTIVE * 2 * settings.likelihood_probes,
            }
            return looks[what]
        if what.steps is None:
            return settings.samples * ADAPTIVE
        return settings.samples * len(METHODS[what.solver](GRIDS["uniform"](what.steps)))


def _on_device(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)
