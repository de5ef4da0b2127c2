"""Points, and what scikit-learn says of how they cover each other."""

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

Floats = NDArray[np.float64]


def points(n: int, d: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / math.sqrt(d) + 3


def covered_by_sklearn(samples: Floats, of: Floats) -> float:
    radii = NearestNeighbors(n_neighbors=3, algorithm="kd_tree").fit(of).kneighbors()[0][:, -1]
    search = NearestNeighbors(algorithm="kd_tree").fit(of)
    distances, neighbours = search.kneighbors(samples, n_neighbors=len(of))
    return float((distances <= radii[neighbours]).any(axis=1).mean())
