"""Transport cost of a coupling, E|x1 - x0|^2 per dimension, between those that bound it.

Reflow never raises it; an independent coupling, with which training begins, has the cost of joining all
noise with all data, and no coupling of the same ends costs less than the optimal one.
"""

import torch

from reflow.distances import squared
from reflow.flow import Pair
from reflow.transport import assignment


def coupling_cost(pair: Pair) -> float:
    """Return the mean over the pairs."""
    return float(squared(pair.x1.double(), pair.x0.double()).mean())


def independent_cost(pair: Pair) -> float:
    """Return the mean over all pairs of the noise of one and the data of another, of two pairs or more."""
    x0, x1 = (end.flatten(1).double() for end in (pair.x0, pair.x1))
    n, d = x0.shape
    others = (x0.sum(0) @ x1.sum(0) - (x0 * x1).sum()) / (n - 1)  # of x0 . x1, for each of them
    return float((x0.square().sum() + x1.square().sum() - 2 * others) / (n * d))


def optimal_cost(pair: Pair) -> float:
    """Return the least cost of joining these ends one to one, those of a label among themselves."""
    noise = torch.from_numpy(assignment(pair)).to(pair.x0.device)
    return coupling_cost(pair._replace(x0=pair.x0[noise]))
