"""The processes that draw the samples of an evaluation, each its share; the first one gets what all made.

A sample depends on its number alone (to rounding), so any crew makes the same.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from reflow.distributed import World, gathered
from reflow.generation import generate, source_of
from reflow.metrics.straightness import NODES, straightness
from reflow.models import Model
from reflow.settings import Recipe, SolverSettings
from reflow.solvers.grids import GRIDS
from reflow.solvers.rows import METHODS

STREAM = "evaluate"
ADAPTIVE = 40  # evaluations of a sample with a step size of its own, until they are counted

Watch = Callable[[float], None]  # is told which share of the work is done


@dataclass(frozen=True)
class Crew:
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

    def straightness(self, model: Model, watch: Watch) -> float | None:
        """Return the mean over trajectories, each per dimension, on the first process."""
        settings = self.recipe.evaluate
        source = source_of(model, seed=self.recipe.seed, stream=STREAM, device=self.device)
        mine = self.world.share(settings.straightness_samples)
        values = []
        for start in range(mine.start, mine.stop, settings.batch):
            numbers = range(start, min(start + settings.batch, mine.stop))
            x0, label = source.noise(numbers).to(self.device), source.label(numbers)
            found = straightness(
                model,
                x0,
                tolerance=settings.straightness_tolerance,
                label=None if label is None else label.to(self.device),
            )
            values.append(found.cpu())
            watch((numbers.stop - mine.start) / len(mine))
        everyone = self.together(values, torch.empty(0))
        return None if everyone is None else float(everyone.mean())

    def cost(self, method: SolverSettings | None) -> int:
        """Return the evaluations that samples by a method are expected to take; None: the straightness."""
        settings = self.recipe.evaluate
        if method is None:
            return settings.straightness_samples * (NODES + ADAPTIVE)
        if method.steps is None:
            return settings.samples * ADAPTIVE
        return settings.samples * len(METHODS[method.solver](GRIDS["uniform"](method.steps)))
