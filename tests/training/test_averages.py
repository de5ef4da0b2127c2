"""Power-function averages: widths and exponents, tracking, and rebuilding one width from others."""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from torch import Generator, Tensor
from tracked import Tracked, follow, train

from reflow.errors import ReflowError
from reflow.training.averages import WIDTHS, Profile, coefficients, gamma_of, mismatch, update_power

STEPS = 1600
DOCS = Path(__file__).parents[2] / "docs"


def shares(profile: Profile, steps: int) -> NDArray[np.float64]:
    """Return what each step counts in an average: the integral of the profile over the step."""
    ends = np.minimum(np.arange(steps + 1) / profile.step, 1)
    return np.diff(ends ** (profile.gamma + 1))


def evenly(snapshots: int, steps: int) -> list[Profile]:
    ends = [steps * number // snapshots for number in range(1, snapshots + 1)]
    return [Profile(gamma_of(width), end) for end in ends for width in WIDTHS]


@pytest.mark.parametrize("width", [1e-4, 0.01, 0.05, 0.1, 0.2, 0.28, 0.2886])
def test_a_width_is_the_standard_deviation_of_its_profile(width: float) -> None:
    gamma = gamma_of(width)
    assert gamma > 0
    assert beta(gamma + 1, 1).std() == pytest.approx(
        width, rel=1e-9
    )  # density (gamma + 1) s^gamma on [0, 1]


def test_exponents_are_those_of_the_paper() -> None:
    assert [gamma_of(width) for width in WIDTHS] == pytest.approx([16.97, 6.94], abs=0.005)


@pytest.mark.parametrize("width", [0.0, -0.1, 12**-0.5, 0.5, math.inf, math.nan])
def test_widths_that_no_profile_has_are_refused(width: float) -> None:
    with pytest.raises(ReflowError, match=f"--width {width:g}: it lies between 0 .* and 0.2887"):
        gamma_of(width)


@pytest.mark.parametrize("gamma", [0.0, 0.7, 6.94, 300.0])
def test_a_tracked_average_is_the_sum_that_its_profile_says(gamma: float) -> None:
    steps = 60
    trajectory = torch.randn(steps, 5, generator=Generator().manual_seed(0), dtype=torch.float64)
    averages = [torch.full((2,), 7e7, dtype=torch.float64), torch.empty(3, dtype=torch.float64).fill_(-3)]
    for step in range(1, steps + 1):
        update_power(averages, trajectory[step - 1].split([2, 3]), step, gamma)
        weights = shares(Profile(gamma, step), step)
        assert weights.sum() == pytest.approx(1, rel=1e-14)
        wanted = torch.from_numpy(weights) @ trajectory[:step]
        torch.testing.assert_close(torch.cat(averages), wanted, rtol=1e-12, atol=1e-12)  # rounding


def test_the_first_step_copies_the_weights() -> None:
    average, weights = torch.full((4,), 1e30), torch.tensor([1.1, -2.0, 3e-20, 4.0], requires_grad=True)
    update_power([average], [weights], 1, 6.94)
    assert torch.equal(average, weights)
    assert not average.requires_grad  # it keeps no graph of the training run


def test_a_power_of_zero_is_the_plain_mean() -> None:
    average = [torch.zeros((), dtype=torch.float64)]
    for step in range(1, 11):
        update_power(average, [torch.tensor(float(step), dtype=torch.float64)], step, 0.0)
    assert float(average[0]) == pytest.approx(5.5, rel=1e-14)


@pytest.mark.parametrize("step", [STEPS, STEPS // 2, STEPS - 70])
@pytest.mark.parametrize("width", [0.02, 0.07, 0.15, 0.28])
def test_coefficients_are_the_least_squares_fit_of_the_profiles(width: float, step: int) -> None:
    """Compared with a fit to the shares of the single steps, the sum held at 1 by a heavy row."""
    stored, wanted = evenly(6, STEPS), Profile(gamma_of(width), step)
    profiles = np.stack([shares(profile, STEPS) for profile in stored], axis=1)
    aim, heavy = shares(wanted, STEPS), 1e4
    factors = coefficients(stored, wanted)
    best = np.linalg.lstsq(
        np.concatenate([profiles, heavy * np.ones((1, len(stored)))]), np.append(aim, heavy), rcond=None
    )[0]
    assert factors.sum() == pytest.approx(1, abs=1e-12)
    # Integrals over the steps stand for sums over them: a relative difference of order gamma / steps.
    np.testing.assert_allclose(profiles @ factors, profiles @ best, atol=0.02 * aim.max())
    distance = np.linalg.norm(profiles @ factors - aim) / np.linalg.norm(aim)
    assert mismatch(stored, wanted, factors) == pytest.approx(distance, rel=0.02)


@pytest.mark.parametrize("chosen", [0, 7, 19, 31])
def test_a_stored_average_is_made_of_itself_alone(chosen: int) -> None:
    stored = evenly(16, STEPS)
    factors = coefficients(stored, stored[chosen])
    assert factors.tolist() == [float(number == chosen) for number in range(len(stored))]
    assert mismatch(stored, stored[chosen], factors) < 1e-7  # the root of rounding
    beside = stored[chosen]._replace(gamma=stored[chosen].gamma * (1 + 1e-9))
    np.testing.assert_allclose(coefficients(stored, beside), factors, atol=1e-6)


@pytest.mark.parametrize("uneven", [False, True])
def test_many_snapshots_do_no_harm(uneven: bool) -> None:
    """Neighbours are nearly parallel (the matrix has a condition of 1e18): coefficients stay small."""
    steps = 1_000_000
    stored = evenly(300, steps)
    if uneven:
        extra = [*np.random.default_rng(0).integers(1, steps, 50).tolist(), steps - 1, steps - 2, 1, 2]
        stored += [Profile(gamma_of(width), step) for step in extra for width in WIDTHS]
        stored += stored[100:110]  # the same twice
    for width, most in ((0.02, 1e-3), (0.08, 1e-4), (0.2, 1e-3), (0.28, 0.05)):
        wanted = Profile(gamma_of(width), steps)
        factors = coefficients(stored, wanted)
        assert mismatch(stored, wanted, factors) < most
        assert factors.sum() == pytest.approx(1, abs=1e-10)
        # Snapshots are rounded to 6e-8 each: times 100 that is still nothing.
        assert np.abs(factors).sum() < 100


def test_the_mismatch_falls_fourfold_when_snapshots_double() -> None:
    found = []
    for snapshots in (16, 32, 64, 128):
        stored, wanted = evenly(snapshots, STEPS), Profile(gamma_of(0.08), STEPS)
        found.append(mismatch(stored, wanted, coefficients(stored, wanted)))
    ratios = [before / after for before, after in pairwise(found)]
    assert all(3.5 < ratio < 4.2 for ratio in ratios), ratios


def noise() -> Iterator[Tensor]:
    rng = Generator().manual_seed(0)
    return (torch.randn(400, generator=rng) for _ in range(STEPS))


def walk() -> Iterator[Tensor]:
    weights = torch.randn(400, generator=Generator().manual_seed(1))
    return (weights := weights + 0.05 * step for step in noise())


# How many evenly spaced snapshots bring the rebuilt average within 1 % of the tracked one. Weights that are
# noise from step to step are the worst case: their error is the mismatch of the profile.
NEEDED = {
    "noise": {0.03: 64, 0.08: 16, 0.15: 16, 0.2: 32},
    "walk": {0.03: 8, 0.08: 4, 0.15: 4, 0.2: 8, 0.25: 32},
    "training": {0.03: 4, 0.08: 4, 0.15: 4, 0.2: 4, 0.25: 8},
}


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tracked]:
    """Noise, a random walk and the training run of a small network, each with its averages."""
    training = Tracked(every=5)
    small = ("train.steps=320", "train.batch=32", "train.schedule='constant'", "model.width=16")
    settings = (word for change in (*small, "data.points=500") for word in ("--set", change))
    train(training, "gaussians", "--out", tmp_path_factory.mktemp("training") / "base", *settings)
    return {"noise": follow(noise(), 25), "walk": follow(walk(), 25), "training": training}


@pytest.mark.parametrize("kind", NEEDED)
def test_the_rebuilt_average_is_the_tracked_one_given_enough_snapshots(
    trajectories: dict[str, Tracked], kind: str
) -> None:
    tracked = trajectories[kind]
    for width, snapshots in NEEDED[kind].items():
        error, _ = tracked.error(width, snapshots)
        assert error < 1e-2, (width, error)
        if snapshots > 4:
            assert tracked.error(width, snapshots // 2)[0] > 1e-2, width
        assert tracked.error(width, 64)[0] <= error


def test_the_table_in_the_docs_is_what_is_seen(trajectories: dict[str, Tracked]) -> None:
    section = (DOCS / "math.md").read_text().partition("| snapshots |")[2]
    widths, _, *rows = [line.strip("| ").split(" | ") for line in section.partition("\n\n")[0].splitlines()]
    assert len(rows) == 4
    for snapshots, *cells in rows:
        for width, cell in zip(widths, cells, strict=True):
            profile, weights = (float(figure.strip(" %")) / 100 for figure in cell.split(","))
            error, estimate = trajectories["training"].error(float(width), int(snapshots))
            assert profile == pytest.approx(estimate, rel=0.05)  # two digits
            assert weights / 2 < error < 2 * weights, (width, snapshots)  # rounding moves a training run


def test_the_mismatch_is_the_error_of_noise_and_more_than_that_of_a_training(
    trajectories: dict[str, Tracked],
) -> None:
    for width in (0.03, 0.08, 0.15, 0.2, 0.25):
        for snapshots in (4, 16, 64):
            error, estimate = trajectories["noise"].error(width, snapshots)
            assert error == pytest.approx(estimate, rel=0.2)  # 400 draws, and sums are no integrals
            for kind in ("walk", "training"):
                error, _ = trajectories[kind].error(width, snapshots)
                assert error < estimate / 4, (kind, width, snapshots)
