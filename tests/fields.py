"""Exact velocity fields: the truths that solvers, metrics and training are compared with.

Noise is N(0, I) and independent of the data, except in `reflowed_gaussian`. Shapes: x (B, D), t (B,).
Formulas after Liu et al. 2022 (arXiv:2209.03003); with sigma_t^2 = (1 - t)^2 + s^2 t^2 the law of xt
for data N(m, s^2) is N(t m, sigma_t^2).
"""

import torch
from torch import Tensor

from reflow.flow import VelocityField


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
