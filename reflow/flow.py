"""Rectified flow on one screen.

Time runs from noise (t = 0) to data (t = 1). A path is the straight line between the two ends of a
pair, `xt = (1 - t) x0 + t x1`, and its velocity is `x1 - x0`. Fitting v(xt, t) to that velocity by
least squares gives the velocity field whose ODE dx/dt = v(x, t) carries the law of x0 to the law
of x1 (Liu et al. 2022, arXiv:2209.03003).

Shapes: x0, x1, xt, v (B, *event), the event being (C, H, W) or (D,); t (B,); label (B,) or None.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from reflow.randomness import Draws


class VelocityField(Protocol):
    """What a network predicts and a solver integrates."""

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return v(x, t), shaped like x."""
        ...


class Pair(NamedTuple):
    """A batch of draws from a coupling: noise, data and, where the data has classes, labels."""

    x0: Tensor
    x1: Tensor
    label: Tensor | None = None


class Losses(NamedTuple):
    """What an objective says of a batch: the loss of each sample and, where it has one, its time."""

    each: Tensor
    t: Tensor | None = None


TimeSampler = Callable[[Draws], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]
Objective = Callable[[VelocityField, Pair, Draws], Losses]


def per_sample(t: Tensor, x: Tensor) -> Tensor:
    """Reshape t (B,) so that it multiplies x (B, *event) sample by sample."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


def times_of(t: Tensor | float, x: Tensor) -> Tensor:
    """Return the time of every sample of x (B, *event) for t (B,) or a scalar, as other solvers give it.

    Only a scalar is moved to where x is: to move the times of samples in silence would hide that
    somebody left them behind.
    """
    if not isinstance(t, Tensor) or not t.ndim:
        t = torch.as_tensor(t, device=x.device)
    return t.expand(x.shape[0])  # len(x) would be a constant to torch.export


def interpolate(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Return the points of the paths at times t."""
    return torch.lerp(x0, x1, per_sample(t, x0))


def velocity_objective(times: TimeSampler, distance: Distance) -> Objective:
    """Return the objective of a velocity field: the distance of v(xt, t) from x1 - x0.

    It trains the base model and, on stored pairs, the reflowed one. Its minimum over fields is zero
    exactly when the paths of the coupling do not cross.
    """

    def objective(field: VelocityField, pair: Pair, draws: Draws) -> Losses:
        x0, x1, label = pair
        t = times(draws)
        return Losses(distance(field(interpolate(x0, x1, t), t, label), x1 - x0), t)

    return objective


def perceptual_objective(times: TimeSampler, velocities: Distance, images: Distance) -> Objective:
    """Return the objective of a velocity field that compares images, too.

    It is t times the distance of v(xt, t) from x1 - x0, plus the distance from x1 of the image that the
    line through xt in the direction of v ends in, xt + (1 - t) v. With pseudo-Huber and LPIPS it is the
    LPIPS-Huber of Lee et al. 2024 (arXiv:2405.20320).
    """

    def objective(field: VelocityField, pair: Pair, draws: Draws) -> Losses:
        x0, x1, label = pair
        t = times(draws)
        xt = interpolate(x0, x1, t)
        v = field(xt, t, label)
        end = xt + per_sample(1 - t, xt) * v
        return Losses(t * velocities(v, x1 - x0) + images(end, x1), t)

    return objective
