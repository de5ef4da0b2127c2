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

FIRST_STEP = 0.01  # share of the whole interval; a longer one can jump a layer next to the noise
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


@dataclass
class _Move:
    """One proposed step of every sample under way: its width h and end t, where it leads, slopes."""

    h: Tensor
    t: Tensor
    x: Tensor
    slopes: list[Tensor]


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
    if local_tolerance < torch.finfo(x0.dtype).eps / 2:
        raise ReflowError(
            f"the tolerance is below the rounding of {x0.dtype}; ask for a larger --tolerance"
        )
    rows = torch.arange(len(x0), device=x0.device)
    start = torch.full((len(x0),), t0, dtype=x0.dtype, device=x0.device)
    first = torch.full_like(start, FIRST_STEP * (t1 - t0))
    active = _Active(rows, x0, start, first, field(x0, start, label), label)
    x1, nfe = torch.empty_like(x0), torch.ones_like(rows)
    saved = None if save_at is None else x0.expand(len(save_at), *x0.shape).clone()
    while len(active.row):
        final = active.h.abs() >= (t1 - active.t).abs()
        move = _propose(field, tableau, active, final, t1)
        nfe[active.row] += len(move.slopes) - 1
        q = _error(tableau, move) / local_tolerance
        _check(q, active, move.h, t1 - t0)
        accepted = q <= 1
        if saved is not None and save_at is not None:
            _save(saved, save_at, tableau, active, move, accepted)
        arrived = accepted & final
        x1[active.row[arrived]] = move.x[arrived]
        active = _moved(active, move, q, accepted, tableau.order)
        if arrived.any():
            active = active.keep(~arrived)
    return x1, nfe, saved


def _propose(field: VelocityField, tableau: Tableau, active: _Active, final: Tensor, t1: float) -> _Move:
    """Return the step of every sample; its first slope is the last one of the step before."""
    h = torch.where(final, t1 - active.t, active.h)
    slopes, width = [active.slope], per_sample(h, active.x)
    x = active.x
    for c, row in zip(tableau.c[1:], tableau.a[1:], strict=True):
        x = advance(active.x, width, row, slopes)
        slopes.append(field(x, active.t + c * h, active.label))
    return _Move(h, torch.where(final, t1, active.t + h), x, slopes)


def _moved(active: _Active, move: _Move, q: Tensor, accepted: Tensor, order: int) -> _Active:
    """Return the samples after accepted steps, with the widths to try next."""
    factor = (SAFETY * q.clamp(min=1e-10) ** (-1 / order)).clamp(SHRINK, GROW)
    accepted_x = per_sample(accepted, active.x)
    return _Active(
        active.row,
        torch.where(accepted_x, move.x, active.x),
        torch.where(accepted, move.t, active.t),
        move.h * torch.where(accepted, factor, factor.clamp(max=1.0)),
        torch.where(accepted_x, move.slopes[-1], active.slope),
        active.label,
    )


def _error(tableau: Tableau, move: _Move) -> Tensor:
    assert tableau.error is not None
    zero = torch.zeros_like(move.x)
    estimate = advance(zero, per_sample(move.h, zero), tableau.error, move.slopes)
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
    move: _Move,
    accepted: Tensor,
) -> None:
    """Write the states at those times of `save_at` that accepted steps passed."""
    assert tableau.dense is not None
    passed = (save_at > active.t[:, None]) & (save_at <= move.t[:, None]) & accepted[:, None]  # (B, M)
    row, node = passed.nonzero(as_tuple=True)
    if not len(row):
        return
    theta = ((save_at[node] - active.t[row]) / move.h[row]).clamp(max=1.0)
    s, width = per_sample(theta, active.x), per_sample(move.h, active.x)
    rise = move.x - active.x
    bend = width * move.slopes[0] - rise
    twist = rise - width * move.slopes[-1] - bend
    quartic = advance(torch.zeros_like(rise), width, tableau.dense, move.slopes)
    inner = twist[row] + (1 - s) * quartic[row]
    states = active.x[row] + s * (rise[row] + (1 - s) * (bend[row] + s * inner))
    saved[node, active.row[row]] = states
