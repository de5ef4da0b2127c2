"""Runge-Kutta pairs with a step size of its own for every sample.

Every slot stands at a stage of its own step; an evaluation answers one stage. The last stage of an
accepted step is the first of the next (FSAL), so a step takes one evaluation less than it has stages.

Shapes: x (B, *event), s, h, stage, origin (B,), slopes (B, S, D) with D the elements of the event.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reflow.solvers.fixed_grid import combine
from reflow.solvers.step_size import FIRST_STEP, Control, clip, require_progress
from reflow.solvers.tableaus import Tableau


class State(NamedTuple):
    """Samples under way; `origin` is the place of a sample among those it began with."""

    x: Tensor
    s: Tensor
    h: Tensor
    stage: Tensor
    origin: Tensor
    slopes: Tensor


Watch = Callable[[State, Tensor, Tensor], None]  # (state, new x, accepted (B,)) at the end of steps


class Embedded:
    """A Runge-Kutta pair under step control; `watch` sees every accepted step."""

    def __init__(
        self, tableau: Tableau, tolerance: float, like: Tensor, watch: Watch | None = None
    ) -> None:
        assert tableau.error is not None
        self.order = tableau.order
        self.last = len(tableau.b) - 1
        self.c = like.new_tensor(tableau.c)
        rows = [[*row, *[0.0] * (self.last + 1 - len(row))] for row in tableau.a]
        self.a = like.new_tensor(rows)
        self.weights = like.new_tensor(tableau.error)
        self.control = Control(tolerance, safety=0.9, shrink=0.2, grow=5.0)
        self.watch = watch

    def begin(self, x0: Tensor) -> State:
        """Return samples at the first stage of a short step."""
        s = x0.new_zeros(len(x0))
        stage = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        slopes = x0.new_zeros(len(x0), self.last + 1, x0[0].numel())
        origin = torch.arange(len(x0), device=x0.device)
        return State(x0, s, torch.full_like(s, FIRST_STEP), stage, origin, slopes)

    def query(self, state: State) -> tuple[Tensor, Tensor]:
        """Return where and when the stage of every slot looks."""
        weights = state.h[:, None] * self.a[state.stage]
        x = combine(torch.cat([torch.ones_like(weights[:, :1]), weights], 1), state.slopes, state.x)
        ends = state.s + state.h >= 1
        s = torch.where(ends & (self.c[state.stage] == 1), 1.0, state.s + self.c[state.stage] * state.h)
        return x, torch.where(state.stage == 0, state.s, s)

    def advance(self, state: State, x: Tensor, t: Tensor, velocity: Tensor) -> tuple[State, Tensor]:
        """Take a slope; at the last stage judge the step."""
        slopes = state.slopes
        slopes[torch.arange(len(x), device=x.device), state.stage] = velocity.flatten(1)
        state = state._replace(slopes=slopes)
        judged = state.stage == self.last
        estimate = torch.einsum("k,bkd->bd", self.weights, slopes) * state.h[:, None]
        q = torch.where(judged, self.control.error(estimate), 0.0)
        require_progress(state.h, q, state.s)
        accepted = judged & (q <= 1)
        if self.watch is not None and accepted.any():
            self.watch(state, x, accepted)
        slopes[:, 0] = torch.where(accepted[:, None], slopes[:, -1], slopes[:, 0])
        s = torch.where(accepted, t, state.s)
        h = torch.where(judged, self.control.next_step(state.h, q, self.order - 1), state.h)
        moved = State(
            torch.where(accepted.reshape(-1, *[1] * (x.ndim - 1)), x, state.x),
            s,
            torch.where(judged, clip(h, s), h),
            torch.where(judged, 1, state.stage + 1),
            state.origin,
            slopes,
        )
        return moved, accepted & (s >= 1)


class Saver:
    """Keeps the states (M, B, *event) at given times (M,), by the pair's continuous extension."""

    def __init__(self, tableau: Tableau, times: Tensor, x0: Tensor) -> None:
        assert tableau.dense is not None
        self.times = times
        self.states = x0.expand(len(times), *x0.shape).clone()
        self.weights = x0.new_tensor(tableau.dense)

    def __call__(self, state: State, x: Tensor, accepted: Tensor) -> None:
        """Write the states at those times that accepted steps passed."""
        end = torch.where(state.s + state.h >= 1, 1.0, state.s + state.h)[:, None]
        passed = (self.times > state.s[:, None]) & (self.times <= end) & accepted[:, None]  # (B, M)
        slot, node = passed.nonzero(as_tuple=True)
        if not len(slot):
            return
        theta = ((self.times[node] - state.s[slot]) / state.h[slot]).clamp(max=1.0)[:, None]
        before, h, slopes = state.x.flatten(1), state.h[:, None], state.slopes
        rise = x.flatten(1) - before
        bend = h * slopes[:, 0] - rise
        twist = rise - h * slopes[:, -1] - bend
        quartic = h * torch.einsum("k,bkd->bd", self.weights, slopes)
        inner = twist[slot] + (1 - theta) * quartic[slot]
        dense = before[slot] + theta * (rise[slot] + (1 - theta) * (bend[slot] + theta * inner))
        self.states[node, state.origin[slot]] = dense.reshape(-1, *x.shape[1:])
