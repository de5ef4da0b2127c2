"""Frechet distance between two sets of feature vectors, in float64.

Both sets are taken as Gaussian: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). Heusel et al. 2017
(arXiv:1706.08500). It carries the name of its features; it is FID only with the Inception network.
"""

import numpy as np
from numpy.typing import NDArray

from reflow.errors import ReflowError

Features = NDArray[np.float64] | NDArray[np.float32]


def frechet_distance(a: Features, b: Features) -> float:
    """Return the distance of features (N, D) and (M, D), each of at least two samples.

    tr (C1 C2)^(1/2) is the sum of the singular values of C1^(1/2) C2^(1/2), which stays exact for
    singular covariances: fewer samples than features, or constant features.
    """
    if len(a) < 2 or len(b) < 2:
        raise ReflowError(f"a Frechet distance needs two samples a side, not {len(a)} and {len(b)}")
    mean_a, root_a, trace_a = _moments(a)
    mean_b, root_b, trace_b = _moments(b)
    overlap = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(((mean_a - mean_b) ** 2).sum() + trace_a + trace_b - 2 * overlap)


def _moments(features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return mean (D,), a root R (min(N, D), D) with R^T R the unbiased covariance, and its trace."""
    values = np.asarray(features, np.float64)
    mean = values.mean(axis=0)
    centred = (values - mean) / np.sqrt(len(values) - 1)
    root: NDArray[np.float64] = np.linalg.qr(centred, mode="r")  # type: ignore[assignment]
    return mean, root, float((centred**2).sum())
