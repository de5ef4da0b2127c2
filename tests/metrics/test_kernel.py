"""The kernel distance agrees with torchmetrics, with the definition and with its expectation."""

import math

import numpy as np
import pytest
import torch
from extractors import Flatten
from numpy.typing import NDArray
from torchmetrics.image.kid import KernelInceptionDistance

from reflow.errors import ReflowError
from reflow.metrics.kernel import kernel_distance, squared_discrepancy

Floats = NDArray[np.float64]
BUFFERED = pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance. will save all")


def features(n: int, d: int, seed: int = 0, shift: float = 0.0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, d)) + shift


def torchmetrics_distance(a: Floats, b: Floats, subsets: int, size: int) -> tuple[float, float]:
    d = a.shape[1]
    metric = KernelInceptionDistance(Flatten(d), subsets=subsets, subset_size=size, normalize=True)
    metric.set_dtype(torch.float64)
    for values, real in ((a, True), (b, False)):
        metric.update(torch.from_numpy(values).reshape(-1, d, 1, 1), real=real)
    mean, spread = metric.compute()
    return float(mean), float(spread)


@BUFFERED
@pytest.mark.parametrize(("n", "d"), [(60, 4), (40, 100)])
def test_the_kernel_distance_is_the_one_of_torchmetrics(n: int, d: int) -> None:
    a, b = features(n, d), 1.3 * features(n, d, seed=1, shift=0.2)
    wanted, _ = torchmetrics_distance(a, b, 2, n)  # subsets of all samples: their order does not matter
    found = kernel_distance(a, b, subsets=2, size=n, rng=np.random.default_rng(0))
    assert found.mean == pytest.approx(wanted, rel=1e-5)
    assert found.spread == pytest.approx(0, abs=1e-12)  # rounding of sums in another order


@BUFFERED
def test_mean_and_spread_over_subsets_are_those_of_torchmetrics() -> None:
    a, b = features(90, 3), 1.3 * features(120, 3, seed=1)
    torch.manual_seed(0)
    wanted, spread = torchmetrics_distance(a, b, 500, 20)
    found = kernel_distance(a, b, subsets=500, size=20, rng=np.random.default_rng(0))
    # Means of 500 subsets, whose errors are independent; a standard deviation is known to 1 / sqrt(2 N).
    assert found.mean == pytest.approx(wanted, abs=4 * spread * math.sqrt(2 / 500))
    assert found.spread == pytest.approx(spread, rel=8 * math.sqrt(2 / 1000))  # tails heavier than normal


def test_the_discrepancy_is_the_definition_term_by_term() -> None:
    a, b = features(6, 3), features(4, 3, seed=1, shift=0.5)

    def kernel(x: Floats, y: Floats) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within_a = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    within_b = np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert squared_discrepancy(a, b) == pytest.approx(within_a + within_b - 2 * between, rel=1e-12)


def test_the_expectation_is_zero_for_one_law_at_any_size_and_known_for_a_shift() -> None:
    """In one dimension E k(x, y) over N(m, 1) and N(n, 1) is a polynomial in the moments."""
    draws = [(features(5, 1, 2 * k), features(7, 1, 2 * k + 1)) for k in range(2000)]
    same = [squared_discrepancy(a, b) for a, b in draws]
    assert abs(np.mean(same)) < 4 * np.std(same) / math.sqrt(len(same))

    def expected(m: float, n: float) -> float:
        moments = [1, lambda s: s, lambda s: s * s + 1, lambda s: s**3 + 3 * s]
        e = [[1.0, *(float(f(s)) for f in moments[1:])] for s in (m, n)]  # type: ignore[operator]
        return sum(math.comb(3, p) * e[0][p] * e[1][p] for p in range(4))

    shifted = [squared_discrepancy(a, b + 0.7) for a, b in draws]
    wanted = expected(0, 0) + expected(0.7, 0.7) - 2 * expected(0, 0.7)
    error = np.std(shifted) / math.sqrt(len(shifted))
    assert error < 0.1 * wanted  # the next line says something
    assert np.mean(shifted) == pytest.approx(wanted, abs=4 * error)


@pytest.mark.parametrize(("size", "subsets"), [(100, 30), (25, 30), (25, 5)])
def test_the_error_is_the_scatter_of_the_mean_over_sets_drawn_anew(size: int, subsets: int) -> None:
    n, found = 200, []
    for k in range(100):
        a, b = features(n, 2, 2 * k), features(n, 2, 2 * k + 1, shift=0.5)
        found.append(kernel_distance(a, b, subsets=subsets, size=size, rng=np.random.default_rng(k)))
    errors = [one.error for one in found if one.error is not None]
    assert len(errors) == 100
    # The deviation of 100 means is known to 7 %; it is the same up to terms of order 1 / size.
    rms = math.sqrt(np.mean(np.square(errors)))
    assert rms == pytest.approx(np.std([one.mean for one in found]), rel=0.25)


def test_subsets_are_limited_by_the_samples_and_one_seed_gives_one_distance() -> None:
    a, b = features(8, 2), features(30, 2, seed=1)

    def found(size: int) -> tuple[float, float, float | None]:
        return kernel_distance(a, b, subsets=5, size=size, rng=np.random.default_rng(3))

    assert found(1000) == found(8) == found(8)
    assert found(5)[2] is None  # of 8
    assert found(4)[2] is not None
    assert found(7) != found(8)
    with pytest.raises(ReflowError, match="two samples a side, not 1 and 30"):
        kernel_distance(a[:1], b, subsets=5, size=9, rng=np.random.default_rng(0))


def test_constant_features_have_a_finite_distance_known_from_the_kernel() -> None:
    a, b = np.zeros((5, 3)), np.full((6, 3), 2.0)  # k = 1, 125 and 1
    found = kernel_distance(a, b, subsets=3, size=5, rng=np.random.default_rng(0))
    assert found == (pytest.approx(1 + 125 - 2), 0, None)
