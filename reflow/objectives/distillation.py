"""Distillation: the objectives that make a student of few network evaluations.

A student predicts average velocities: u(x, t, s) carries x at time t along the teacher's trajectory to
time s in one step, x + (s - t) u. Three objectives vanish at these averages:

    regress      roll the student out from x0 in k steps, compare where it arrives with x1
    consistency  the average to the end of a window is that of a short step of the teacher's and of the
                 student's own average from there on; windows are [j / k, (j + 1) / k]
    meanflow     u = v + (s - t) du/dt along the trajectory: the derivative of (s - t) u, for any t < s

The first learns from the ends of pairs alone; the others follow the teacher's velocity v from points on
the lines between them, which are distributed as the teacher's states are where the teacher was fitted to
these pairs. Shapes: x0, x1, xt, u, v (B, *event); t, s (B,).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from reflow.flow import Distance, Losses, Objective, Pair, VelocityField, interpolate, per_sample
from reflow.objectives.times import EDGE, stratified, uniform
from reflow.precision import bare
from reflow.randomness import Draws
from reflow.recipes.training import DistillSettings

TIMES = stratified(uniform)


class AverageVelocity(Protocol):
    """What a student of `meanflow` predicts: average velocities, of no span where none is given."""

    def __call__(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, end_time: Tensor | None = None
    ) -> Tensor:
        """Return the average velocity between t and `end_time`, shaped like x."""
        ...


def regression_objective(steps: int, distance: Distance) -> Objective:
    """Return the objective of a student that generates in `steps` Euler steps.

    The student is rolled out from x0 just as it will be sampled, and its end point is compared with
    x1; so k > 1 does not presume straight paths.
    """

    def objective(field: VelocityField, pair: Pair, draws: Draws) -> Losses:  # noqa: ARG001
        x0, x1, label = pair
        x = x0
        for step in range(steps):
            t = x0.new_full((len(x0),), step / steps)
            x = x + field(x, t, label) / steps
        return Losses(distance(x, x1))

    return objective


def consistency_objective(
    teacher: VelocityField, steps: int, intervals: int, distance: Distance
) -> Objective:
    """Return the objective of a student of `steps` Euler steps that agrees with itself along trajectories.

    Each window is cut into `intervals`; the teacher makes one step of Heun's over at most one of them.
    The target is the student's own, without gradient and under the same dropout. Song et al. 2023
    (arXiv:2303.01469), but for average velocities: compared by where they arrive, those near the end of a
    window weigh next to nothing, and nothing holds the others.
    """

    def objective(field: VelocityField, pair: Pair, draws: Draws) -> Losses:
        x0, x1, label = pair
        t = TIMES(draws).to(x0.dtype)
        end = ((t * steps).floor() + 1) / steps
        later = torch.minimum(t + 1 / (steps * intervals), end)
        xt = interpolate(x0, x1, t)
        with torch.no_grad(), same_dropout(x0.device):
            velocity = heun_velocity(teacher, xt, t, later, label)
            moved = xt + per_sample(later - t, xt) * velocity
            rest = field(moved, later, label)  # at the end of a window it counts for nothing
            done = (later - t) / (end - t).clamp(min=EDGE)  # t may be an end, by rounding
            target = torch.lerp(rest, velocity, per_sample(done, xt))
        return Losses(distance(field(xt, t, label), target), t)

    return objective


def mean_flow_objective(teacher: VelocityField, instant: float, distance: Distance) -> Objective:
    """Return the objective of average velocities over any span, from their derivative along trajectories.

    A share `instant` of the examples has no span. The derivative is computed by forward mode, in float32
    and without gradient. Geng et al. 2025 (arXiv:2505.13447), in our time and with the teacher's velocity.
    """

    def objective(field: VelocityField, pair: Pair, draws: Draws) -> Losses:
        x0, x1, label = pair
        t = TIMES(draws).to(x0.dtype)
        share = draws.uniform().to(x0.dtype)  # of what is left until t = 1
        end_time = t + (1 - t) * ((share - instant) / (1 - instant)).clamp(min=0)
        xt = interpolate(x0, x1, t)
        average = cast(AverageVelocity, field)
        with torch.no_grad():
            velocity = teacher(xt, t, label)
            with same_dropout(x0.device), sdpa_kernel(SDPBackend.MATH):  # others lack the derivative
                slope = slope_along(cast(AverageVelocity, bare(field)), xt, t, velocity, label, end_time)
            target = velocity + per_sample(end_time - t, xt) * slope
        return Losses(distance(average(xt, t, label, end_time), target), t)

    return objective


def slope_along(
    field: AverageVelocity, x: Tensor, t: Tensor, velocity: Tensor, label: Tensor | None, end_time: Tensor
) -> Tensor:
    """Return du/dt at x, t along a trajectory with this velocity, by one forward-mode derivative."""
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(x, velocity)  # type: ignore[no-untyped-call]
        passing = forward_ad.make_dual(t, torch.ones_like(t))  # type: ignore[no-untyped-call]
        slope = forward_ad.unpack_dual(field(moving, passing, label, end_time)).tangent  # type: ignore[no-untyped-call]
        assert slope is not None  # every field depends on x
    return cast(Tensor, slope)


def heun_velocity(
    field: VelocityField, x: Tensor, t: Tensor, later: Tensor, label: Tensor | None
) -> Tensor:
    """Return the average velocity of one step of Heun's method from t to `later`."""
    first = field(x, t, label)
    second = field(x + per_sample(later - t, x) * first, later, label)
    return (first + second) / 2


@contextmanager
def same_dropout(device: torch.device) -> Iterator[None]:
    """Let dropout silence after this block what it silenced inside."""
    host = torch.get_rng_state()
    own = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    there = None if own is None else own.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(host)
        if own is not None and there is not None:
            own.set_rng_state(there)


@dataclass(frozen=True)
class Student:
    """How the students of one objective are made.

    follows: it compares velocities with the teacher's; else images, with those of the pairs alone. spans:
    the student predicts average velocities of any span, and so draws in any number of steps.
    """

    objective: Callable[[DistillSettings, VelocityField, Distance], Objective]
    follows: bool = True
    spans: bool = False


STUDENTS: dict[str, Student] = {
    "regress": Student(
        lambda settings, teacher, distance: regression_objective(  # noqa: ARG005
            settings.student_steps, distance
        ),
        follows=False,
    ),
    "consistency": Student(
        lambda settings, teacher, distance: consistency_objective(
            teacher, settings.student_steps, settings.intervals, distance
        )
    ),
    "meanflow": Student(
        lambda settings, teacher, distance: mean_flow_objective(teacher, settings.instant, distance),
        spans=True,
    ),
}
