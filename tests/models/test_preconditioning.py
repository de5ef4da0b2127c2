"""Preconditioning is that of EDM: unit variance, and at the start the best linear velocity."""

import math

import pytest
import torch
from networks import either, kinds
from torch import Tensor, nn

from reflow.models.preconditioning import Preconditioned


def some_times() -> Tensor:
    return torch.tensor([0.0, 0.25, 0.625, 1.0], dtype=torch.float64)


class Bent(nn.Module):
    """A network with a known formula, which remembers what it was told."""

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        label: Tensor | None,  # noqa: ARG002
        span: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        self.x, self.level = x, level
        return bent(x, level)


def bent(x: Tensor, level: Tensor) -> Tensor:
    return torch.tanh(1.5 * x.flip(1) + level[:, None]) + 0.3 * x


class Silent(nn.Module):
    """A network that predicts zero."""

    def forward(self, x: Tensor, *told: Tensor | None) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(x)


@kinds
@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_an_untrained_network_is_the_best_linear_velocity(kind: str, sigma: float) -> None:
    """E[x1 - x0 | xt] is (s^2 t - (1 - t)) / n^2 xt for Gaussian data of mean 0."""
    net, x = either(kind, sigma_data=sigma)
    t = some_times()
    shape = (-1, *[1] * (x.ndim - 1))
    slope = (sigma**2 * t - (1 - t)) / ((1 - t) ** 2 + sigma**2 * t**2)
    # The times are exact in float32, in which the network takes them; the slope has 7 digits.
    torch.testing.assert_close(net(x, t), slope.reshape(shape) * x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_preconditioning_is_the_one_of_edm(sigma: float) -> None:
    """v = (D - x) / (1 - t), where D is the denoiser of Karras et al. 2022 at y = x / t."""
    t = torch.tensor([1, 8, 16, 32, 50, 63], dtype=torch.float64) / 64
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    time = t[:, None]
    level = (1 - time) / time  # "sigma" of that paper, table 1
    total = level**2 + sigma**2
    y = x / time
    inner = bent(y / total.sqrt(), level[:, 0].log() / 4)
    denoised = sigma**2 / total * y + level * sigma / total.sqrt() * inner
    # The coefficients are in float32, whose relative error of 6e-8 the division by 1 - t multiplies.
    torch.testing.assert_close(
        Preconditioned(Bent(), sigma)(x, t), (denoised - x) / (1 - time), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("sigma", [0.3, 2.0])
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_network_sees_and_predicts_unit_variance(sigma: float, t: float) -> None:
    n = 40_000
    rng = torch.Generator().manual_seed(0)
    x0 = torch.randn(n, 2, generator=rng)
    # Data of that standard deviation that are anything but Gaussian: two points.
    x1 = sigma * torch.randint(0, 2, (n, 2), generator=rng).mul(2).sub(1)
    xt, target = torch.lerp(x0, x1, t), x1 - x0
    network, times = Bent(), torch.full((n,), t)
    Preconditioned(network, sigma)(xt, times)
    # Standard error of a variance of 2n Gaussian numbers: 1 / sqrt(n); the seed is fixed.
    assert float(network.x.var()) == pytest.approx(1, abs=4 / n**0.5)
    scale = sigma / math.sqrt((1 - t) ** 2 + sigma**2 * t**2)
    wanted = (target - Preconditioned(Silent(), sigma)(xt, times)) / scale
    assert float(wanted.var()) == pytest.approx(1, abs=4 / n**0.5)
    assert abs(float((wanted * xt).mean())) < 4 / n**0.5  # nothing linear is left to predict
