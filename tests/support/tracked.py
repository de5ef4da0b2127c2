"""Trajectories of weights whose averages are tracked at many widths, to compare with what is rebuilt."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from commands import run_all
from torch import Tensor

from reflow.artifacts import read_header
from reflow.training import session
from reflow.training.averages import WIDTHS, Profile, coefficients, gamma_of, mismatch, update_power
from reflow.training.fit import Fit
from reflow.training.snapshots import write_snapshot

Weights = dict[str, Tensor]
Wanted = (0.03, *WIDTHS, 0.08, 0.15, 0.2, 0.25)  # tracked


@dataclass
class Tracked:
    """Averages of weights by step and width, kept every so many steps."""

    every: int
    widths: tuple[float, ...] = Wanted
    now: dict[float, Weights] = field(default_factory=dict)
    kept: dict[int, dict[float, Weights]] = field(default_factory=dict)

    def note(self, step: int, weights: Weights) -> None:
        """Take the weights after a step."""
        for width in self.widths:
            average = self.now.setdefault(width, {n: torch.zeros_like(w) for n, w in weights.items()})
            update_power(average.values(), weights.values(), step, gamma_of(width))
        if step % self.every == 0:
            self.kept[step] = {
                width: {name: value.clone() for name, value in average.items()}
                for width, average in self.now.items()
            }

    def error(self, width: float, snapshots: int) -> tuple[float, float]:
        """Return the relative errors of weights and profile, rebuilt at the end from so many snapshots."""
        last = max(self.kept)
        steps = [last * number // snapshots for number in range(1, snapshots + 1)]
        stored = [Profile(gamma_of(known), step) for step in steps for known in WIDTHS]
        wanted = Profile(gamma_of(width), last)
        factors = coefficients(stored, wanted)
        parts = [flat(self.kept[step][known]) for step in steps for known in WIDTHS]
        rebuilt = sum(share * part for share, part in zip(factors.tolist(), parts, strict=True))
        truth = flat(self.kept[last][width])
        return float((rebuilt - truth).norm() / truth.norm()), mismatch(stored, wanted, factors)


def flat(weights: Weights) -> Tensor:
    return torch.cat([weights[name].flatten().double() for name in sorted(weights)])


def follow(trajectory: Iterable[Tensor], every: int) -> Tracked:
    tracked = Tracked(every)
    for step, weights in enumerate(trajectory, 1):
        tracked.note(step, {"weights": weights})
    return tracked


def train(tracked: Tracked, *arguments: object) -> None:
    """Run `reflow train ARGUMENTS` and note the weights of each step."""

    class Watched(Fit):
        def advance(self) -> None:
            super().advance()
            tracked.note(self.step, self.weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Fit", Watched)
        run_all([("train", *arguments)])


def store(tracked: Tracked, out: Path, wanted: Callable[[int], bool] = lambda step: True) -> None:  # noqa: ARG005
    """Write the snapshots of a training run beside its model."""
    header = read_header(out / "model.safetensors", "model")
    for step, averages in tracked.kept.items():
        if wanted(step):
            write_snapshot(out, header, step, {width: averages[width] for width in WIDTHS})
