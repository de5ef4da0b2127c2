"""Frechet distance between two sets of feature vectors, in float64.

Both sets are taken as Gaussian: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). Heusel et al. 2017
(arXiv:1706.08500). It carries the name of its features; it is FID only with the Inception network.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reflow.errors import ReflowError

Features = NDArray[np.float64] | NDArray[np.float32]


class Moments(NamedTuple):
    """Mean (D,), a root R (min(N, D), D) with R^T R the unbiased covariance, and its trace."""

    mean: NDArray[np.float64]
    root: NDArray[np.float64]
    trace: float


def frechet_distance(a: Features, b: Features | Moments) -> float:
    """Return the distance of features (N, D) and (M, D), each of at least two samples.

    tr (C1 C2)^(1/2) is the sum of the singular values of C1^(1/2) C2^(1/2), which stays exact for
    singular covariances: fewer samples than features, or constant features. `b` may be moments that were
    taken before.
    """
    ours, theirs = moments(a), b if isinstance(b, Moments) else moments(b)
    overlap = np.linalg.svd(ours.root @ theirs.root.T, compute_uv=False).sum()
    shift = ((ours.mean - theirs.mean) ** 2).sum()
    return float(shift + ours.trace + theirs.trace - 2 * overlap)


def moments(features: Features) -> Moments:
    """Return the moments of features (N, D), at least two."""
    if len(features) < 2:
        raise ReflowError(f"a Frechet distance needs two samples a side, not {len(features)}")
    values = np.asarray(features, np.float64)
    mean = values.mean(axis=0)
    centred = (values - mean) / np.sqrt(len(values) - 1)
    root: NDArray[np.float64] = np.linalg.qr(centred, mode="r")  # type: ignore[assignment]
    return Moments(mean, root, float((centred**2).sum()))
