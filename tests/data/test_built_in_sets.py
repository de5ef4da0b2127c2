"""Data in memory and the built-in sets."""

from pathlib import Path

import numpy as np
import pytest
from files import load

from reflow.data import DataSet, open_data, split
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings


def test_take_spans_minus_one_to_one(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
    np.savez(tmp_path / "a.npz", images=levels)
    values, labels = load(tmp_path / "a.npz").take(np.arange(2))
    assert labels is None
    expected = np.linspace(-1, 1, 256).reshape(2, 1, 8, 16)
    np.testing.assert_allclose(values.numpy(), expected, atol=2e-7)  # float32 rounding
    assert (values.min().item(), values.max().item()) == (-1, 1)


def test_split_is_disjoint_complete_and_deterministic() -> None:
    values = np.arange(103, dtype=np.float32)[:, None]
    data = DataSet(values, np.arange(103), tuple(map(str, range(103))))
    train, held_out = split(data, 0.2, seed=1)
    assert (len(train), len(held_out)) == (82, 21)
    for part in (train, held_out):
        np.testing.assert_array_equal(part.values[:, 0], part.labels)
        assert part.class_names == data.class_names
    together = np.concatenate([train.values, held_out.values])
    np.testing.assert_array_equal(np.sort(together, axis=0), values)
    assert split(data, 0.2, seed=1)[1].digest() == held_out.digest()
    assert split(data, 0.2, seed=2)[1].digest() != held_out.digest()


def test_split_refuses_an_empty_side() -> None:
    with pytest.raises(ReflowError, match=r"data\.held_out"):
        split(DataSet(np.zeros((2, 1), np.float32)), 0.1, seed=0)


# Built-in sets

HALF_MOON = 0.64 * (0.5 - 1 / np.pi + 0.25**2)

# Covariances per set: of x, of y, between both; all means are zero.
MOMENTS = {
    "eight-gaussians": (8, 0.5 + 0.1**2, 0.5 + 0.1**2, 0.0),
    "two-moons": (2, 0.64 * 0.75 + 0.05**2, HALF_MOON + 0.05**2, 0.64 * (1 / 8 - 1 / np.pi)),
    "checkerboard": (8, 1 / 3, 1 / 3, 1 / 16),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_toys_have_the_moments_of_their_closed_forms(name: str) -> None:
    count = 100_000
    data = load(name, points=count)
    classes, *moments = MOMENTS[name]
    assert data.event == (2,)
    assert data.values.dtype == np.float32
    x, y = data.values.astype(float).T
    products = np.stack([x, y, x * x, y * y, x * y])
    error = products.mean(axis=1) - [0, 0, *moments]
    assert (abs(error) < 5 * products.std(axis=1) / count**0.5).all()  # five standard errors
    shares = np.bincount(data.labels, minlength=classes) / count
    assert len(shares) == len(data.class_names) == classes
    assert abs(shares - 1 / classes).max() < 5 * (1 / classes / count) ** 0.5  # likewise


def test_toys_follow_the_seed() -> None:
    settings = DataSettings(source="two-moons", points=50)
    digest = open_data(settings, seed=3).digest()
    assert open_data(settings, seed=3).digest() == digest
    assert open_data(settings, seed=4).digest() != digest


def test_the_checkerboard_fills_dark_squares_only() -> None:
    values = load("checkerboard").values
    assert abs(values).max() <= 1
    assert not (np.floor((values + 1) * 2).sum(axis=1) % 2).any()


def test_labels_of_the_circle_name_the_nearest_gaussian() -> None:
    data = load("eight-gaussians")
    angle = np.arctan2(data.values[:, 1], data.values[:, 0])
    # neighbours are 7.6 standard deviations apart: hardly one in ten thousand is beyond half of it
    assert (np.rint(angle * 4 / np.pi) % 8 == data.labels).mean() > 0.999


def test_digits_are_real_images_with_ten_labels() -> None:
    data = load("digits")
    assert (len(data), data.event, data.values.dtype) == (1797, (1, 8, 8), np.uint8)
    assert data.class_names == tuple("0123456789")
    assert data.labels is not None and set(data.labels) == set(range(10))
    levels = np.unique(data.values)
    np.testing.assert_array_equal(levels, np.rint(np.arange(17) * 255 / 16))
    assert load("digits").digest() == data.digest()


def test_digits_follow_size_and_mode() -> None:
    assert load("digits", size=16, mode="rgb").event == (3, 16, 16)
