"""Sets of points in the plane, (N, 2) float32, with a label per mode; most lie within [-1.2, 1.2]."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from reflow.data.dataset import DataSet

Sampler = Callable[[int, Generator], tuple[NDArray[np.float64], NDArray[np.int64]]]

RADIUS, SPREAD = 1.0, 0.1  # of the circle of Gaussians; standard deviation of each


def eight_gaussians(n: int, rng: Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Eight equal Gaussians on a circle."""
    label = rng.integers(8, size=n)
    angle = label * (np.pi / 4)
    centre = RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centre + SPREAD * rng.standard_normal((n, 2)), label


def two_moons(n: int, rng: Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two half circles that reach into each other, with noise."""
    label = rng.integers(2, size=n)
    angle = np.pi * rng.random(n)
    side = 1 - 2 * label
    x = np.cos(angle) * side + label - 0.5
    y = np.sin(angle) * side + 0.5 * label - 0.25
    points = np.stack([x, y], axis=1) * 0.8
    return points + 0.05 * rng.standard_normal((n, 2)), label


def checkerboard(n: int, rng: Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The eight dark squares of a 4 x 4 board over [-1, 1]^2."""
    label = rng.integers(8, size=n)
    row, column = label // 2, 2 * (label % 2) + (label // 2) % 2
    corner = np.stack([column, row], axis=1) / 2 - 1
    return corner + 0.5 * rng.random((n, 2)), label


TOYS: dict[str, Sampler] = {
    "eight-gaussians": eight_gaussians,
    "two-moons": two_moons,
    "checkerboard": checkerboard,
}


CLASSES: dict[Sampler, int] = {eight_gaussians: 8, two_moons: 2, checkerboard: 8}


def toy(draw: Sampler, n: int, seed: int) -> DataSet:
    """Return n points of a set."""
    points, label = draw(n, np.random.Generator(np.random.Philox(seed)))
    names = tuple(str(number) for number in range(CLASSES[draw]))
    return DataSet(points.astype(np.float32), label.astype(np.int64), names)
