"""Distances: what compares predicted and target velocity or image, per sample.

Each takes two tensors (B, *event) and returns (B,), averaged over the event so that the scale does
not depend on the image size.
"""

import torch
from torch import Tensor

from reflow.flow import Distance


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference."""
    return (a - b).square().flatten(1).mean(1)


def absolute(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference: ten errors of 0.1 count as much as one of 1."""
    return (a - b).abs().flatten(1).mean(1)


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """(sqrt(|a - b|^2 + c^2) - c) / d with c = 0.00054 d, in d dimensions: large errors count linearly.

    Lee et al. 2024 (arXiv:2405.20320); the constant is the one in their code.
    """
    difference = (a - b).flatten(1)
    d = difference.shape[1]
    c = 0.00054 * d
    return ((difference.square().sum(1) + c * c).sqrt() - c) / d


def added(*distances: Distance) -> Distance:
    """Return the sum of distances."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([one(a, b) for one in distances]).sum(0)

    return distance


DISTANCES: dict[str, Distance] = {
    "squared": squared,
    "absolute": absolute,
    "pseudo-huber": pseudo_huber,
}
