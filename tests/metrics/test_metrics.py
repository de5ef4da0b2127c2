"""Metrics agree with closed forms, SciPy and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from extractors import Flatten
from fields import gaussian, mixture, reflowed_gaussian
from numpy.typing import NDArray
from scipy import linalg
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from reflow.errors import ReflowError
from reflow.metrics.frechet import frechet_distance
from reflow.metrics.sliced import sliced_wasserstein
from reflow.metrics.trajectories import straightness

Floats = NDArray[np.float64]


def features(n: int, d: int, seed: int = 0) -> Floats:
    """Return correlated features of differing scales."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


def torchmetrics_distance(a: Floats, b: Floats) -> float:
    d = a.shape[1]
    metric = FrechetInceptionDistance(feature=Flatten(d), normalize=True, input_img_size=(d, 1, 1))
    metric.set_dtype(torch.float64)
    for values, real in ((a, True), (b, False)):
        metric.update(torch.from_numpy(values).reshape(-1, d, 1, 1), real=real)
    return float(metric.compute())


@pytest.mark.parametrize(("n", "m", "d"), [(500, 400, 6), (300, 300, 32), (40, 2000, 3), (600, 700, 128)])
def test_the_frechet_distance_is_the_one_of_torchmetrics(n: int, m: int, d: int) -> None:
    a, b = features(n, d), features(m, d, seed=1)
    # torchmetrics takes its covariances from sums of squares, which costs it some digits.
    assert frechet_distance(a, b) == pytest.approx(torchmetrics_distance(a, b), rel=1e-5)


def test_the_frechet_distance_is_the_formula_with_a_matrix_square_root() -> None:
    a, b = features(200, 16), features(150, 16, seed=1)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b).real
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    wanted = shift + np.trace(cov_a + cov_b - 2 * root)
    # Both are in float64; the condition of these covariances costs sqrtm about four digits.
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)


def test_the_frechet_distance_of_scaled_and_shifted_sets_is_known() -> None:
    a = features(100, 5)
    b = 3 * a + 2
    shift = ((2 * a.mean(0) + 2) ** 2).sum()
    wanted = shift + (3 - 1) ** 2 * np.trace(np.cov(a, rowvar=False))
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-12)  # rounding


def test_fewer_samples_than_features_have_the_right_distance() -> None:
    """Singular covariances that do not commute, in a plane where the formula is an ordinary one."""
    a, b = features(4, 2), features(5, 2, seed=1)
    basis = np.linalg.qr(np.random.default_rng(2).standard_normal((50, 2)))[0]  # isometry (50, 2)
    wanted = frechet_distance(a, b)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    # tr (A B)^(1/2) of 2 x 2 matrices is sqrt(tr A B + 2 sqrt(det A B)).
    product = cov_a @ cov_b
    overlap = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    assert wanted == pytest.approx(shift + np.trace(cov_a + cov_b) - 2 * overlap, rel=1e-12)
    # Rounding, which singular covariances must not amplify.
    assert frechet_distance(a @ basis.T, b @ basis.T) == pytest.approx(wanted, rel=1e-10)


def test_sets_that_vary_along_other_features_share_nothing() -> None:
    """C1 C2 = 0, fewer samples than features: the distance is |m1 - m2|^2 + tr C1 + tr C2."""
    a, b = np.zeros((6, 40)), np.zeros((9, 40))
    a[:, :20], b[:, 20:] = features(6, 20), features(9, 20, seed=1)
    variances = a.var(axis=0, ddof=1).sum() + b.var(axis=0, ddof=1).sum()
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + variances
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-12)  # rounding


def test_constant_features_add_their_shift_only() -> None:
    a, b = features(60, 4), features(70, 4, seed=1)
    wider_a = np.hstack([a, np.full((60, 3), 1.0)])
    wider_b = np.hstack([b, np.full((70, 3), 1.5)])
    wanted = frechet_distance(a, b) + 3 * 0.5**2
    assert frechet_distance(wider_a, wider_b) == pytest.approx(wanted, rel=1e-12)  # rounding


