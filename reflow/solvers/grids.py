"""Time grids: increasing nodes from 0 to 1 (steps + 1,), float64, on which fixed-grid solvers step.

`from_density` cuts a grid out of a density of steps that was measured on a model (see `pilot`).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Grid = Callable[[int], Tensor]

SHIFT = 0.5  # under 1: more steps near the data
RHO, SIGMA_MIN, SIGMA_MAX = 7.0, 0.002, 80.0  # Karras et al. 2022 (arXiv:2206.00364), table 1


def uniform(steps: int) -> Tensor:
    """Return equal steps."""
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def cosine(steps: int) -> Tensor:
    """Return steps that shrink towards both ends: t = (1 - cos(pi u)) / 2."""
    return (1 - (math.pi * uniform(steps)).cos()) / 2


def shifted(steps: int) -> Tensor:
    """Return steps that shrink towards the data: t = u / (u + s (1 - u)) with s = SHIFT.

    Esser et al. 2024 (arXiv:2403.03206), section 5.3.2, in our direction of time.
    """
    u = uniform(steps)
    return u / (u + SHIFT * (1 - u))


def edm(steps: int) -> Tensor:
    """Return EDM's noise levels, t = 1 / (1 + sigma), between an exact start and end.

    Karras et al. 2022 (arXiv:2206.00364), equation 5.
    """
    if steps < 3:
        return uniform(steps)
    u = uniform(steps - 2)
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    sigma = (high + u * (low - high)) ** RHO
    ends = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return torch.cat([ends[0], 1 / (1 + sigma), ends[1]])


def from_density(times: Tensor, density: Tensor, steps: int) -> Tensor:
    """Return the grid whose steps have equal mass under a positive density, linear between `times`."""
    mass = torch.zeros_like(times)
    mass[1:] = ((density[1:] + density[:-1]) / 2 * times.diff()).cumsum(0)
    wanted = uniform(steps) * mass[-1]
    place = torch.searchsorted(mass, wanted[1:-1]).clamp(1, len(mass) - 1)
    share = (wanted[1:-1] - mass[place - 1]) / (mass[place] - mass[place - 1])
    inner = torch.lerp(times[place - 1], times[place], share)
    return torch.cat([times[:1], inner, times[-1:]])


GRIDS: dict[str, Grid] = {"uniform": uniform, "cosine": cosine, "shifted": shifted, "edm": edm}
