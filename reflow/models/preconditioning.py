"""EDM preconditioning, written for velocity.

With n = sqrt((1 - t)^2 + sigma^2 t^2) and sigma the standard deviation of the data, the network F sees
x / n, of unit variance at every t, and the logarithm of the noise level; it is asked for what is left
after the best linear guess of the velocity, again of unit variance:

    v(x, t) = ((sigma^2 t - (1 - t)) / n^2) x + (sigma / n) F(x / n, ln((1 - t) / t) / 4)

A student of average velocities is given a second time, up to which to average: F sees how far away it
lies, and all else stays.

No term divides by t or 1 - t. The noise level is held constant near both ends, where its logarithm would
make v change quickly between times that training hardly tells apart. Karras et al. 2022
(arXiv:2206.00364), section 5, in our convention.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from reflow.flow import per_sample, times_of

FIRST, LAST = 0.01, 0.998  # noise levels are told apart within; about (0.002, 80) in EDM's sigma


class Network(Protocol):
    """What Preconditioned asks of a module F."""

    def __call__(
        self, x: Tensor, level: Tensor, label: Tensor | None, span: Tensor | None = None
    ) -> Tensor:
        """Return F(x, noise level (B,), label, span (B,)), shaped like x (B, *event)."""
        ...

    def units(self) -> list[nn.Module]:
        """Return the blocks in order; each takes (x, features) and returns the next x."""
        ...


class Preconditioned(nn.Module):
    """A velocity field around a network F(x, noise level (B,), label)."""

    def __init__(self, network: Network, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, end_time: Tensor | None = None
    ) -> Tensor:
        """Return the velocity v(x, t), shaped like x (B, *event), for t (B,) or a scalar.

        With `end_time` (B,), where the network knows spans: the average velocity from t to then.
        """
        t = times_of(t, x).to(torch.promote_types(x.dtype, torch.float32))  # never less than float32
        inside = t.clamp(FIRST, LAST)
        level = ((1 - inside) / inside).log() / 4
        variance = self.sigma_data**2
        time = per_sample(t, x)
        n = ((1 - time) ** 2 + variance * time**2).sqrt()
        residual = self.network(x / n, level, label, None if end_time is None else end_time - t)
        velocity: Tensor = (variance * time - (1 - time)) / n**2 * x + self.sigma_data / n * residual
        return velocity

    def units(self) -> list[nn.Module]:
        """Return the network's blocks in order; together they hold nearly all weights and activations."""
        return self.network.units()
