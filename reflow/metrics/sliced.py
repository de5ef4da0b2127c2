"""Sliced Wasserstein distance between two sets of samples, in data units."""

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64] | NDArray[np.float32]


def sliced_wasserstein(a: Samples, b: Samples, *, projections: int, rng: np.random.Generator) -> float:
    """Return the root of the mean squared W2 over random directions, for (N, D) and (M, D).

    In one dimension W2 compares quantile functions; sets of different sizes are compared at the
    quantiles of the larger. Rabin et al. 2011, "Wasserstein barycenter and its application to texture
    mixing".
    """
    directions = rng.standard_normal((a.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    shadow_a = np.sort(np.asarray(a, np.float64) @ directions, axis=0)
    shadow_b = np.sort(np.asarray(b, np.float64) @ directions, axis=0)
    count = max(len(a), len(b))
    difference = _quantiles(shadow_a, count) - _quantiles(shadow_b, count)
    return float(np.sqrt((difference**2).mean()))


def _quantiles(ordered: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the empirical quantiles at the mid-points of `count` equal shares."""
    shares = (np.arange(count) + 0.5) / count
    return ordered[np.minimum((shares * len(ordered)).astype(np.int64), len(ordered) - 1)]
