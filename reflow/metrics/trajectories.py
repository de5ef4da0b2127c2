"""How trajectories run: straightness, curvature, crossing, and the transport cost of their coupling.

All are per dimension. Straightness tells how far the velocity strays from the chord of a trajectory, 0 is
straight; curvature is the mean over t of |dv/dt|^2 along it, with which the error of a solver's steps
grows. Crossing is what a model loses on the pairs that it makes itself: the least loss over all fields is
zero exactly if the paths of the pairs do not cross, and the model's own is above it. Reflow never raises
the transport cost E|x1 - x0|^2; it lies between that of the optimal coupling of the same ends and, where
training began with independent noise, that of independent ones.

Shapes: x0 (B, *event); times (M,); over t (B, M).
"""

import torch
from torch import Tensor

from reflow.couplings.transport import assignment
from reflow.flow import Pair, VelocityField, interpolate
from reflow.objectives.distances import squared
from reflow.solvers import trajectory

NODES = 64  # of the midpoint rule over t
ASIDE = 1e-3  # in t: the difference errs by its square, and by the rounding of v over it


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


@torch.no_grad()
def crossing(field: VelocityField, pair: Pair) -> Tensor:
    """Return the mean over t of |v(xt, t) - (x1 - x0)|^2 per dimension (B,).

    xt lies on the lines of the pairs, not on trajectories.
    """
    x0, x1, label = pair
    losses = [
        squared(field(interpolate(x0, x1, t), t, label), x1 - x0)
        for t in (time.expand(len(x0)) for time in midpoints(x0))
    ]
    return torch.stack(losses).mean(0)


def acceleration(
    field: VelocityField, x: Tensor, t: Tensor, velocity: Tensor, label: Tensor | None = None
) -> Tensor:
    """Return dv/dt (B, *event) at x, t (B,) inside [ASIDE, 1 - ASIDE], by a central difference.

    It takes two evaluations, as a forward-mode derivative does, and any field, compiled or with attention.
    """
    before = field(x - ASIDE * velocity, t - ASIDE, label)
    after = field(x + ASIDE * velocity, t + ASIDE, label)
    return (after - before) / (2 * ASIDE)


def coupling_cost(pair: Pair) -> float:
    """Return the transport cost of the pairs."""
    return float(squared(pair.x1.double(), pair.x0.double()).mean())


def independent_cost(pair: Pair) -> float:
    """Return the cost of joining the noise of one pair to the data of another, of two pairs or more."""
    x0, x1 = (end.flatten(1).double() for end in (pair.x0, pair.x1))
    n, d = x0.shape
    others = (x0.sum(0) @ x1.sum(0) - (x0 * x1).sum()) / (n - 1)  # of x0 . x1, for each of them
    return float((x0.square().sum() + x1.square().sum() - 2 * others) / (n * d))


def optimal_cost(pair: Pair) -> float:
    """Return the least cost of joining these ends one to one, those of a label among themselves."""
    noise = torch.from_numpy(assignment(pair)).to(pair.x0.device)
    return coupling_cost(pair._replace(x0=pair.x0[noise]))
