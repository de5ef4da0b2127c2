"""How far a figure of samples moves by chance: the noise that their number leaves in it.

Random halves, drawn without repetition, differ as whole sets of samples would: the variance of a mean of
n / 2 out of n is s^2 / n, that of the mean of all n. What is held fixed (held-out data) adds nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HALVES = 8  # standard errors are known to a quarter

Measure = Callable[[NDArray[np.int64]], dict[str, float]]  # of rows of the samples


class Noisy(NamedTuple):
    """Figures of all samples by name, and their standard errors."""

    values: dict[str, float]
    noise: dict[str, float]


def with_noise(count: int, measure: Measure, rng: np.random.Generator) -> Noisy:
    """Return what is measured on all of `count` samples, with its noise; fewer than 4 do not tell any."""
    values = measure(np.arange(count))
    if count < 4:
        return Noisy(values, {})
    halves = [measure(np.sort(rng.permutation(count)[: count // 2])) for _ in range(HALVES)]
    noise = {name: float(np.std([half[name] for half in halves], ddof=1)) for name in values}
    return Noisy(values, noise)
