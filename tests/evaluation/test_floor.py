"""The floor: real data against real data, without what one draw of them has by chance."""

from typing import Any

import numpy as np
import pytest
import torch

from reflow.data import DataSet
from reflow.evaluation.floor import DRAWS, draws, floor, strata
from reflow.metrics.standard_errors import RowNumbers


def points(values: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] | None = None) -> DataSet:
    return DataSet(
        values.astype(np.float32)[:, None], labels, ("a", "b", "c") if labels is not None else ()
    )


def mean(samples: torch.Tensor, labels: RowNumbers | None) -> dict[str, Any]:
    assert labels is None
    return {"mean": float(samples.mean()), "noise": {"mean": float(samples.std()) / len(samples) ** 0.5}}


@pytest.mark.parametrize(
    ("available", "wanted", "number"), [(10, 10, 1), (11, 10, 2), (25, 10, 3), (90, 10, 4)]
)
def test_draws_use_no_sample_twice_before_all_are_used(available: int, wanted: int, number: int) -> None:
    found = draws([(np.arange(available), wanted)], np.random.default_rng(0))
    assert [len(set(rows)) for rows in found] == [wanted] * number
    assert all((np.diff(rows) > 0).all() for rows in found)
    used = np.bincount(np.concatenate(found), minlength=available)
    assert used.max() - used.min() <= 1


def test_draws_have_as_many_of_each_class_as_the_samples_that_models_draw() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    data = points(rng.normal(size=500), labels)
    asked = [0] * 30 + [2] * 60
    found = draws(strata(data, 100, asked), rng)
    assert len(found) == DRAWS
    for rows in found:
        np.testing.assert_array_equal(np.bincount(labels[rows]), [30, 0, 60])
    (free,) = strata(data, 100, None)
    np.testing.assert_array_equal(free[0], np.arange(500))


def test_classes_do_not_count_where_one_has_too_few() -> None:
    data = points(np.zeros(12), np.array([0] * 10 + [1] * 2))
    (group,) = strata(data, 8, [0] * 4 + [1] * 4)
    np.testing.assert_array_equal(group[0], np.arange(12))
    assert group[1] == 8


@pytest.mark.parametrize("available", [40, 60, 200, 1000])
def test_the_noise_of_a_floor_is_its_scatter_over_training_sets(available: int) -> None:
    """Of a mean, whose noise is known: 1 / sqrt(n) of n standard normal samples."""
    rng = np.random.default_rng(available)
    found = [floor(mean, points(rng.normal(size=available)), 40, None, rng) for _ in range(1500)]
    noise = np.sqrt(np.mean([one["noise"]["mean"] ** 2 for one in found]))
    assert np.std([one["mean"] for one in found]) == pytest.approx(noise, rel=0.06)  # 3 errors of 1,500
    assert found[0]["samples"] == 40
    assert found[0]["draws"] == min(DRAWS, -(-available // 40))


def test_figures_are_told_the_labels_of_draws_that_all_have_as_many_of_each() -> None:
    labels = np.arange(60) % 3
    told: list[RowNumbers | None] = []

    def measure(samples: torch.Tensor, classes: RowNumbers | None) -> dict[str, Any]:
        if classes is not None:
            np.testing.assert_array_equal(samples[:, 0].numpy().astype(int) % 3, classes)
        told.append(classes)
        return {"noise": {}}

    data = points(np.arange(60.0), labels)
    for wanted in ([0] * 4 + [1] * 6, [0] * 50):  # the training set has 20 of each class
        floor(measure, data, len(wanted), wanted, np.random.default_rng(0))
    with_labels = [classes for classes in told if classes is not None]
    assert len(with_labels) == DRAWS
    assert all(sorted(classes) == [0] * 4 + [1] * 6 for classes in with_labels)
    assert len(told) > DRAWS  # too few of a class: draws differ in theirs
