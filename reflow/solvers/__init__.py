"""Solving dx/dt = v(x, t), with the network evaluations counted per sample.

Shapes: x0, x1 (B, *event); label (B,) or None; nfe (B,); trajectories (M, B, *event).
"""

from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.solvers.adaptive_rk import Embedded, Saver
from reflow.solvers.plan import fixed_plan, per_sample_plan
from reflow.solvers.solution import Solution, follow, solve_all
from reflow.solvers.tableaus import DOPRI5

USUAL = "adams4"  # where a tolerance is given and no solver


def integrate(
    field: VelocityField,
    x0: Tensor,
    *,
    solver: str | None = None,
    steps: int | None = None,
    tolerance: float | None = None,
    t0: float = 0.0,
    t1: float = 1.0,
    label: Tensor | None = None,
) -> Solution:
    """Carry x0 along the field from t0 to t1 (t1 < t0 goes back).

    Give `steps` (a fixed grid; Heun's method unless `solver` names another) or `tolerance`, the order
    of the RMS error of x1 in data units (a step size per sample; Adams of order 4 by default).

    Raises ReflowError for an unknown solver, missing or surplus arguments, and fields that are not
    finite.
    """
    if steps is not None and tolerance is not None:
        raise ReflowError("give steps (a fixed grid) or a tolerance, not both")
    if steps is not None:
        forwards = fixed_plan(solver or "heun", steps)
        plan = forwards if t0 < t1 else forwards.reversed()  # through the same times
    else:
        plan = per_sample_plan(solver or USUAL, tolerance)
    return follow(plan, field, x0, t0=t0, t1=t1, label=label)


def trajectory(
    field: VelocityField,
    x0: Tensor,
    times: Tensor,
    *,
    tolerance: float,
    label: Tensor | None = None,
) -> tuple[Tensor, Solution]:
    """Return the states (M, B, *event) at the times (M,) in [0, 1], and the solution at t = 1."""
    local = per_sample_plan("dopri5", tolerance).local_tolerance
    assert local is not None
    saver = Saver(DOPRI5, times.to(x0), x0)
    solution = solve_all(field, Embedded(DOPRI5, local, x0, watch=saver), x0, label)
    return saver.states, solution
