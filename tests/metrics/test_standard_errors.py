"""The noise of a figure is how it scatters over sets of samples that are drawn anew."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from reflow.metrics.frechet import frechet_distance, moments
from reflow.metrics.precision_recall import manifold
from reflow.metrics.standard_errors import HALVES, RowNumbers, half, with_noise


def test_the_noise_of_a_mean_is_its_standard_error() -> None:
    n, found = 400, []
    for seed in range(600):
        values = 3 * np.random.default_rng(seed).standard_normal(n) + 1

        def measure(rows: NDArray[np.int64], values: NDArray[np.float64] = values) -> dict[str, float]:
            return {"mean": float(values[rows].mean())}

        noisy = with_noise(n, measure, np.random.default_rng(0))
        assert noisy.values == {"mean": values.mean()}
        found.append(noisy.noise["mean"])
    rms = math.sqrt(np.mean(np.square(found)))
    # Each variance of HALVES values is known to sqrt(2 / (HALVES - 1)), their mean over 600 to 2 %.
    assert rms == pytest.approx(3 / math.sqrt(n), rel=4 * math.sqrt(2 / (HALVES - 1) / 600) / 2)


def test_the_noise_of_distances_and_coverage_is_their_scatter() -> None:
    real = np.random.default_rng(99).standard_normal((150, 3))
    truth, balls, n = moments(real), manifold(real), 150
    values: dict[str, list[float]] = {"frechet": [], "precision": []}
    noise: dict[str, list[float]] = {"frechet": [], "precision": []}
    for seed in range(40):
        samples = 1.5 * np.random.default_rng(seed).standard_normal((n, 3)) + 0.5

        def measure(rows: NDArray[np.int64], samples: NDArray[np.float64] = samples) -> dict[str, float]:
            return {
                "frechet": frechet_distance(samples[rows], truth),
                "precision": float(balls.covers(samples[rows]).mean()),
            }

        noisy = with_noise(n, measure, np.random.default_rng(seed))
        for name in values:
            values[name].append(noisy.values[name])
            noise[name].append(noisy.noise[name])
    for name, each in values.items():
        rms = math.sqrt(np.mean(np.square(noise[name])))
        assert rms == pytest.approx(np.std(each), rel=0.5), name  # a scatter of 40 is known to 11 %


def test_too_few_samples_tell_no_noise() -> None:
    noisy = with_noise(3, lambda rows: {"count": float(len(rows))}, np.random.default_rng(0))
    assert noisy == ({"count": 3.0}, {})


def test_four_samples_have_halves_of_two() -> None:
    sizes = []

    def measure(rows: NDArray[np.int64]) -> dict[str, float]:
        sizes.append(len(set(rows.tolist())))
        return {"least": float(rows.min())}

    noisy = with_noise(4, measure, np.random.default_rng(0))
    assert sizes == [4, *[2] * HALVES]
    assert noisy.noise["least"] > 0


@pytest.mark.parametrize("labels", [[0] * 10, [2, 0] * 20, [1] * 7 + [0] * 5 + [3] * 1, [0, 1, 2, 3, 4]])
def test_a_half_has_half_of_every_class(labels: list[int]) -> None:
    classes, rng = np.array(labels), np.random.default_rng(0)
    halves = [half(len(labels), rng, classes) for _ in range(200)]
    for rows in halves:
        assert len(set(rows.tolist())) == len(rows) == len(labels) // 2
        assert (np.diff(rows) > 0).all()
        counts = np.bincount(classes[rows], minlength=5)
        assert (abs(counts - np.bincount(classes, minlength=5) / 2) <= 1).all()
    assert set(np.concatenate(halves)) == set(range(len(labels)))


def test_the_noise_of_samples_with_labels_is_that_of_sets_with_the_same_labels() -> None:
    """Classes far apart: random halves would say ten times as much."""
    labels = np.arange(400) % 2
    noise, random, found = [], [], []
    for seed in range(300):
        values = np.random.default_rng(seed).standard_normal(400) + 20 * labels

        def measure(rows: RowNumbers, values: NDArray[np.float64] = values) -> dict[str, float]:
            return {"mean": float(values[rows].mean())}

        noisy = with_noise(400, measure, np.random.default_rng(seed), labels)
        found.append(noisy.values["mean"])
        noise.append(noisy.noise["mean"])
        random.append(with_noise(400, measure, np.random.default_rng(seed)).noise["mean"])
    rms, wrong = (math.sqrt(np.mean(np.square(each))) for each in (noise, random))
    assert rms == pytest.approx(np.std(found), rel=0.15)  # a scatter of 300 is known to 4 %, rms to 2 %
    assert wrong > 9 * rms
