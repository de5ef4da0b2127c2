"""Coverage of one set by another agrees with brute force, scikit-learn and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neighbours import Floats, covered_by_sklearn, points
from sklearn.neighbors import NearestNeighbors

from reflow.errors import ReflowError
from reflow.metrics import precision_recall as module
from reflow.metrics.precision_recall import manifold, nearest_distances, precision_recall, spread_ratio


def covered_as_defined(samples: Floats, of: Floats, k: int) -> float:
    """Return the share of samples within the k-th neighbour's distance of any point, one by one."""
    count = 0
    radii = [sorted(math.dist(p, q) for j, q in enumerate(of) if j != i)[k - 1] for i, p in enumerate(of)]
    for sample in samples:
        count += any(math.dist(sample, p) <= radius for p, radius in zip(of, radii, strict=True))
    return count / len(samples)


@pytest.mark.parametrize("chunk", [1 << 23, 130])  # at once, and some rows at a time
@pytest.mark.parametrize(("n", "m", "d"), [(60, 60, 2), (40, 55, 5)])
def test_precision_and_recall_are_those_of_the_definition(
    monkeypatch: pytest.MonkeyPatch, n: int, m: int, d: int, chunk: int
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    generated, real = points(n, d), points(m, d, seed=1)
    found = precision_recall(generated, real)
    assert found == (covered_as_defined(generated, real, 3), covered_as_defined(real, generated, 3))
    assert 0 < found[0] < 1
    assert 0 < found[1] < 1


@pytest.mark.parametrize(("d", "shift"), [(2, 0.5), (20, 0.5), (3, 1e4)])
def test_precision_and_recall_are_those_of_scikit_learns_neighbours(d: int, shift: float) -> None:
    generated, real = points(700, d) + shift, 0.7 * points(700, d, seed=1) + shift
    wanted = covered_by_sklearn(generated, real), covered_by_sklearn(real, generated)
    assert precision_recall(generated, real) == wanted
    assert precision_recall(generated, manifold(real)) == wanted


def test_a_set_covers_itself_and_nothing_far_away() -> None:
    a = points(50, 4)
    assert precision_recall(a, a[::-1]) == (1, 1)
    assert precision_recall(a, a + 100) == (0, 0)
    copies = manifold(np.repeat(points(50, 300), 4, axis=0))  # the third neighbour is at no distance
    assert all(copies.covers(point[None])[0] for point in points(50, 300))  # rounded in another way


def test_a_set_that_collapsed_to_a_point_is_precise_and_recalls_nothing() -> None:
    real = points(50, 4)
    between = np.broadcast_to(real[:2].mean(axis=0), real.shape) + 1e-3  # of none of them
    precision, recall = precision_recall(between, real)
    assert recall == 0
    assert precision == covered_as_defined(between[:1], real, 3)
    assert precision_recall(np.broadcast_to(real[0], real.shape), real)[0] == 1


def test_a_lost_half_costs_half_of_the_recall_and_no_precision() -> None:
    left, right = points(100, 3), points(100, 3, seed=1) + 50
    precision, recall = precision_recall(np.concatenate([left, left]), np.concatenate([left, right]))
    assert (precision, recall) == (1, 0.5)


def test_float32_and_float64_agree() -> None:
    a, b = points(300, 30).astype(np.float32), points(300, 30, seed=1).astype(np.float32)
    assert precision_recall(a, b) == precision_recall(a.astype(np.float64), b.astype(np.float64))


def test_few_samples_have_fewer_neighbours_and_one_has_none() -> None:
    assert precision_recall(np.array([[0.0], [1.0]]), np.array([[0.5], [9.0]])) == (1, 0.5)
    with pytest.raises(ReflowError, match="two samples a side, not 1"):
        manifold(np.zeros((1, 3)))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_spread_of_a_scaled_set_is_the_scale(scale: float) -> None:
    a = points(40, 6)
    turned = scale * a @ np.linalg.qr(points(6, 6))[0] - 7
    assert spread_ratio(turned, a) == pytest.approx(scale, rel=1e-12)  # rounding


def test_the_spread_of_sets_of_any_sizes_is_the_root_of_their_total_variances() -> None:
    a, b = points(40, 6), points(70, 6, seed=1)
    wanted = math.sqrt(np.trace(np.cov(a, rowvar=False)) / np.trace(np.cov(b, rowvar=False)))
    assert spread_ratio(a, b) == pytest.approx(wanted, rel=1e-12)  # rounding
    assert spread_ratio(np.zeros((5, 6)), b) == 0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.sampled_from([7, 100, 1 << 23]))
def test_nearest_distances_are_those_of_brute_force(n: int, m: int, part: int, chunk: int) -> None:
    samples, references = points(n, 5).astype(np.float32), points(m, 5, seed=1).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = nearest_distances(samples, [references[i : i + part] for i in range(0, m, part)])
    pairs = samples[:, None].astype(np.float64) - references[None]
    wanted = (pairs**2).mean(axis=2).min(axis=1)
    # The nearest one is found in float32: another one that is nearly as near may be taken.
    assert (found**2 >= wanted * (1 - 1e-12)).all()
    assert (found**2 <= wanted + 1e-6 * (samples - samples.mean(0)).var() + 1e-6 * 3**2).all()


def test_nearest_distances_are_those_of_scikit_learn() -> None:
    samples, references = points(300, 60).astype(np.float32), points(900, 60, seed=1).astype(np.float32)
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(references.astype(np.float64))
    wanted = search.kneighbors(samples.astype(np.float64))[0][:, 0] / math.sqrt(60)
    found = nearest_distances(samples, np.array_split(references, 7))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)  # as above


def test_a_copy_is_at_no_distance() -> None:
    references = points(500, 64).astype(np.float32)
    found = nearest_distances(references[[3, 77]], np.array_split(references, 4))
    assert found.tolist() == [0, 0]
    one_level = references[[3]] + np.float32(0.25)
    assert nearest_distances(one_level, [references]) == pytest.approx([0.25], rel=1e-6)  # of float32