def test_two_constant_sets_are_as_far_apart_as_their_means() -> None:
    a, b = np.zeros((5, 3)), np.full((7, 3), 2.0)
    assert frechet_distance(a, b) == pytest.approx(12.0, rel=1e-14)


@pytest.mark.parametrize(("n", "d"), [(300, 8), (5, 64)])
def test_the_frechet_distance_of_a_set_from_itself_is_zero(n: int, d: int) -> None:
    a = features(n, d)
    scale = np.trace(np.cov(a, rowvar=False))
    assert abs(frechet_distance(a, a)) < 1e-12 * scale  # rounding of a difference of traces


def test_the_frechet_distance_is_symmetric_and_ignores_the_order_of_samples() -> None:
    a, b = features(30, 40), features(50, 40, seed=1)
    forth = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(forth, rel=1e-12)  # rounding
    assert frechet_distance(a[::-1], b) == pytest.approx(forth, rel=1e-12)


def test_float32_features_far_from_zero_keep_their_distance() -> None:
    a, b = features(200, 4), features(200, 4, seed=1)
    far_a, far_b = (a + 1000).astype(np.float32), (b + 1000).astype(np.float32)
    # The offset leaves features an absolute precision of 3e-5.
    assert frechet_distance(far_a, far_b) == pytest.approx(frechet_distance(a, b), rel=1e-3)


@pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 1), (0, 5)])
def test_a_single_sample_has_no_frechet_distance(n: int, m: int) -> None:
    with pytest.raises(ReflowError, match="two samples a side"):
        frechet_distance(np.zeros((n, 3)), np.zeros((m, 3)))


