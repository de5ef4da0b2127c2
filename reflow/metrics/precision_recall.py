"""How two sets of samples cover each other: precision, recall, density, coverage, spread, neighbours.

Around every point of a set lies a ball that reaches to its k-th nearest neighbour in the set; together the
balls stand for the set's manifold. Precision is the share of generated samples inside the real manifold,
recall the share of real samples inside the generated one. Kynkaanniemi et al. 2019 (arXiv:1904.06991).
Density counts the real balls that a generated sample lies in, coverage the real balls that hold one, so
that balls around outliers, which are large, count no more than others. Naeem et al. 2020
(arXiv:2002.09797).

All depend on the number of samples, so sets of equal size are compared. Samples are (N, D), distances
Euclidean; no more than CHUNK of them are in memory at a time.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reflow.errors import ReflowError

Samples = NDArray[np.float64] | NDArray[np.float32]
Floats = NDArray[np.float64]

NEIGHBOURS = 3  # k of precision and recall
DENSITY_NEIGHBOURS = 5  # k of density and coverage
CHUNK = 1 << 23  # distances: 64 MiB
ROUNDING = 1e-13  # of a squared distance, relative to the largest square of a point


@dataclass(frozen=True)
class Manifold:
    """The balls around the points (N, D) of a set, which are kept relative to their centre (D,).

    reach: squared radii (N,), with room for rounding. neighbours: k, which the number of points limits.
    """

    points: Floats
    centre: Floats
    reach: Floats
    neighbours: int

    def __len__(self) -> int:
        return len(self.points)

    def covers(self, samples: Samples) -> NDArray[np.bool_]:
        """Return which of the samples (M, D) lie inside, (M,)."""
        return np.concatenate([inside.any(axis=1) for inside in self._inside(samples)])

    def density_coverage(self, samples: Samples) -> tuple[float, float]:
        """Return density and coverage of samples (M, D) against the points of this set."""
        balls, held = 0, np.zeros(len(self), np.bool_)
        for inside in self._inside(samples):
            balls += int(inside.sum())
            held |= inside.any(axis=0)
        return balls / (self.neighbours * len(samples)), float(held.mean())

    def _inside(self, samples: Samples) -> Iterator[NDArray[np.bool_]]:
        """Yield which samples lie in which balls (m, N), some samples at a time."""
        centred = np.asarray(samples, np.float64) - self.centre
        return (squares <= self.reach for squares in _squares(centred, self.points))


def manifold(samples: Samples, neighbours: int = NEIGHBOURS) -> Manifold:
    """Return the manifold of samples (N, D), at least two; the nearest of few samples count as k-th."""
    if len(samples) < 2:
        raise ReflowError(f"the neighbours of samples need two samples a side, not {len(samples)}")
    values = np.asarray(samples, np.float64)
    centre = values.mean(axis=0)
    points, rank = values - centre, min(neighbours, len(values) - 1)  # rank 0 is the point itself
    radii = [np.partition(squares, rank, axis=1)[:, rank] for squares in _squares(points, points)]
    reach = np.concatenate(radii) + ROUNDING * (points**2).sum(axis=1).max()
    return Manifold(points, centre, reach, rank)


def precision_recall(generated: Samples, real: Samples | Manifold) -> tuple[float, float]:
    """Return precision and recall of samples; `real` may be a manifold that was made before."""
    truth = real if isinstance(real, Manifold) else manifold(real)
    precision = truth.covers(generated).mean()
    recall = manifold(generated).covers(truth.points + truth.centre).mean()
    return float(precision), float(recall)


def density_coverage(generated: Samples, real: Samples | Manifold) -> tuple[float, float]:
    """Return density and coverage of samples; `real` may be a manifold that was made before."""
    truth = real if isinstance(real, Manifold) else manifold(real, DENSITY_NEIGHBOURS)
    return truth.density_coverage(generated)


def spread_ratio(generated: Samples, real: Samples) -> float:
    """Return the root of the ratio of total variances: 1 is as varied as the real samples; one has none."""
    if len(generated) < 2:
        return math.nan
    ours, theirs = (np.asarray(x, np.float64).var(axis=0, ddof=1).sum() for x in (generated, real))
    return float(np.sqrt(ours / max(theirs, np.finfo(np.float64).tiny)))


def nearest_distances(samples: Samples, references: Iterable[Samples]) -> Floats:
    """Return the RMS difference per dimension (N,) of each sample and its nearest reference.

    references: parts (M, D) of the set of references. The nearest is found in float32 and then measured in
    float64: where two are equally near to 1e-6 of the samples' variance, the other one may be taken.
    """
    own = np.asarray(samples, np.float32)
    centre = own.mean(axis=0)
    centred, least = own - centre, np.full(len(own), np.inf)
    for part in references:
        others = np.asarray(part, np.float32)
        shifted = others - centre
        height = (shifted**2).sum(axis=1) / 2
        step = max(1, CHUNK // len(others))
        for rows in (slice(first, first + step) for first in range(0, len(own), step)):
            # |a - b|^2 / 2 less what is the same for all b
            nearest = (height - centred[rows] @ shifted.T).argmin(axis=1)
            apart = (own[rows].astype(np.float64) - others[nearest]) ** 2
            least[rows] = np.minimum(least[rows], apart.mean(axis=1))
    root: Floats = np.sqrt(least)
    return root


def _squares(a: Floats, b: Floats) -> Iterator[Floats]:
    """Yield squared distances (n, M) of a (N, D) from b (M, D), some rows at a time."""
    square_b = (b**2).sum(axis=1)
    step = max(1, CHUNK // len(b))
    for rows in (a[first : first + step] for first in range(0, len(a), step)):
        yield np.maximum((rows**2).sum(axis=1)[:, None] + square_b - 2 * rows @ b.T, 0)
