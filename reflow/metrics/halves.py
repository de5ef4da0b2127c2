"""How far a figure of samples moves by chance: the noise that their number leaves in it.

Random halves, drawn without repetition, differ as whole sets of samples would: the variance of a mean of
n / 2 out of n is s^2 / n, that of the mean of all n. What is held fixed adds nothing: held-out data, and
the classes of samples that are drawn with labels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HALVES = 8  # standard errors are known to a quarter

Rows = NDArray[np.int64]
Measure = Callable[[Rows], dict[str, float]]  # of rows of the samples


class Noisy(NamedTuple):
    """Figures of all samples by name, and their standard errors."""

    values: dict[str, float]
    noise: dict[str, float]


def with_noise(count: int, measure: Measure, rng: np.random.Generator, labels: Rows | None = None) -> Noisy:
    """Return what is measured on all of `count` samples, with its noise; fewer than 4 do not tell any.

    labels: (count,), where every set of samples has as many of each class.
    """
    values = measure(np.arange(count))
    if count < 4:
        return Noisy(values, {})
    halves = [measure(half(count, rng, labels)) for _ in range(HALVES)]
    noise = {name: float(np.std([one[name] for one in halves], ddof=1)) for name in values}
    return Noisy(values, noise)


def half(count: int, rng: np.random.Generator, labels: Rows | None = None) -> Rows:
    """Return half of the rows at random, in order.

    labels: (count,); half of each class then, to within one. Classes should have several samples: what
    an odd one adds is left to chance.
    """
    rows = rng.permutation(count)
    if labels is None:
        return np.sort(rows[: count // 2])
    rows = rows[: count - count % 2]  # else the last class would lose the odd one
    by_class = rows[np.argsort(labels[rows], kind="stable")]
    return np.sort(by_class[rng.integers(2) :: 2])