def exact_w2(a: Floats, b: Floats) -> float:
    """Return W2 by optimal assignment, every sample repeated up to the common multiple."""
    size = math.lcm(len(a), len(b))
    cost = (np.repeat(a, size // len(a))[:, None] - np.repeat(b, size // len(b))[None, :]) ** 2
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


@pytest.mark.parametrize(("n", "m"), [(50, 50), (40, 120), (120, 40), (1, 30)])
def test_in_one_dimension_sliced_wasserstein_is_the_optimal_assignment(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(n), 1.5 * rng.standard_normal(m) + 0.5
    found = sliced_wasserstein(a[:, None], b[:, None], projections=3, rng=rng)
    assert found == pytest.approx(exact_w2(a, b), rel=1e-12)  # rounding


def test_sizes_that_do_not_divide_each_other_come_close_to_the_optimal_assignment() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(60), 1.5 * rng.standard_normal(90) + 0.5
    found = sliced_wasserstein(a[:, None], b[:, None], projections=1, rng=rng)
    # Taken at 90 quantiles instead of 180; a quantile function of 90 steps is that coarse itself.
    assert found == pytest.approx(exact_w2(a, b), rel=1e-2)


def test_the_sliced_distance_of_a_shift_is_its_mean_projection() -> None:
    """W2 along a direction u of a set and its shift by m is |u m|, and E (u m)^2 = |m|^2 / D."""
    rng = np.random.default_rng(0)
    a, shift, projections = rng.standard_normal((20, 3)), np.array([1.0, -2.0, 0.5]), 20_000
    found = sliced_wasserstein(a, a + shift, projections=projections, rng=rng)
    wanted = np.linalg.norm(shift) / math.sqrt(3)
    # In three dimensions (u m)^2 has relative standard deviation sqrt(4 / 5); its root has half.
    assert found == pytest.approx(wanted, rel=4 * math.sqrt(0.8) / 2 / math.sqrt(projections))


def test_the_sliced_distance_of_two_gaussians_approaches_the_closed_form() -> None:
    """Along every direction N(0, I) and N(0, s^2 I) are |s - 1| apart."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20_000, 2)), 1.7 * rng.standard_normal((15_000, 2))
    found = sliced_wasserstein(a, b, projections=50, rng=rng)
    # Standard deviations of 20000 samples are known to 0.5 %, their difference to 0.012.
    assert found == pytest.approx(0.7, abs=4 * 0.012)


def test_the_sliced_distance_is_zero_for_equal_sets_and_symmetric() -> None:
    a, b = features(30, 4), features(70, 4, seed=1)

    def distance(left: Floats, right: Floats) -> float:
        return sliced_wasserstein(left, right, projections=20, rng=np.random.default_rng(3))

    assert distance(a, a[::-1]) < 1e-14  # products may be summed in another order
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-14)
    assert distance(a, np.repeat(a, 3, axis=0)) < 1e-14


def test_one_seed_gives_one_sliced_distance() -> None:
    a, b = features(30, 4), features(70, 4, seed=1)
    first, second = (
        sliced_wasserstein(a, b, projections=9, rng=np.random.default_rng(3)) for _ in range(2)
    )
    assert first == second


def draws(n: int, d: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("s", [0.2, 0.6, 1.0, 2.0])
def test_the_straightness_of_a_gaussian_flow_is_known(s: float) -> None:
    """It is s (2 - pi / 2) per dimension, whatever the mean, and proportional to x0^2."""
    mean = torch.tensor([0.7], dtype=torch.float64)
    field = gaussian(mean, torch.full((1,), s, dtype=torch.float64))
    x0 = draws(50, 1)
    x0 = x0 / x0.square().mean().sqrt()  # so that the average over these draws is the exact one
    found = straightness(field, x0, tolerance=1e-6)
    assert found.shape == (50,)
    # The midpoint rule of 64 nodes is off by h^2 / 24 times the rise of the integrand's slope.
    rule = (2 / s + 2 * s**3) / (24 * 64**2)
    assert float(found.mean()) == pytest.approx(s * (2 - math.pi / 2), abs=1.05 * rule)
    ratio = found / x0[:, 0].square()
    torch.testing.assert_close(ratio, ratio.mean().expand(50), rtol=1e-3, atol=0)


def test_the_straightness_of_random_draws_averages_over_dimensions() -> None:
    std = torch.tensor([0.4, 1.5], dtype=torch.float64)
    n = 4000
    found = straightness(gaussian(torch.zeros(2).double(), std), draws(n, 2), tolerance=1e-3)
    error = float(found.std()) / n**0.5
    assert error < 0.03 * float(found.mean())  # the next line says something
    assert abs(float(found.mean()) - float(std.mean()) * (2 - math.pi / 2)) < 4 * error


def test_a_reflowed_gaussian_is_straight() -> None:
    mean, std = torch.tensor([0.7, -1.0]).double(), torch.tensor([0.3, 2.0]).double()
    found = straightness(reflowed_gaussian(mean, std), draws(100, 2), tolerance=1e-3)
    assert float(found.max()) < 1e-24  # the square of the rounding of float64, with room


def test_a_bent_flow_is_not_straight_however_coarse_the_tolerance() -> None:
    """With one Euler step chord and velocity would agree for any field."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    field = mixture(torch.full((2,), 0.5).double(), means, torch.full((2,), 0.1).double())
    fine = straightness(field, draws(50, 2), tolerance=1e-5).mean()
    coarse = straightness(field, draws(50, 2), tolerance=1e-1).mean()
    assert float(fine) > 0.1
    assert float(coarse) == pytest.approx(float(fine), rel=0.1)  # a tolerance of 0.1 shows


def test_straightness_hands_the_label_of_each_trajectory_to_the_field() -> None:
    """Label 1 turns round with x = x0 + sin(2 pi t) / 2 pi, whose S is 1 / 2; label 0 stands still."""

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        return (label * torch.cos(2 * math.pi * t))[:, None].expand_as(x)

    label = torch.tensor([0, 1, 1, 0])
    found = straightness(field, draws(4, 3), tolerance=1e-6, label=label)
    # The midpoint rule is exact for a wave of the whole interval; the solver misses by 1e-6.
    torch.testing.assert_close(found, label / 2.0, rtol=0, atol=1e-5, check_dtype=False)
