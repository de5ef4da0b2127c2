"""What a log tells: means over steps and quarters of t, and how many steps were skipped."""

import math

import pytest
import torch
from torch import Tensor

from reflow.distributed import ALONE
from reflow.flow import Losses
from reflow.training.running_means import PATIENCE, RunningMeans

CPU = torch.device("cpu")
NAN = torch.tensor(math.nan)


def losses(each: list[float], t: list[float] | None = None) -> Losses:
    return Losses(torch.tensor(each), None if t is None else torch.tensor(t))


def norm(value: float = 1.0) -> Tensor:
    return torch.tensor(value)


def test_losses_are_told_by_quarter_of_t() -> None:
    means = RunningMeans(CPU)
    means.add(losses([1, 2, 3, 4], [0.0, 0.24, 0.25, 1.0]), norm(2))
    means.add(losses([5, 7, 9, 11], [0.1, 0.5, 0.6, 0.99]), norm(4))
    figures = means.read(ALONE)
    assert figures.loss == pytest.approx(42 / 8)
    assert figures.quarters == pytest.approx((8 / 3, 3, 8, 7.5))
    assert figures.gradient_norm == 3
    assert figures.skipped == 0


def test_an_objective_without_times_has_no_quarters() -> None:
    means = RunningMeans(CPU)
    means.add(losses([1, 3]), norm())
    assert means.read(ALONE).quarters is None


def test_quarters_without_examples_have_no_loss() -> None:
    means = RunningMeans(CPU)
    means.add(losses([1, 3], [0.1, 0.9]), norm())
    assert means.read(ALONE).quarters == (1, None, None, 3)


def test_reading_begins_anew() -> None:
    means = RunningMeans(CPU)
    means.add(losses([1, 3], [0.1, 0.9]), norm())
    means.read(ALONE)
    means.add(losses([5, 5], [0.1, 0.9]), norm())
    assert means.read(ALONE).loss == 5
    nothing = means.read(ALONE)
    assert (nothing.loss, nothing.quarters, nothing.gradient_norm) == (None, None, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_skipped_steps_are_counted_and_left_out_of_the_means(bad: float) -> None:
    means = RunningMeans(CPU)
    means.add(losses([1, 1], [0.1, 0.9]), norm(2))
    means.add(losses([bad, 1], [0.1, 0.9]), norm(bad))
    figures = means.read(ALONE)
    assert (figures.loss, figures.gradient_norm, figures.skipped) == (1, 2, 1)
    assert means.read(ALONE).skipped == 1  # since training began


def test_training_is_hopeless_after_several_bad_steps_in_a_row_and_not_before() -> None:
    means = RunningMeans(CPU)
    for _ in range(3):
        for _ in range(PATIENCE - 1):
            means.add(losses([1]), NAN)
        means.add(losses([1]), norm())
    assert means.read(ALONE).skipped == 3 * (PATIENCE - 1)
    assert not means.hopeless()
    for _ in range(PATIENCE):
        means.add(losses([1]), NAN)
    means.add(losses([1]), norm())
    assert means.hopeless()
