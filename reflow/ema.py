"""Exponential moving average of the weights, by half-life.

The half-life ramps up with the steps done, so that early averages forget the initial weights
(the rule of Karras et al. 2022, arXiv:2206.00364, there counted in images).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

RAMP = 0.05  # the half-life is at most this share of the steps done


@torch.no_grad()
def update(average: Iterable[Tensor], weights: Iterable[Tensor], step: int, halflife: float) -> None:
    """Move the average towards the weights after optimiser step number `step` (from 1)."""
    effective = min(halflife, RAMP * step)
    torch._foreach_lerp_(list(average), list(weights), 1 - 0.5 ** (1 / effective))
