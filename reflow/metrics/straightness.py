"""Straightness of a flow on its own trajectories: 0 is straight.

Shapes: x0 (B, *event); times (M,); over t (B, M).
"""

import torch
from torch import Tensor

from reflow.distances import squared
from reflow.flow import VelocityField
from reflow.solvers import trajectory

NODES = 64  # of the midpoint rule over t


def midpoints(like: Tensor) -> Tensor:
    """Return the times (M,) of the midpoint rule in the dtype and on the device of a tensor."""
    return (torch.arange(NODES, dtype=like.dtype, device=like.device) + 0.5) / NODES


@torch.no_grad()
def straightness_over_t(
    field: VelocityField, x0: Tensor, *, tolerance: float, label: Tensor | None = None
) -> Tensor:
    """Return |x1 - x0 - v(xt, t)|^2 per dimension (B, M) at the midpoints, for every trajectory.

    Trajectories are solved to the tolerance; with one Euler step all this would vanish for any field.
    Liu et al. 2022 (arXiv:2209.03003), section 2.
    """
    times = midpoints(x0)
    states, solution = trajectory(field, x0, times, tolerance=tolerance, label=label)
    chord = solution.x1 - x0
    found = [
        squared(chord, field(state, t.expand(len(x0)), label))
        for t, state in zip(times, states, strict=True)
    ]
    return torch.stack(found, 1)


def straightness(
    field: VelocityField, x0: Tensor, *, tolerance: float, label: Tensor | None = None
) -> Tensor:
    """Return S (B,), the integral over t of what `straightness_over_t` gives."""
    return straightness_over_t(field, x0, tolerance=tolerance, label=label).mean(1)
