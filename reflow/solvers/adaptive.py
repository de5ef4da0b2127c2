"""Runge-Kutta with a step size of its own for every sample.

Each sample carries its time t and step h; a sample's result depends on its batch mates by rounding
only. A step is accepted when the root mean square of its error estimate over the event is at most
the local tolerance. Samples that have arrived leave the batch.

Needs an embedded error estimate, FSAL and, for trajectories, a continuous extension.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import VelocityField, per_sample
from reflow.solvers.fixed import advance
from reflow.solvers.tableaus import Tableau

FIRST_STEP = 0.05  # share of the whole interval
SMALLEST_STEP = 1e-6  # share of the whole interval under which rounding rules the error estimate
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0  # Hairer, Norsett & Wanner, Solving ODEs I, section II.4


@dataclass
class _Active:
    """The samples under way: row numbers in the whole batch and their own time, step, slope."""

    row: Tensor
    x: Tensor
    t: Tensor
    h: Tensor
    slope: Tensor
    label: Tensor | None

    def keep(self, mask: Tensor) -> "_Active":
        """Return the samples at which the mask (B,) is true."""
        label = None if self.label is None else self.label[mask]
        return _Active(self.row[mask], self.x[mask], self.t[mask], self.h[mask], self.slope[mask], label)


def solve_adaptive(
    field: VelocityField,
    x0: Tensor,
    tableau: Tableau,
    *,
    local_tolerance: float,
    t0: float,
    t1: float,
    label: Tensor | None,
    save_at: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return x at t1 (B, *event), evaluations per sample (B,) and x at the times of `save_at`.

    `save_at` (M,) lies within [t0, t1]; its states come as (M, B, *event).

    Raises ReflowError when the field is not finite or the tolerance is below rounding.
    """
    assert tableau.error is not None
    start = torch.full((len(x0),), t0, dtype=x0.dtype, device=x0.device)
    rows = torch.arange(len(x0), device=x0.device)
    active = _Active(
        rows,
        x0,
        start,
        torch.full_like(start, FIRST_STEP * (t1 - t0)),
        field(x0, start, label),
        label,
    )
    x1, nfe = torch.empty_like(x0), torch.ones_like(rows)
    saved = None if save_at is None else x0.expand(len(save_at), *x0.shape).clone()
    while len(active.row):
        remaining = t1 - active.t
        final = active.h.abs() >= remaining.abs()
        h = torch.where(final, remaining, active.h)
        proposal, slopes = _step(field, tableau, active, h)
        nfe[active.row] += len(slopes) - 1
        q = _error(tableau, h, slopes) / local_tolerance
        _check(q, active, h, t1 - t0)
        accepted = q <= 1
        if saved is not None and save_at is not None:
            _save(saved, save_at, tableau, active, h, proposal, slopes, accepted)
        factor = (SAFETY * q.clamp(min=1e-10) ** (-1 / tableau.order)).clamp(SHRINK, GROW)
        keep_x = per_sample(accepted, active.x)
        arrived = accepted & final
        x1[active.row[arrived]] = proposal[arrived]
        active = _Active(
            active.row,
            torch.where(keep_x, proposal, active.x),
            torch.where(accepted, active.t + h, active.t),
            h * torch.where(accepted, factor, factor.clamp(max=1.0)),
            torch.where(keep_x, slopes[-1], active.slope),
            active.label,
        )
        if arrived.any():
            active = active.keep(~arrived)
    return x1, nfe, saved


def _step(
    field: VelocityField, tableau: Tableau, active: _Active, h: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return the proposed x and all slopes; the first slope is the last one of the step before."""
    slopes, width = [active.slope], per_sample(h, active.x)
    x = active.x
    for c, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
        x = advance(active.x, width, row, slopes)
        slopes.append(field(x, active.t + c * h, active.label))
    return x, slopes


def _error(tableau: Tableau, h: Tensor, slopes: list[Tensor]) -> Tensor:
    assert tableau.error is not None
    zero = torch.zeros_like(slopes[0])
    estimate = advance(zero, per_sample(h, zero), tableau.error, slopes)
    return estimate.flatten(1).square().mean(1).sqrt()


def _check(q: Tensor, active: _Active, h: Tensor, interval: float) -> None:
    bad = ~q.isfinite()
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ReflowError(
            f"the velocity of sample {int(active.row[first])} of the batch is not finite "
            f"near t = {float(active.t[first]):.4f}; the model is damaged or diverged"
        )
    tiny = (h.abs() < SMALLEST_STEP * abs(interval)) & (q > 1)
    if tiny.any():
        raise ReflowError(
            f"the step size fell under {SMALLEST_STEP:g} near "
            f"t = {float(active.t[tiny][0]):.4f}; ask for a larger --tolerance"
        )


def _save(
    saved: Tensor,
    save_at: Tensor,
    tableau: Tableau,
    active: _Active,
    h: Tensor,
    proposal: Tensor,
    slopes: list[Tensor],
    accepted: Tensor,
) -> None:
    """Write the states at those times of `save_at` that accepted steps passed."""
    assert tableau.dense is not None
    theta = (save_at[None, :] - active.t[:, None]) / h[:, None]  # (B, M)
    inside = (theta > 0) & (theta <= 1 + 1e-6) & accepted[:, None]
    row, node = inside.nonzero(as_tuple=True)
    if not len(row):
        return
    s = per_sample(theta[row, node].clamp(max=1.0), active.x)
    width = per_sample(h, active.x)
    rise = proposal - active.x
    bend = width * slopes[0] - rise
    twist = rise - width * slopes[-1] - bend
    quartic = advance(torch.zeros_like(rise), width, tableau.dense, slopes)
    inner = twist[row] + (1 - s) * quartic[row]
    states = active.x[row] + s * (rise[row] + (1 - s) * (bend[row] + s * inner))
    saved[node, active.row[row]] = states
