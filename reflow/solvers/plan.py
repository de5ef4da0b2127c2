"""From the name of a solver to a method: which nodes, or which error of a step.

A plan is what a solution depends on beside the field and the noise. Fixed grids have nodes; solvers
with a step size per sample have a local tolerance.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reflow.errors import ReflowError
from reflow.solvers.adaptive_adams import VariableAdams
from reflow.solvers.adaptive_rk import Embedded
from reflow.solvers.engine import Method
from reflow.solvers.fixed_grid import METHODS, Scheduled
from reflow.solvers.grids import GRIDS
from reflow.solvers.tableaus import BOSH3, DOPRI5, TSIT5

PerSample = Callable[[float, Tensor], Method]  # (local tolerance, like) -> method

PER_SAMPLE: dict[str, PerSample] = {
    "bosh3": lambda tolerance, like: Embedded(BOSH3, tolerance, like),
    "dopri5": lambda tolerance, like: Embedded(DOPRI5, tolerance, like),
    "tsit5": lambda tolerance, like: Embedded(TSIT5, tolerance, like),
    "adams2": lambda tolerance, like: VariableAdams(2, tolerance),  # noqa: ARG005
    "adams3": lambda tolerance, like: VariableAdams(3, tolerance),  # noqa: ARG005
    "adams4": lambda tolerance, like: VariableAdams(4, tolerance),  # noqa: ARG005
}
CALIBRATED = "adams"  # order and grid come from a pilot
SOLVERS = tuple(sorted({*METHODS, *PER_SAMPLE, CALIBRATED}))
USUAL_GRID = {name: "cosine" if name.startswith(("adams", "dpm")) else "uniform" for name in METHODS}

# Local errors add up along the way and grow in the thin layer that trained fields have near the
# data, so without a pilot the step control aims lower than the error wanted at the end.
LOCAL_SHARE = 0.03


@dataclass(frozen=True)
class Plan:
    """A solver with nodes (steps + 1 shares of the way, from 0 to 1) or with a local tolerance."""

    solver: str
    nodes: tuple[float, ...] | None = None
    local_tolerance: float | None = None
    finer: tuple[tuple[float, ...], ...] = ()  # nodes for samples that exceed the limit
    limit: float | None = None  # of a sample's own error estimate, in data units

    def method(self, like: Tensor) -> Method:
        """Return the method for samples of this dtype and device.

        Raises ReflowError when the tolerance is below the rounding of the dtype.
        """
        if self.nodes is not None:
            grids = [torch.tensor(nodes, dtype=torch.float64) for nodes in (self.nodes, *self.finer)]
            tables = [METHODS[self.solver](grid) for grid in grids]
            return Scheduled(tables, like, math.inf if self.limit is None else self.limit)
        assert self.local_tolerance is not None
        if self.local_tolerance < torch.finfo(like.dtype).eps / 2:
            raise ReflowError(
                f"the tolerance is below the rounding of {like.dtype}; ask for a larger --tolerance"
            )
        return PER_SAMPLE[self.solver](self.local_tolerance, like)

    def reversed(self) -> "Plan":
        """Return the plan for the way back, through the same times."""
        if self.nodes is None:
            return self
        nodes, *finer = (tuple(1 - node for node in grid[::-1]) for grid in (self.nodes, *self.finer))
        return replace(self, nodes=nodes, finer=tuple(finer))


def fixed_plan(solver: str, steps: int | None, grid: str | None = None) -> Plan:
    """Return a solver on a grid of `steps` steps: one of GRIDS, by default the solver's usual one."""
    if solver not in METHODS:
        raise (
            _unknown(solver, "steps", METHODS)
            if solver not in SOLVERS
            else ReflowError(f"solver {solver} takes a tolerance and no steps")
        )
    if steps is None or steps < 1:
        raise ReflowError(f"solver {solver} takes steps >= 1")
    name = grid or USUAL_GRID[solver]
    if name not in GRIDS:
        raise ReflowError(f"there is no grid {name!r}; choose from {', '.join(GRIDS)}")
    nodes = GRIDS[name](steps)
    return Plan(solver, tuple(nodes.tolist()))


def per_sample_plan(solver: str, tolerance: float | None) -> Plan:
    """Return a solver with a step size per sample, at a tolerance that no pilot has checked."""
    if solver not in PER_SAMPLE:
        if solver == CALIBRATED:
            raise ReflowError(f"solver {solver} needs a pilot; without one take adams4")
        raise (
            _unknown(solver, "a tolerance", PER_SAMPLE)
            if solver not in SOLVERS
            else ReflowError(f"solver {solver} takes steps and no tolerance")
        )
    if tolerance is None or not tolerance > 0:
        raise ReflowError(f"tolerance must be a positive number, not {tolerance}")
    return Plan(solver, local_tolerance=LOCAL_SHARE * tolerance)


def require_way(solver: str, t0: float, t1: float) -> None:
    """Refuse DPM-Solver++ elsewhere than from 0 to 1, where it is defined."""
    if solver == "dpm2m" and (t0, t1) != (0.0, 1.0):
        raise ReflowError("solver dpm2m goes from t = 0 to t = 1 only; take another")


def steps_for(solver: str, nfe: int) -> int:
    """Return the steps on a fixed grid that take `nfe` evaluations."""
    if solver not in METHODS:
        fixed_plan(solver, 1)
    one, two = (len(METHODS[solver](GRIDS["uniform"](steps))) for steps in (1, 2))
    each, extra = two - one, one - (two - one)
    if nfe < one or (nfe - extra) % each:
        wanted = f"at least {one}" if extra or each == 1 else f"a multiple of {each}"
        raise ReflowError(
            f"solver {solver} needs {wanted} network evaluations, not {nfe}; "
            "give such a number by --nfe, or another --solver"
        )
    return (nfe - extra) // each


def _unknown(solver: str, what: str, known: Iterable[str]) -> ReflowError:
    return ReflowError(f"there is no solver {solver!r}; those with {what} are {', '.join(known)}")
