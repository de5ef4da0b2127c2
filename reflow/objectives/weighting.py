"""Weights of the losses in training: all alike, or each divided by what its t usually costs.

Karras et al. 2024 (arXiv:2312.02696) minimise L / exp(u(t)) + u(t) over a network u beside the model. The
best u is log E[L | t], a function of one number, so here it is measured: the mean loss in equal intervals
of t, with weights of past steps that decay. Every t then gives the same loss on average, and 1.

Shapes: each, t (B,).
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from reflow.devices import most_precise
from reflow.distributed import World, total
from reflow.flow import Losses
from reflow.objectives.times import by_interval
from reflow.recipes.training import FitSettings, VelocityFitSettings

INTERVALS = 32
HALFLIFE = 100  # in steps
FIRST = 8.0  # so many examples of the mean loss of the first batch does each interval begin with


class Weighting(Protocol):
    """What an optimiser is given in place of the losses."""

    def weighted(self, losses: Losses) -> Tensor:
        """Return the weighted losses (B,)."""
        ...

    def add(self, losses: Losses, good: Tensor, world: World) -> None:
        """Learn from this process's losses of a step, unless it was skipped (good is false)."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return what a later `restore` needs."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the tensors of a moment, asking for each once."""
        ...


class Uniform:
    """All losses as they are."""

    def weighted(self, losses: Losses) -> Tensor:
        """Return the losses."""
        return losses.each

    def add(self, losses: Losses, good: Tensor, world: World) -> None:
        """Learn nothing."""

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Need nothing."""


class Uncertainty:
    """Losses divided by the mean loss at their t, as the steps before have told; the first step by 1.

    `means` (INTERVALS,) are of so many examples, `masses`, which halve in HALFLIFE steps.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        precise = most_precise(device)
        self.means = torch.ones(INTERVALS, dtype=precise, device=device)
        self.masses = torch.zeros(INTERVALS, dtype=precise, device=device)

    def weighted(self, losses: Losses) -> Tensor:
        """Return the losses divided by the estimate."""
        assert losses.t is not None
        return losses.each / self.estimate(losses.t).to(losses.each.dtype)

    def estimate(self, t: Tensor) -> Tensor:
        """Return the mean loss at t: lines between the middles of the intervals, constant beyond them."""
        place = (t.detach().to(self.means.dtype) * INTERVALS - 0.5).clamp(0, INTERVALS - 1)
        left = place.long().clamp(max=INTERVALS - 2)
        means = torch.lerp(self.means[left], self.means[left + 1], place - left)
        return means.clamp(min=torch.finfo(torch.float32).tiny)  # where all losses were 0

    @torch.no_grad()
    def add(self, losses: Losses, good: Tensor, world: World) -> None:
        """Take in the losses of a step; a skipped one leaves all as it was."""
        sums, counts = total(self._sums(losses, good), world)
        seen = counts.sum()
        begins = (self.masses.sum() == 0) & (seen > 0)
        decay = 0.5 ** (good.to(counts.dtype) / HALFLIFE)
        means = torch.where(begins, sums.sum() / seen, self.means)
        masses = torch.where(begins, FIRST, self.masses) * decay + counts
        self.means = means + (sums - counts * means) / masses.clamp(min=1)  # 1 only where nothing is added
        self.masses = masses

    def tensors(self) -> dict[str, Tensor]:
        """Return the estimate."""
        return {"weighting.means": self.means, "weighting.masses": self.masses}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from an estimate."""
        self.means = tensors["weighting.means"].to(self.means)
        self.masses = tensors["weighting.masses"].to(self.masses)

    def _sums(self, losses: Losses, good: Tensor) -> Tensor:
        """Return sum and number of the losses by interval, (2, INTERVALS); none of a skipped step."""
        assert losses.t is not None
        each = torch.where(good, losses.each.detach(), 0.0).to(self.means.dtype)
        inside = by_interval(losses.t, INTERVALS).to(each.dtype) * good
        return torch.stack([inside @ each, inside.sum(1)])


WEIGHTINGS: dict[str, Callable[[torch.device], Weighting]] = {
    "uniform": lambda device: Uniform(),  # noqa: ARG005
    "uncertainty": Uncertainty,
}


def weighting_of(settings: FitSettings, device: torch.device) -> Weighting:
    """Return the weighting that a section of a recipe asks for; sections without t have uniform weights."""
    name = settings.weighting if isinstance(settings, VelocityFitSettings) else "uniform"
    return WEIGHTINGS[name](device)
