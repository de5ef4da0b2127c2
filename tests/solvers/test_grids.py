"""Time grids: from 0 to 1, increasing, and as dense as they should be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reflow.solvers.grids import GRIDS, cosine, edm, from_density, shifted, uniform

DENSITIES = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40)


def on_unit_interval(density: list[float]) -> tuple[Tensor, Tensor]:
    times = torch.linspace(0, 1, len(density), dtype=torch.float64)
    return times, torch.tensor(density, dtype=torch.float64)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 17, 500])
def test_grids_increase_from_exactly_zero_to_exactly_one(name: str, steps: int) -> None:
    nodes = GRIDS[name](steps)
    assert nodes.shape == (steps + 1,) and nodes.dtype == torch.float64
    assert float(nodes[0]) == 0 and float(nodes[-1]) == 1
    assert (nodes.diff() > 0).all()


@given(DENSITIES, st.integers(1, 60))
def test_grids_from_densities_increase_from_exactly_zero_to_exactly_one(
    density: list[float], steps: int
) -> None:
    nodes = from_density(*on_unit_interval(density), steps)
    assert nodes.shape == (steps + 1,)
    assert float(nodes[0]) == 0 and float(nodes[-1]) == 1
    assert (nodes.diff() > 0).all()


@given(DENSITIES, st.integers(1, 60))
def test_steps_have_equal_mass_under_any_positive_density(density: list[float], steps: int) -> None:
    """Mass by the trapezoidal rule, spread evenly between two times."""
    times, values = (part.numpy() for part in on_unit_interval(density))
    nodes = from_density(torch.from_numpy(times), torch.from_numpy(values), steps).numpy()
    mass = np.concatenate([[0.0], np.cumsum((values[1:] + values[:-1]) / 2 * np.diff(times))])
    share = np.diff(np.interp(nodes, times, mass)) / mass[-1]
    np.testing.assert_allclose(
        share, 1 / steps, rtol=0, atol=1e-9
    )  # rounding where densities differ by 1e6


@pytest.mark.parametrize("steps", [1, 5, 64])
def test_a_constant_density_gives_equal_steps(steps: int) -> None:
    nodes = from_density(*on_unit_interval([3.0] * 7), steps)
    torch.testing.assert_close(nodes, uniform(steps), rtol=0, atol=1e-14)  # rounding


def test_a_linear_density_is_cut_where_its_integral_says() -> None:
    """Under the density 2 t the mass up to t is t^2."""
    times = torch.linspace(0, 1, 2001, dtype=torch.float64)
    nodes = from_density(times, 2 * times + 1e-12, 16)
    # Within an interval of 1 / 2000 the mass counts as even: off by up to a quarter of it.
    torch.testing.assert_close(nodes, uniform(16).sqrt(), rtol=0, atol=1.25e-4)


def test_cosine_and_shifted_grids_are_as_their_formulas() -> None:
    assert cosine(4).tolist() == pytest.approx(
        [0, (1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2, 1]
    )
    assert shifted(4).tolist() == pytest.approx([0, 0.4, 2 / 3, 6 / 7, 1])  # u / (u + (1 - u) / 2)


@pytest.mark.parametrize("steps", [3, 10, 36])
def test_the_edm_grid_has_the_noise_levels_of_edm(steps: int) -> None:
    """Karras et al. 2022 (arXiv:2206.00364), equation 5, with sigma = (1 - t) / t and N = steps - 1."""
    levels = [
        (80 ** (1 / 7) + i / (steps - 2) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        for i in range(steps - 1)
    ]
    inner = edm(steps)[1:-1]
    assert ((1 - inner) / inner).tolist() == pytest.approx(
        levels, rel=1e-9
    )  # 1 - t loses digits at t = 0.998
