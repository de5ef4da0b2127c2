"""A sweep: every model by every method, each drawn, measured and kept until all are finished.

Processes of torchrun draw together; the first one has the reference, keeps results and knows the answers.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from reflow.data import DataSet
from reflow.distributed import agree
from reflow.evaluation.reference import Reference
from reflow.evaluation.results import SCHEMA
from reflow.evaluation.resume import PartialResults
from reflow.evaluation.samplers import Look, Samplers
from reflow.metrics.diagnostics import FlowFigures
from reflow.metrics.likelihood import LikelihoodFigures
from reflow.metrics.standard_errors import RowNumbers
from reflow.models import Model
from reflow.recipes.recipe import SolverSettings
from reflow.sampling.methods import usual_method
from reflow.terminal import Meter, say

Result = dict[str, Any]


class Measurement(NamedTuple):
    """A model, and the method by which its samples are drawn, or what is to be told of its flow."""

    model: Model
    what: SolverSettings | Look


@dataclass
class Sweep:
    """Who draws, what measures (on the first process), and what was finished before.

    protocol: what results follow from beside model and method. held_out: whose likelihood is told. done:
    evaluations so far, as expected.
    """

    samplers: Samplers
    measure: Reference | None
    finished: PartialResults
    protocol: Any
    held_out: DataSet
    done: int = 0
    meter: Meter | None = None

    def run(self, tasks: Sequence[Measurement]) -> list[Result]:
        """Return the results of all tasks in order; empty ones on all processes but the first."""
        known: dict[int, Result] = {}
        if self.samplers.world.leads:
            found = ((number, self.finished.get(self._key(task))) for number, task in enumerate(tasks))
            known = {number: result for number, result in found if result is not None}
        known = agree(known, self.samplers.world)
        self.done = sum(self.samplers.cost(tasks[number].what) for number in known)
        with self._watched(sum(self.samplers.cost(task.what) for task in tasks)):
            if known and self.measure is not None:
                say(f"evaluate: {len(known)} of {len(tasks)} parts are finished already; resuming")
            return [known.get(number) or self._do(task) for number, task in enumerate(tasks)]

    def _do(self, task: Measurement) -> Result:
        found = (
            self._look(task, task.what) if isinstance(task.what, str) else self._figures(task, task.what)
        )
        if found:
            self.finished.put(self._key(task), found)
        self.done += self.samplers.cost(task.what)
        self._show(task, 0.0)
        return found

    def _figures(self, task: Measurement, method: SolverSettings) -> Result:
        """Draw samples and return their figures, and more of those that a user gets."""
        begin = time.perf_counter()
        samples = self.samplers.samples(task.model, method, partial(self._show, task))
        if samples is None or self.measure is None:
            return {}
        (x1, nfe), drawn = samples, time.perf_counter()
        how: Result = {
            "nfe": float(nfe.double().mean()),
            "solver": method.solver,
            "tolerance": method.tolerance,
        }
        found: Result = {"figure": how | self.measure.figures(x1, self._labels())}
        if method == usual_method(task.model):
            found |= self._more(x1)
        seconds = {
            "seconds_per_image": (drawn - begin) / len(x1),
            "measuring_seconds": time.perf_counter() - drawn,
        }
        return found | {"times": how | seconds}

    def _labels(self) -> RowNumbers | None:
        """Return the labels of the samples, one for each, if they are given any."""
        return None if self.samplers.labels is None else np.array(self.samplers.labels)

    def _more(self, samples: Tensor) -> Result:
        """Return what is told of a model's usual samples alone."""
        assert self.measure is not None
        return {
            "nearest_training": self.measure.nearest_training(samples),
            "classes": self.measure.classes(samples),
        }

    def _look(self, task: Measurement, what: Look) -> Result:
        """Return what is told of a flow."""
        watch = partial(self._show, task)
        found: FlowFigures | LikelihoodFigures | None
        if what == "flow":
            found = self.samplers.flow(task.model, watch)
        else:
            found = self.samplers.likelihood(task.model, self.held_out, watch)
        return {} if found is None else {what: asdict(found)}

    def _key(self, task: Measurement) -> dict[str, Any]:
        """Return all that a result follows from, on the first process.

        Other devices round in other ways, and a classifier tells classes where other features are compared.
        """
        assert self.measure is not None
        classifier = self.measure.classifier
        recipe = self.samplers.recipe
        settings = recipe.evaluate
        looks: dict[str, Any] = {
            "flow": [settings.straightness_samples, settings.straightness_tolerance],
            "likelihood": [
                settings.likelihood_samples,
                settings.likelihood_probes,
                settings.likelihood_tolerance,
            ],
        }
        what = task.what
        method = [what, *looks[what]] if isinstance(what, str) else what.model_dump()
        return {
            "schema": SCHEMA,
            "protocol": self.protocol,
            "model": task.model.digest,
            "method": method,
            "seed": recipe.seed,
            "halves": "random" if self.samplers.labels is None else "of each class",
            "batch": settings.batch,
            "device": self.samplers.device.type,
            "classifier": None if classifier is None else classifier.digest,
        }

    @contextlib.contextmanager
    def _watched(self, total: int) -> Iterator[None]:
        """Show progress on the first process."""
        if self.measure is None:
            yield
            return
        with Meter("evaluate", total, "network evaluations", done=self.done) as self.meter:
            yield

    def _show(self, task: Measurement, share: float) -> None:
        """Show that a share of a task is done; its samples are still to be measured."""
        if self.meter is not None:
            self.meter.update(self.done + int(0.99 * share * self.samplers.cost(task.what)))
