"""Density and coverage agree with brute force, scikit-learn's neighbours and their expectations."""

import math

import numpy as np
import pytest
from neighbours import points
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from reflow.errors import ReflowError
from reflow.metrics import precision_recall as module
from reflow.metrics.precision_recall import DENSITY_NEIGHBOURS, density_coverage, manifold

Floats = NDArray[np.float64]


def as_defined(generated: Floats, real: Floats, k: int) -> tuple[float, float]:
    """Return density and coverage by the definition, a pair of samples at a time."""
    balls, covered = 0, 0
    for i, p in enumerate(real):
        radius = sorted(math.dist(p, q) for j, q in enumerate(real) if j != i)[k - 1]
        inside = sum(math.dist(p, sample) <= radius for sample in generated)
        balls += inside
        covered += inside > 0
    return balls / (k * len(generated)), covered / len(real)


@pytest.mark.parametrize("chunk", [1 << 23, 130])  # at once, and some rows at a time
@pytest.mark.parametrize(("n", "m", "d"), [(60, 60, 2), (40, 55, 5)])
def test_density_and_coverage_are_those_of_the_definition(
    monkeypatch: pytest.MonkeyPatch, n: int, m: int, d: int, chunk: int
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    generated, real = points(n, d), points(m, d, seed=1)
    found = density_coverage(generated, real)
    assert found == pytest.approx(as_defined(generated, real, DENSITY_NEIGHBOURS), rel=1e-14)
    assert 0 < found[0] < 1.5
    assert 0 < found[1] < 1


@pytest.mark.parametrize(("d", "shift"), [(2, 0.5), (20, 0.5), (3, 1e4)])
def test_density_and_coverage_are_those_of_scikit_learns_neighbours(d: int, shift: float) -> None:
    generated, real = points(400, d) + shift, 0.7 * points(500, d, seed=1) + shift
    tree = NearestNeighbors(n_neighbors=DENSITY_NEIGHBOURS, algorithm="kd_tree").fit(real)
    radii = tree.kneighbors()[0][:, -1]
    distances, neighbours = tree.kneighbors(generated, n_neighbors=len(real))
    inside = distances <= radii[neighbours]
    wanted = (
        inside.sum() / (DENSITY_NEIGHBOURS * len(generated)),
        len(np.unique(neighbours[inside])) / len(real),
    )
    assert density_coverage(generated, real) == pytest.approx(wanted, rel=1e-14)
    assert density_coverage(generated, manifold(real, DENSITY_NEIGHBOURS)) == pytest.approx(
        wanted, rel=1e-14
    )


def test_samples_of_the_same_law_have_the_expected_density_and_coverage() -> None:
    """Density 1; coverage 1 - C(2 n - 1 - k, n) / C(2 n - 1, n): all orders of distances are alike."""
    n, density, coverage = 100, [], []
    for seed in range(100):
        found = density_coverage(points(n, 4, seed=2 * seed)[:, :1], points(n, 4, seed=2 * seed)[:, :1])
        assert found[1] == 1  # a set covers itself
        rng = np.random.default_rng(seed)
        found = density_coverage(rng.standard_normal((n, 3)), rng.standard_normal((n, 3)))
        density.append(found[0])
        coverage.append(found[1])
    error = np.std([density, coverage], axis=1) / 10
    assert np.mean(density) == pytest.approx(1, abs=4 * error[0])
    none = math.comb(2 * n - 1 - DENSITY_NEIGHBOURS, n) / math.comb(2 * n - 1, n)
    assert np.mean(coverage) == pytest.approx(1 - none, abs=4 * error[1])
    assert error[0] < 0.02
    assert error[1] < 0.003


def test_an_outlier_of_the_real_set_hardly_adds_to_the_density_and_samples_far_away_have_none() -> None:
    real = np.vstack([points(80, 2), [[1e3, 0.0]]])  # whose ball holds everything
    far = np.tile([500.0, 0.0], (80, 1)) + points(80, 2, seed=1)
    assert module.precision_recall(far, real)[0] == 1
    density, coverage = density_coverage(far, real)
    assert density == pytest.approx(1 / DENSITY_NEIGHBOURS)
    assert coverage == 1 / 81
    assert density_coverage(points(50, 4) + 100, points(50, 4)) == (0, 0)


def test_a_lost_half_costs_half_of_the_coverage_and_no_density() -> None:
    left, right = points(100, 3), points(100, 3, seed=1) + 50
    whole = density_coverage(np.concatenate([left, right]), np.concatenate([left, right]))
    half = density_coverage(np.concatenate([left, left]), np.concatenate([left, right]))
    assert whole[1] == 1
    assert half[1] == 0.5
    assert half[0] == pytest.approx(whole[0], rel=0.1)


def test_few_samples_have_fewer_neighbours_and_one_has_none() -> None:
    assert density_coverage(np.array([[0.2]]), np.array([[0.0], [1.0]])) == (2, 1)
    with pytest.raises(ReflowError, match="two samples a side, not 1"):
        density_coverage(points(5, 2), points(1, 2))
