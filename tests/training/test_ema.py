"""The average of the weights has the half-life that was asked for."""

import pytest
import torch
from fits import begin, fit_settings

from reflow.training.averages import RAMP, update_ema


@pytest.mark.parametrize("halflife", [1.0, 7.0, 50.0])
def test_after_a_half_life_the_average_has_gone_half_the_way(halflife: float) -> None:
    average = torch.zeros(3, dtype=torch.float64)
    warm = int(halflife / RAMP)  # from here on the ramp is over
    for step in range(warm, warm + int(halflife)):
        update_ema([average], [torch.ones(3, dtype=torch.float64)], step, halflife)
    torch.testing.assert_close(average, torch.full_like(average, 0.5), rtol=1e-12, atol=0)


def test_early_averages_forget_the_initial_weights() -> None:
    """Of the start, steps 1 to n leave 2^-(1 / 0.05) (1 + 1/2 + ... + 1/n)."""
    average = torch.ones(1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    for step in range(1, 11):
        update_ema([average], [zero], step, halflife=1e6)
        left = 0.5 ** (20 * sum(1 / k for k in range(1, step + 1)))
        # 1 - (1 - 2^-20) in float64 keeps 10 digits of 2^-20.
        assert float(average) == pytest.approx(left, rel=1e-8)


def test_late_averages_have_the_half_life_asked_for_and_not_the_ramp() -> None:
    moved = []
    for step in (100, 10_000):
        average = torch.zeros(1, dtype=torch.float64)
        update_ema([average], [torch.ones(1, dtype=torch.float64)], step, halflife=20.0)
        moved.append(float(average))
    ramp, late = 1 - 0.5 ** (1 / 5), 1 - 0.5 ** (1 / 20)
    assert moved == pytest.approx([ramp, late], rel=1e-12)


def test_the_average_of_a_fit_follows_its_weights() -> None:
    fit = begin(fit_settings(ema_halflife=0.3))
    wanted = {name: weight.detach().double() for name, weight in fit.weights.items()}
    for step in range(1, 9):
        fit.advance()
        keep = 0.5 ** (1 / min(0.3, 0.05 * step))
        for name, weight in fit.weights.items():
            wanted[name] = keep * wanted[name] + (1 - keep) * weight.detach().double()
    for name, average in fit.averages.items():
        # Rounding of float32 over eight steps.
        torch.testing.assert_close(average.double(), wanted[name], rtol=1e-6, atol=1e-7)
