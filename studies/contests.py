"""What studies/pipelines.py gives each pipeline: data, network, optimiser, and time that runs out.

Shapes: images (N, *event) in [-1, 1], noise alike, labels (N,) or None.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from reflow.artifacts import STATE, read_artifact
from reflow.data import DataSet, open_data, split
from reflow.flow import Pair, VelocityField, interpolate
from reflow.models import build, load_model
from reflow.models.preconditioning import Preconditioned
from reflow.recipes.recipe import Recipe
from reflow.recipes.training import FitSettings
from reflow.training.averages import update_ema
from reflow.training.fit import SCHEDULES

STAGES = ("train", "couple", "reflow", "distill")
Loss = Callable[[], Tensor]
Solve = Callable[[VelocityField, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """The network and the training data of a recipe and its seed; `labelled` if peers are told classes.

    base: folder of a base model whose training a peer would only repeat.
    """

    recipe: Recipe
    labelled: bool
    base: Path | None = None

    @cached_property
    def parts(self) -> tuple[DataSet, DataSet]:
        """Training and held-out data."""
        recipe = self.recipe
        return split(open_data(recipe.data, recipe.seed), recipe.data.held_out, recipe.seed)

    @cached_property
    def examples(self) -> tuple[Tensor, Tensor | None]:
        """Training images and, where wanted, their labels."""
        images, labels = self.parts[0].take(np.arange(len(self.parts[0])))
        return images, labels if self.labelled else None

    @property
    def classes(self) -> int | None:
        """Number of classes that the network is told of."""
        return len(self.parts[0].class_names) if self.labelled else None

    @property
    def unconditional(self) -> bool:
        """Whether the network knows a null label, as a base that was trained with label dropout does."""
        return self.base is not None and self.recipe.train.label_dropout > 0

    def net(self) -> Preconditioned:
        """Return the recipe's network with random weights."""
        return build(self.recipe.model, self.parts[0].event, self.classes, unconditional=self.unconditional)

    def noise(self, count: int) -> Tensor:
        """Return fresh noise."""
        return torch.randn(count, *self.parts[0].event)

    def independent(self, count: int) -> Pair:
        """Return data at random with fresh noise."""
        images, labels = self.examples
        rows = torch.randint(len(images), (count,))
        return Pair(self.noise(count), images[rows], None if labels is None else labels[rows])

    def solved(self, net: nn.Module, solve: Solve, count: int) -> Pair:
        """Return fresh noise with what the network makes of it."""
        x0, _, label = self.independent(count)
        with torch.no_grad():
            return Pair(x0, solve(lambda x, t: net(x, t, label), x0), label)  # type: ignore[arg-type]


def plain_base(problem: Problem, phases: "Phases", net: nn.Module, loss: Loss | None = None) -> nn.Module:
    """Train a velocity field by uniform times and squared errors, or another loss, and return its average.

    The problem's base stands for it if there is one: `net` then gets its last weights, before averaging,
    and the phase counts as spent.
    """
    recipe = problem.recipe
    if problem.base is None:
        plain = partial(_plain_loss, problem, net)
        return phases.fit(["train"], net, loss or plain, optimisation_of(recipe.train))
    _, state = read_artifact(problem.base / STATE, "state")
    net.load_state_dict({name: state[f"raw.{name}"] for name in net.state_dict()})
    phases.take(["train"])
    return load_model(problem.base).net


def _plain_loss(problem: Problem, net: nn.Module) -> Tensor:
    return velocity_loss(net, problem.independent(problem.recipe.train.batch))


def velocity_loss(net: nn.Module, pair: Pair) -> Tensor:
    """Return the squared error of the velocity at uniform times."""
    x0, x1, label = pair
    t = torch.rand(len(x0))
    return nn.functional.mse_loss(net(interpolate(x0, x1, t), t, label), x1 - x0)


def regression_loss(net: nn.Module, pair: Pair) -> Tensor:
    """Return the squared error of one Euler step."""
    x0, x1, label = pair
    return nn.functional.mse_loss(x0 + net(x0, torch.zeros(len(x0)), label), x1)


def drawn(pairs: Pair, count: int) -> Pair:
    """Return some of the pairs at random."""
    rows = torch.randint(len(pairs.x0), (count,))
    return Pair(*(None if part is None else part[rows] for part in pairs))  # type: ignore[arg-type]


class Average(Protocol):
    """An averaged copy of a network."""

    ema_model: nn.Module

    def update(self) -> object:
        """Follow the network after a step."""
        ...


class HalfLife:
    """Our average, by half-life in steps."""

    def __init__(self, net: nn.Module, halflife: float) -> None:
        self.net, self.halflife, self.step = net, halflife, 0
        self.ema_model = copy.deepcopy(net)

    def update(self) -> None:
        """Follow the network after a step."""
        self.step += 1
        update_ema(self.ema_model.parameters(), self.net.parameters(), self.step, self.halflife)


class Optimisation(NamedTuple):
    """How a peer trains: Adam with warm-up in steps, a schedule over its time, clipping and an average."""

    lr: float
    warmup: int
    schedule: str
    clip: float
    average: Callable[[nn.Module], Average]


def optimisation_of(settings: FitSettings) -> Optimisation:
    """Return the optimiser of one of the recipe's own stages, which were tuned for it."""
    halflife = settings.ema_halflife
    return Optimisation(
        settings.lr,
        settings.warmup,
        settings.schedule,
        settings.clip,
        lambda net: HalfLife(net, halflife),
    )


@dataclass
class Phases:
    """The seconds that our stages took, spent by a clock; notes say on what."""

    seconds: dict[str, float]
    now: Callable[[], float]
    notes: list[dict[str, Any]] = field(default_factory=list)

    def fit(self, stages: Sequence[str], net: nn.Module, loss: Loss, how: Optimisation) -> nn.Module:
        """Train a network in the time of these stages and return its average."""
        optimiser = torch.optim.Adam(net.parameters(), lr=how.lr, fused=True)
        average, step = how.average(net), 0
        begin, allowed = self.now(), self.allowed(stages)
        while (gone := self.now() - begin) < allowed:
            warm = min(1.0, (step + 1) / (how.warmup + 1))
            for group in optimiser.param_groups:
                group["lr"] = how.lr * warm * SCHEDULES[how.schedule](gone / allowed)
            optimiser.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), how.clip)
            optimiser.step()
            average.update()
            step += 1
        self.note(stages, begin, steps=step)
        return average.ema_model

    def collect(self, stages: Sequence[str], make: Callable[[], Pair]) -> Pair:
        """Return all pairs that can be made in the time of these stages, one batch at least."""
        begin, made = self.now(), [make()]
        while self.now() - begin < self.allowed(stages):
            made.append(make())
        pairs = Pair(*(None if part[0] is None else torch.cat(part) for part in zip(*made, strict=True)))  # type: ignore[arg-type]
        self.note(stages, begin, pairs=len(pairs.x0))
        return pairs

    def take(self, stages: Sequence[str]) -> None:
        """Count the time of these stages as spent, on what was made before."""
        allowed = self.allowed(stages)
        self.notes.append({"phase": " + ".join(stages), "seconds": allowed, "allowed": allowed})

    def allowed(self, stages: Sequence[str]) -> float:
        """Return the seconds of these stages."""
        return sum(self.seconds[stage] for stage in stages)

    def note(self, stages: Sequence[str], begin: float, **done: int) -> None:
        """Note what was done since a moment."""
        spent = round(self.now() - begin, 2)
        self.notes.append(
            {"phase": " + ".join(stages), "seconds": spent, "allowed": self.allowed(stages)} | done
        )
