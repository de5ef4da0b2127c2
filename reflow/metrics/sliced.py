"""Sliced Wasserstein distance between two sets of samples, in data units."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64] | NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shadows:
    """A set of samples, seen along directions (D, P): in each its projections in order, (N, P)."""

    directions: Floats
    ordered: Floats

    def cast(self, samples: Samples) -> Floats:
        """Return the projections (M, P) of other samples (M, D), in their order."""
        shadow: Floats = np.asarray(samples, np.float64) @ self.directions
        return shadow

    def distance(self, cast: Floats) -> float:
        """Return the distance of samples whose projections (M, P) these are."""
        count = max(len(cast), len(self.ordered))
        difference = _quantiles(np.sort(cast, axis=0), count) - _quantiles(self.ordered, count)
        return float(np.sqrt((difference**2).mean()))


def shadows(samples: Samples, *, projections: int, rng: np.random.Generator) -> Shadows:
    """Return samples (N, D) as seen along random directions."""
    directions = rng.standard_normal((samples.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    return Shadows(directions, np.sort(np.asarray(samples, np.float64) @ directions, axis=0))


def sliced_wasserstein(a: Samples, b: Samples, *, projections: int, rng: np.random.Generator) -> float:
    """Return the root of the mean squared W2 over random directions, for (N, D) and (M, D).

    In one dimension W2 compares quantile functions; sets of different sizes are compared at the
    quantiles of the larger. Rabin et al. 2011, "Wasserstein barycenter and its application to texture
    mixing".
    """
    seen = shadows(b, projections=projections, rng=rng)
    return seen.distance(seen.cast(a))


def _quantiles(ordered: Floats, count: int) -> Floats:
    """Return the empirical quantiles at the mid-points of `count` equal shares."""
    shares = (np.arange(count) + 0.5) / count
    return ordered[np.minimum((shares * len(ordered)).astype(np.int64), len(ordered) - 1)]
