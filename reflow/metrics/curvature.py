"""How a trajectory bends: the rate dv/dt = v . grad v + dv(x, t)/dt of its velocity along it.

The mean of its square over t is the curvature, with which the error of a solver's steps grows; straightness
tells how far the velocity strays from the chord.
"""

from torch import Tensor

from reflow.flow import VelocityField

ASIDE = 1e-3  # in t: the difference errs by its square, and by the rounding of v over it


def acceleration(
    field: VelocityField, x: Tensor, t: Tensor, velocity: Tensor, label: Tensor | None = None
) -> Tensor:
    """Return dv/dt (B, *event) at x, t (B,) inside [ASIDE, 1 - ASIDE], by a central difference.

    It takes two evaluations, as a forward-mode derivative does, and any field, compiled or with attention.
    """
    before = field(x - ASIDE * velocity, t - ASIDE, label)
    after = field(x + ASIDE * velocity, t + ASIDE, label)
    return (after - before) / (2 * ASIDE)
