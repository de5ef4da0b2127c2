"""Kernel distance between two sets of feature vectors, in float64: unbiased, and small sets will do.

The squared maximum mean discrepancy under k(x, y) = (x.y / D + 1)^3, Binkowski et al. 2018
(arXiv:1801.01401), section 3.2: for sets of the same distribution its expectation is zero at any size, so
it may come out below. With the features of the Inception network it is KID.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reflow.errors import ReflowError

Features = NDArray[np.float64] | NDArray[np.float32]
Floats = NDArray[np.float64]


class KernelDistance(NamedTuple):
    """The mean over subsets, their standard deviation, and the standard error of the mean.

    error: None for subsets of more than half of the smaller set, which are too alike to tell it.
    """

    mean: float
    spread: float
    error: float | None


def kernel_distance(
    a: Features, b: Features, *, subsets: int, size: int, rng: np.random.Generator
) -> KernelDistance:
    """Return the distance of features (N, D) and (M, D), a mean over random subsets of each.

    size: samples of a subset a side, drawn without repetition; limited to the smaller set.

    The mean of m out of n samples has the variance s^2 (1 / m - 1 / n), and that of all n has s^2 / n: the
    share m / (n - m) of it. That there are no more than k subsets adds 1 / k.
    """
    count = min(len(a), len(b))
    size = min(size, count)
    if size < 2:
        raise ReflowError(f"a kernel distance needs two samples a side, not {len(a)} and {len(b)}")
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    found = [
        squared_discrepancy(
            left[rng.choice(len(left), size, replace=False)],
            right[rng.choice(len(right), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    mean, spread = float(np.mean(found)), float(np.std(found))
    share = size / (count - size) if 2 * size <= count else None
    return KernelDistance(mean, spread, None if share is None else spread * math.sqrt(share + 1 / subsets))


def squared_discrepancy(a: Floats, b: Floats) -> float:
    """Return the unbiased estimate of MMD^2 from (N, D) and (M, D); no sample meets itself."""
    n, m = len(a), len(b)
    return float(_without_itself(a) / (n * (n - 1)) + _without_itself(b) / (m * (m - 1))) - 2 * float(
        _kernel(a, b).mean()
    )


def _without_itself(a: Floats) -> float:
    """Return the sum of the kernel over pairs of different samples."""
    kernel = _kernel(a, a)
    return float(kernel.sum() - np.trace(kernel))


def _kernel(a: Floats, b: Floats) -> Floats:
    base = a @ b.T / a.shape[1] + 1
    cube: Floats = base * base * base
    return cube
