"""Straightness of a flow on its own trajectories: 0 is straight."""

import torch
from torch import Tensor

from reflow.flow import VelocityField
from reflow.solvers import trajectory

NODES = 64  # of the midpoint rule over t


@torch.no_grad()
def straightness(
    field: VelocityField, x0: Tensor, *, tolerance: float, label: Tensor | None = None
) -> Tensor:
    """Return S (B,) = integral of |x1 - x0 - v(xt, t)|^2 dt per dimension, for every trajectory.

    Trajectories are solved to the tolerance; with one Euler step the integrand would vanish for any
    field. Liu et al. 2022 (arXiv:2209.03003), section 2.
    """
    times = (torch.arange(NODES, dtype=x0.dtype, device=x0.device) + 0.5) / NODES
    states, solution = trajectory(field, x0, times, tolerance=tolerance, label=label)
    chord = solution.x1 - x0
    total = torch.zeros(len(x0), dtype=x0.dtype, device=x0.device)
    for t, state in zip(times, states, strict=True):
        velocity = field(state, t.expand(len(x0)), label)
        total += (chord - velocity).square().flatten(1).mean(1)
    return total / NODES
