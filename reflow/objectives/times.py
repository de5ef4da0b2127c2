"""Time samplers: the distribution of t in training.

A distribution is given by its quantile function, u in (0, 1) -> t in (0, 1); a sampler feeds it uniforms
that are stratified over the batch (u_i = (i + U_i) / B), which leaves the distribution of t over the whole
batch as it is and lowers the variance of the loss.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reflow.flow import TimeSampler
from reflow.randomness import Draws
from reflow.recipes.training import VelocityFitSettings

Quantile = Callable[[Tensor], Tensor]

EDGE = 1e-5  # t stays this far from 0 and 1, where logit(t) is infinite


def uniform(u: Tensor) -> Tensor:
    """Every t alike."""
    return u


def logit_normal(mean: float, std: float) -> Quantile:
    """logit(t) ~ N(mean, std): a positive mean prefers times near the data. Esser et al. 2024."""

    def quantile(u: Tensor) -> Tensor:
        normal = math.sqrt(2) * torch.erfinv(2 * u - 1)
        return torch.sigmoid(mean + std * normal)

    return quantile


def u_shaped(sharpness: float) -> Quantile:
    """p(t) proportional to cosh(a (t - 1/2)): prefers both ends. Lee et al. 2024, arXiv:2405.20320."""

    def quantile(u: Tensor) -> Tensor:
        return 0.5 + torch.asinh((2 * u - 1) * math.sinh(sharpness / 2)) / sharpness

    return quantile


def stratified(quantile: Quantile) -> TimeSampler:
    """Return the sampler of a distribution: draws -> t (n,), increasing over the rows of a batch."""

    def sample(draws: Draws) -> Tensor:
        u = (draws.places() + draws.uniform()) / draws.batch
        return quantile(u).clamp(EDGE, 1 - EDGE)

    return sample


def by_interval(t: Tensor, count: int) -> Tensor:
    """Return in which of `count` equal intervals of [0, 1] each t (B,) lies: true there, (count, B)."""
    number = (t.detach() * count).long().clamp(max=count - 1)
    return number == torch.arange(count, device=t.device)[:, None]


TIME_SAMPLERS: dict[str, Callable[[VelocityFitSettings], Quantile]] = {
    "uniform": lambda settings: uniform,  # noqa: ARG005
    "logit-normal": lambda settings: logit_normal(settings.logit_mean, settings.logit_std),
    "u-shaped": lambda settings: u_shaped(settings.sharpness),
}
