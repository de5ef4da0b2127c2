"""Runge-Kutta on a uniform grid of times that all samples share."""

import torch
from torch import Tensor

from reflow.flow import VelocityField
from reflow.solvers.tableaus import Tableau


def solve_fixed(
    field: VelocityField,
    x: Tensor,
    tableau: Tableau,
    *,
    steps: int,
    t0: float,
    t1: float,
    label: Tensor | None,
) -> Tensor:
    """Return x at t1 (B, *event), starting from x at t0, after `steps` equal steps."""
    h = (t1 - t0) / steps
    for step in range(steps):
        t = t0 + step * h
        slopes: list[Tensor] = []
        for c, row in zip(tableau.c, tableau.a, strict=True):
            times = torch.full((len(x),), t + c * h, dtype=x.dtype, device=x.device)
            slopes.append(field(advance(x, h, row, slopes), times, label))
        x = advance(x, h, tableau.b, slopes)
    return x


def advance(x: Tensor, h: float | Tensor, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Return x + h sum_i weights[i] slopes[i], skipping zero weights."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = x + (h * weight) * slope
    return x
