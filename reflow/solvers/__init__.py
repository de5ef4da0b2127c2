"""Solving dx/dt = v(x, t), with the network evaluations counted per sample.

Shapes: x0, x1 (B, *event); label (B,) or None; nfe (B,); trajectories (M, B, *event).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.solvers.adaptive import solve_adaptive
from reflow.solvers.fixed import solve_fixed
from reflow.solvers.tableaus import DOPRI5, EULER, HEUN, MIDPOINT, RK4, Tableau

SOLVERS: dict[str, Tableau] = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun": HEUN,
    "rk4": RK4,
    "dopri5": DOPRI5,
}

# Local errors add up along the way and grow in the thin layer that trained fields have near the
# data, so the step control aims lower than the error wanted at the end. docs/math.md, "Solvers".
LOCAL_SHARE = 0.1


@dataclass(frozen=True)
class Solution:
    """The end points x1 (B, *event) and the network evaluations nfe (B,) they took."""

    x1: Tensor
    nfe: Tensor


@torch.no_grad()
def integrate(
    field: VelocityField,
    x0: Tensor,
    *,
    solver: str = "dopri5",
    steps: int | None = None,
    tolerance: float | None = None,
    t0: float = 0.0,
    t1: float = 1.0,
    label: Tensor | None = None,
) -> Solution:
    """Carry x0 along the field from t0 to t1 (t1 < t0 goes back).

    solver: a name in SOLVERS. Fixed grids (euler, midpoint, heun, rk4) take `steps`; dopri5 takes
    `tolerance`, the wanted order of the RMS error of x1 in data units.

    Raises ReflowError for an unknown solver, missing or surplus arguments, and fields that are not
    finite.
    """
    tableau = _tableau(solver)
    if tableau.error is None:
        if steps is None or steps < 1 or tolerance is not None:
            raise ReflowError(f"solver {solver} takes steps >= 1 and no tolerance")
        x1 = solve_fixed(field, x0, tableau, steps=steps, t0=t0, t1=t1, label=label)
        if not x1.isfinite().all():
            bad = int((~x1.flatten(1).isfinite().all(1)).nonzero()[0])
            raise ReflowError(
                f"sample {bad} of the batch is not finite after {steps} steps of {solver}; "
                "the model is damaged or diverged"
            )
        nfe = torch.full((len(x0),), steps * tableau.evaluations_per_step, device=x0.device)
        return Solution(x1, nfe)
    if steps is not None:
        raise ReflowError(f"solver {solver} takes a tolerance and no steps")
    local = LOCAL_SHARE * _positive(tolerance)
    x1, nfe, _ = solve_adaptive(field, x0, tableau, local_tolerance=local, t0=t0, t1=t1, label=label)
    return Solution(x1, nfe)


@torch.no_grad()
def trajectory(
    field: VelocityField,
    x0: Tensor,
    times: Tensor,
    *,
    tolerance: float,
    label: Tensor | None = None,
) -> tuple[Tensor, Solution]:
    """Return the states (M, B, *event) at the times (M,) in [0, 1], and the solution at t = 1."""
    x1, nfe, states = solve_adaptive(
        field,
        x0,
        DOPRI5,
        local_tolerance=LOCAL_SHARE * _positive(tolerance),
        t0=0.0,
        t1=1.0,
        label=label,
        save_at=times.to(x0),
    )
    assert states is not None
    return states, Solution(x1, nfe)


def steps_for(solver: str, nfe: int) -> int:
    """Return the steps of a fixed-grid solver that take `nfe` evaluations."""
    tableau = _tableau(solver)
    each = tableau.evaluations_per_step
    if tableau.error is not None:
        raise ReflowError(f"solver {solver} chooses its own NFE; give a tolerance instead")
    if nfe < 1 or nfe % each:
        raise ReflowError(f"solver {solver} needs a multiple of {each} evaluations, not {nfe}")
    return nfe // each


def _tableau(solver: str) -> Tableau:
    if solver not in SOLVERS:
        raise ReflowError(f"no solver is called {solver!r}; there are {', '.join(SOLVERS)}")
    return SOLVERS[solver]


def _positive(tolerance: float | None) -> float:
    if tolerance is None or not tolerance > 0:
        raise ReflowError(f"tolerance must be a positive number, not {tolerance}")
    return tolerance
