"""Following a plan: from samples at one time to samples at another."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reflow.flow import VelocityField
from reflow.solvers.engine import Draw, Method, solve
from reflow.solvers.plan import Plan, require_way


@dataclass(frozen=True)
class Solution:
    """The end points x1 (B, *event) and the network evaluations nfe (B,) they took."""

    x1: Tensor
    nfe: Tensor


def follow(
    plan: Plan,
    field: VelocityField,
    x0: Tensor,
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    label: Tensor | None = None,
    batch: int | None = None,
) -> Solution:
    """Carry x0 from t0 to t1 as planned, all together or `batch` at a time.

    The plan's nodes are shares of the way from t0 to t1.

    Raises ReflowError for DPM-Solver++ elsewhere than from 0 to 1, where it is defined.
    """
    require_way(plan.solver, t0, t1)
    return solve_all(between(field, t0, t1), plan.method(x0), x0, label, span=(t0, t1), batch=batch)


def between(field: VelocityField, t0: float, t1: float) -> VelocityField:
    """Return the field in terms of the progress s from 0 to 1 between two times."""
    return field if (t0, t1) == (0.0, 1.0) else _Between(field, t0, t1 - t0)


@dataclass(frozen=True)
class _Between:
    field: VelocityField
    t0: float
    span: float

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.span * self.field(x, self.t0 + self.span * t, label)


def solve_all(
    field: VelocityField,
    method: Method,
    x0: Tensor,
    label: Tensor | None,
    *,
    span: tuple[float, float] = (0.0, 1.0),
    batch: int | None = None,
) -> Solution:
    """Carry all samples from progress 0 to 1, which are the times of the span."""
    number = torch.arange(len(x0), device=x0.device)
    x1, nfe = torch.empty_like(x0), torch.zeros_like(number)
    draws = [Draw(number, x0, label)]
    for arrival in solve(field, method, draws, batch=batch or max(1, len(x0)), span=span):
        x1[arrival.number], nfe[arrival.number] = arrival.x1, arrival.nfe
    return Solution(x1, nfe)
