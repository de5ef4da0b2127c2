"""Standard errors: of a figure of a set of samples, by random halves of it, and of a mean over samples.

Random halves, drawn without repetition, differ as whole sets of samples would: the variance of a mean of
n / 2 out of n is s^2 / n, that of the mean of all n. What is held fixed adds nothing: held-out data, and
the classes of samples that are drawn with labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

HALVES = 8  # standard errors are known to a quarter

RowNumbers = NDArray[np.int64]
Measure = Callable[[RowNumbers], dict[str, float]]  # of rows of the samples


class WithNoise(NamedTuple):
    """Figures of all samples by name, and their standard errors."""

    values: dict[str, float]
    noise: dict[str, float]


def with_noise(
    count: int, measure: Measure, rng: np.random.Generator, labels: RowNumbers | None = None
) -> WithNoise:
    """Return what is measured on all of `count` samples, with its noise; fewer than 4 do not tell any.

    labels: (count,), where every set of samples has as many of each class.
    """
    values = measure(np.arange(count))
    if count < 4:
        return WithNoise(values, {})
    halves = [measure(half(count, rng, labels)) for _ in range(HALVES)]
    noise = {name: float(np.std([one[name] for one in halves], ddof=1)) for name in values}
    return WithNoise(values, noise)


def half(count: int, rng: np.random.Generator, labels: RowNumbers | None = None) -> RowNumbers:
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


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, of other samples and all else that differs between them.

    probe_error: the part of it that other probes would make, where there are several.
    """

    mean: float
    error: float | None
    probe_error: float | None = None


def estimate(values: Tensor) -> Estimate:
    """Return the mean of values (N, K), a row per sample and a column per probe, or (N,).

    One sample has no error that could be told.
    """
    table = values.double().reshape(len(values), -1)
    each, (n, k) = table.mean(1), table.shape
    error = float(each.std() / n**0.5) if n > 1 else None
    noise = float((table.var(1).sum() / k).sqrt() / n) if k > 1 else None
    return Estimate(float(each.mean()), error, noise)
