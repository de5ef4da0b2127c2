"""Exact velocity fields: the truths that solvers, metrics and training are compared with.

Noise is N(0, I) and independent of the data, except in `reflowed_gaussian`. Shapes: x (B, D), t (B,).
Formulas after Liu et al. 2022 (arXiv:2209.03003); with sigma_t^2 = (1 - t)^2 + s^2 t^2 the law of xt
for data N(m, s^2) is N(t m, sigma_t^2).
"""

import numpy as np
import torch
from torch import Generator, Tensor
from torchdiffeq import odeint

from reflow.couplings import Coupling
from reflow.flow import Pair, VelocityField
from reflow.objectives.distillation import AverageVelocity
from reflow.randomness import Draws


def batch_of(n: int, source: Generator) -> Draws:
    """Return the random numbers of a whole batch of n rows, from this generator alone."""
    return Draws(source, source, n, np.arange(n), torch.device("cpu"))


def examples(coupling: Coupling, first: int, n: int, source: Generator) -> Pair:
    """Return examples first to first + n - 1 as one batch."""
    return coupling.draw(np.arange(first, first + n), batch_of(n, source))


def gaussian(mean: Tensor, std: Tensor) -> VelocityField:
    """Return the field of data N(mean, diag(std^2)), both (D,)."""

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        time = t[:, None]
        variance = (1 - time) ** 2 + (std * time) ** 2
        return mean + (time * std**2 - (1 - time)) / variance * (x - time * mean)

    return field


def gaussian_state(x0: Tensor, t: float, mean: Tensor, std: Tensor) -> Tensor:
    """Return where the flow of `gaussian` has carried x0 at time t: t m + sigma_t x0."""
    return t * mean + ((1 - t) ** 2 + (std * t) ** 2).sqrt() * x0


def gaussian_average(mean: Tensor, std: Tensor, steps: int = 1) -> AverageVelocity:
    """Return the average velocities of the flow of `gaussian`: from t until a time, else until the end of
    the window of t, of which there are as many as steps."""

    def scale(t: Tensor) -> Tensor:
        return ((1 - t) ** 2 + (std * t) ** 2).sqrt()

    def average(
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,  # noqa: ARG001
        end_time: Tensor | None = None,
    ) -> Tensor:
        end = ((t * steps).floor() + 1) / steps if end_time is None else end_time
        first, last = t[:, None], end[:, None]
        there = mean * last + scale(last) / scale(first) * (x - first * mean)
        span = last - first
        velocity = gaussian(mean, std)(x, t)
        return torch.where(span == 0, velocity, (there - x) / torch.where(span == 0, 1, span))

    return average


def reflowed_gaussian(mean: Tensor, std: Tensor) -> VelocityField:
    """Return the field fitted to the pairs (x0, m + s x0) that the flow of `gaussian` makes."""

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        time = t[:, None]
        return mean + (std - 1) * (x - time * mean) / (1 - time + time * std)

    return field


def mixture(weights: Tensor, means: Tensor, stds: Tensor) -> VelocityField:
    """Return the field of the mixture of N(means[k], stds[k]^2 I): weights, stds (K,), means (K, D)."""

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        time = t[:, None, None]
        offset = x[:, None] - time * means  # (B, K, D)
        variance = (1 - time) ** 2 + time**2 * stds[:, None] ** 2  # (B, K, 1)
        logits = -0.5 * (offset**2 / variance + variance.log()).sum(-1) + weights.log()
        slope = (time * stds[:, None] ** 2 - (1 - time)) / variance
        return (torch.softmax(logits, 1)[..., None] * (means + slope * offset)).sum(1)

    return field


def data_set(points: Tensor) -> VelocityField:
    """Return the field of the uniform law on the points (K, D), for t < 1."""

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        time = t[:, None]
        squares = (x[:, None] - time[..., None] * points).square().sum(-1)  # (B, K)
        share = torch.softmax(-squares / (2 * (1 - time) ** 2), 1)
        return (share @ points - x) / (1 - time)

    return field


def six_blobs(std: float) -> VelocityField:
    """Return the field of a mixture of six blobs of this standard deviation in the plane."""
    weights = torch.tensor([1, 2, 3, 1, 2, 3], dtype=torch.float64) / 12
    return mixture(weights, draws(6, 2, seed=1), torch.full((6,), std, dtype=torch.float64))


def hyperbola(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """Evaluate dx/dt = -2 t x^2, whose solution is x0 / (1 + x0 t^2)."""
    return -2 * t[:, None] * x**2


def power(degree: int) -> VelocityField:
    """Return the field (k + 1) t^k, whose solution is x0 + t^(k + 1)."""

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return (degree + 1) * (t**degree)[:, None].expand_as(x)

    return field


def gaussian_by_label(*stds: float) -> VelocityField:
    """Return the field whose data, for label k, is N(0, stds[k]^2): the smaller, the stiffer."""

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        return gaussian(x.new_zeros(1), x.new_tensor(stds)[label][:, None])(x, t)

    return field


class Counted:
    """A field that counts the evaluations of every sample, told apart by its label."""

    def __init__(self, field: VelocityField, samples: int) -> None:
        self.field = field
        self.evaluations = torch.zeros(samples, dtype=torch.int64)

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Evaluate the field."""
        assert label is not None
        self.evaluations.index_add_(0, label, torch.ones_like(label))
        return self.field(x, t, label)


def draws(n: int, dimension: int = 3, seed: int = 0) -> Tensor:
    """Return standard normal numbers (n, dimension) in double precision."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=rng, dtype=torch.float64)


def rms(error: Tensor) -> float:
    """Return the root mean square."""
    return float(error.square().mean().sqrt())


def independent_end(field: VelocityField, x0: Tensor, t1: float = 1.0) -> Tensor:
    """Return where torchdiffeq carries x0 from t = 0 to t1, to some ten digits."""

    def right_hand_side(t: Tensor, x: Tensor) -> Tensor:
        return field(x, t.expand(len(x)))

    ends = torch.tensor([0.0, t1], dtype=x0.dtype)
    states: Tensor = odeint(right_hand_side, x0, ends, method="dopri5", rtol=1e-10, atol=1e-10)
    return states[-1]
