"""Generating samples by number: noise i, label i, and the solver's end point.

`arrivals` yields samples as they arrive, in no particular order; `generate` collects them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reflow.data.formats import listing
from reflow.errors import ReflowError
from reflow.flow import Pair, VelocityField
from reflow.guidance import evaluations_per_call, guided
from reflow.models import Model
from reflow.randomness import noise
from reflow.recipes.recipe import GuidanceSettings, SolverSettings
from reflow.sampling.methods import plan_without_pilot
from reflow.solvers.engine import Arrival, Draw, solve
from reflow.solvers.plan import Plan

CHUNK = 64  # samples whose noise is drawn at once


@dataclass(frozen=True)
class Source:
    """Which noise and labels the sample of a number has, and where it is solved.

    labels: classes that samples take in turn, or None for models without classes.
    """

    event: tuple[int, ...]
    labels: Sequence[int] | None
    seed: int
    stream: str
    device: torch.device

    def noise(self, numbers: Sequence[int]) -> Tensor:
        """Return the noise (n, *event) of these numbers, on the CPU."""
        return noise(self.seed, self.stream, numbers, self.event)

    def label(self, numbers: Sequence[int]) -> Tensor | None:
        """Return the labels (n,) of these numbers, on the CPU, or None."""
        if self.labels is None:
            return None
        return torch.tensor(self.labels)[torch.tensor(numbers, dtype=torch.int64) % len(self.labels)]

    def draws(self, numbers: Sequence[int]) -> Iterator[Draw]:
        """Yield the samples of these numbers in order, on the CPU."""
        for start in range(0, len(numbers), CHUNK):
            chunk = numbers[start : start + CHUNK]
            yield Draw(torch.tensor(chunk), self.noise(chunk), self.label(chunk))

    def pilot(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Return noise and labels of `count` samples, of as many classes as they can show."""
        stride = 1 if self.labels is None else max(1, len(self.labels) // count)
        numbers = range(0, stride * count, stride)
        label = self.label(numbers)
        return self.noise(numbers).to(self.device), None if label is None else label.to(self.device)


class Generated(NamedTuple):
    """Noise and images (n, *event) in the order of their numbers on the CPU, evaluations (n,)."""

    pair: Pair
    nfe: Tensor


def source_of(
    model: Model, *, seed: int, stream: str, device: torch.device, labels: Sequence[int] | None = None
) -> Source:
    """Return the source of a model's samples; without `labels` all classes come in turn.

    Raises ReflowError for labels that the model does not know.
    """
    if labels is None and model.classes is not None:
        labels = range(model.classes)
    elif labels is not None:
        require_labels(model, labels)
    return Source(model.event, labels, seed, stream, device)


def require_labels(model: Model, labels: Sequence[int]) -> None:
    """Refuse labels that the model does not know."""
    if model.classes is None:
        raise ReflowError("this model was trained without labels; train one with --set data.labels=true")
    strange = [label for label in labels if not 0 <= label < model.classes]
    if strange:
        raise ReflowError(f"label {strange[0]}: this model has classes 0 to {model.classes - 1}")


def labels_called(model: Model, names: Sequence[str], option: str) -> list[int]:
    """Return the labels of classes by name or, where no class is called by a number, by number.

    Raises ReflowError for those that the model does not know; `option` is where they were given.
    """
    require_labels(model, ())
    known = {name: label for label, name in enumerate(model.class_names)}
    ways = [f"one of {listing(list(known))}"] if known else []
    if not any(name.isdecimal() for name in known):
        ways.append(f"its number, 0 to {(model.classes or 0) - 1}")
        known |= {str(number): number for number in range(model.classes or 0)}
    strange = [name for name in names if name not in known]
    if strange:
        raise ReflowError(f"{option} {strange[0]}: no class of this model; give {', or '.join(ways)}")
    return [known[name] for name in names]


class CountedField(NamedTuple):
    """A velocity field, and how many network evaluations a sample costs in one call of it."""

    field: VelocityField
    cost: int


def counted_field(model: Model, guidance: GuidanceSettings, *, compiled: bool = False) -> CountedField:
    """Return the velocity to follow, guided as the settings say and compiled if asked for."""
    velocity = guided(model, guidance)
    cost = evaluations_per_call(velocity)
    return CountedField(torch.compile(velocity, dynamic=False) if compiled else velocity, cost)


def arrivals(
    velocity: CountedField,
    draws: Iterable[Draw],
    plan: Plan,
    device: torch.device,
    *,
    batch: int,
    constant: bool = False,
) -> Iterator[Arrival]:
    """Solve on the device; yield samples on the CPU as they arrive, network evaluations counted."""
    method = plan.method(torch.empty(0, device=device))
    there = (_draw_to_device(draw, device) for draw in draws)
    for arrival in solve(velocity.field, method, there, batch=batch, constant=constant):
        number, x1, nfe = (part.cpu() for part in arrival)
        yield Arrival(number, x1, nfe * velocity.cost)


def _draw_to_device(draw: Draw, device: torch.device) -> Draw:
    label = None if draw.label is None else draw.label.to(device)
    return Draw(draw.number.to(device), draw.x0.to(device), label)


def generate(
    model: Model,
    count: int,
    *,
    method: SolverSettings,
    seed: int,
    stream: str,
    batch: int,
    device: torch.device,
    labels: Sequence[int] | None = None,
    guidance: GuidanceSettings | None = None,
    first: int = 0,
) -> Iterator[Generated]:
    """Yield `count` samples from number `first` on, a batch at a time and in order."""
    source = source_of(model, seed=seed, stream=stream, device=device, labels=labels)
    velocity = counted_field(model, guidance or GuidanceSettings())
    if model.spans and method.steps is not None:
        velocity = velocity._replace(field=model.in_steps(method.steps))
    plan = plan_without_pilot(method)
    for start in range(first, first + count, batch):
        numbers = range(start, min(start + batch, first + count))
        x0 = source.noise(numbers)
        x1, nfe = torch.empty_like(x0), torch.zeros(len(numbers), dtype=torch.int64)
        for arrival in arrivals(velocity, source.draws(numbers), plan, device, batch=batch):
            rows = arrival.number - start
            x1[rows], nfe[rows] = arrival.x1, arrival.nfe
        yield Generated(Pair(x0, x1, source.label(numbers)), nfe)
