"""Distances agree with their formulas in NumPy."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from reflow.objectives.distances import DISTANCES, absolute, pseudo_huber, squared
from reflow.recipes.training import DistillSettings, VelocityFitSettings

SHAPES = [(5, 2), (4, 1, 8, 8), (3, 3, 4, 6)]
shapes = pytest.mark.parametrize("shape", SHAPES)
names = pytest.mark.parametrize("name", DISTANCES)


def two(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(shape, generator=rng, dtype=torch.float64)
    return a, torch.randn(shape, generator=rng, dtype=torch.float64)


def along(size: float, d: int = 100) -> tuple[Tensor, Tensor]:
    """Return two samples whose difference has this Euclidean norm, in d dimensions."""
    return torch.full((1, d), size / d**0.5, dtype=torch.float64), torch.zeros(1, d)


@shapes
def test_squared_is_the_mean_squared_difference(shape: tuple[int, ...]) -> None:
    a, b = two(shape)
    wanted = ((a.numpy() - b.numpy()) ** 2).reshape(len(a), -1).mean(axis=1)
    np.testing.assert_allclose(squared(a, b).numpy(), wanted, rtol=1e-13)  # rounding


@shapes
def test_absolute_is_the_mean_absolute_difference(shape: tuple[int, ...]) -> None:
    a, b = two(shape)
    wanted = np.abs(a.numpy() - b.numpy()).reshape(len(a), -1).mean(axis=1)
    np.testing.assert_allclose(absolute(a, b).numpy(), wanted, rtol=1e-13)  # rounding


@pytest.mark.parametrize(("name", "wanted"), [("squared", 1 / 3), ("absolute", 0.0)])
def test_squared_is_least_at_a_mean_and_absolute_at_a_median(name: str, wanted: float) -> None:
    targets, guesses = torch.tensor([[0.0], [0.0], [1.0]]), torch.linspace(-0.5, 1.5, 601)
    loss = torch.stack([DISTANCES[name](guess.expand(3, 1), targets).mean() for guess in guesses])
    assert float(guesses[loss.argmin()]) == pytest.approx(wanted, abs=2 / 600)  # the grid


@shapes
def test_pseudo_huber_is_the_published_formula(shape: tuple[int, ...]) -> None:
    a, b = two(shape)
    d = a[0].numel()
    c = 0.00054 * d
    norm = np.linalg.norm((a.numpy() - b.numpy()).reshape(len(a), -1), axis=1)
    wanted = (np.sqrt(norm**2 + c**2) - c) / d
    np.testing.assert_allclose(pseudo_huber(a, b).numpy(), wanted, rtol=1e-13)  # rounding


def test_pseudo_huber_is_quadratic_for_small_errors() -> None:
    d, c = 100, 0.054
    size = 1e-3 * c
    wanted = size**2 / (2 * c) / d
    # The next term of the series is (size / 2c)^2 = 2.5e-7 of the first; rounding adds 1e-10.
    assert float(pseudo_huber(*along(size, d))) == pytest.approx(wanted, rel=1e-6)


def test_pseudo_huber_is_linear_for_large_errors() -> None:
    d, c = 100, 0.054
    size = 1e4 * c
    # sqrt(n^2 + c^2) - c = n - c + c^2 / 2n, of which the last is 5e-9 of the first.
    assert float(pseudo_huber(*along(size, d))) == pytest.approx((size - c) / d, rel=1e-8)


@names
def test_distances_are_zero_between_equals_and_symmetric(name: str) -> None:
    a, b = two((6, 1, 4, 4))
    distance = DISTANCES[name]
    assert torch.equal(distance(a, a), torch.zeros(6, dtype=torch.float64))
    assert torch.equal(distance(a, b), distance(b, a))
    assert bool((distance(a, b) > 0).all())


@names
def test_distances_do_not_mix_samples(name: str) -> None:
    a, b = two((6, 3))
    one_by_one = torch.cat([DISTANCES[name](a[i : i + 1], b[i : i + 1]) for i in range(6)])
    # Sums of three numbers may be ordered otherwise in another shape.
    torch.testing.assert_close(DISTANCES[name](a, b), one_by_one, rtol=1e-14, atol=0)


@names
def test_distances_have_a_gradient_where_the_error_is_zero(name: str) -> None:
    a = torch.ones(2, 3, requires_grad=True)
    DISTANCES[name](a, torch.ones(2, 3)).sum().backward()
    assert a.grad is not None
    assert torch.equal(a.grad, torch.zeros(2, 3))


def test_the_recipe_knows_exactly_the_distances_there_are() -> None:
    for section in (VelocityFitSettings, DistillSettings):
        assert set(get_args(section.model_fields["distance"].annotation)) == set(DISTANCES)
