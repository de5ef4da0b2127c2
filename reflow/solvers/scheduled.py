"""Solving along a table of rows: every sample stands at a row of its own.

With several tables, one finer than the other, a sample whose own error estimate is larger than a limit
at the end of one table starts again on the next. The estimate is the root of the sum over steps of the
mean square difference between predictor and corrector.

Shapes: x, x0 (B, *event), row, unease (B,), history (B, K, D) with D the elements of the event.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reflow.flow import per_sample
from reflow.solvers.rows import Rows, joined


class State(NamedTuple):
    """Samples under way: x, where they began, the row they stand at, their estimate, what they remember."""

    x: Tensor
    x0: Tensor
    row: Tensor
    unease: Tensor
    history: Tensor


class Scheduled:
    """A fixed-grid method; samples above the limit go on from the end of a table to the next one."""

    def __init__(self, tables: Sequence[Rows], like: Tensor, limit: float = math.inf) -> None:
        self.rows = joined(tables).to(like)
        lengths = torch.tensor([len(table) for table in tables], device=like.device)
        self.last = lengths.cumsum(0) - 1  # row at which a table ends
        self.limit = limit

    def begin(self, x0: Tensor) -> State:
        """Return samples at the first row, with nothing remembered."""
        row = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        history = x0.new_zeros(len(x0), self.rows.predict.shape[1] - 1, x0[0].numel())
        return State(x0, x0.clone(), row, x0.new_zeros(len(x0)), history)

    def query(self, state: State) -> tuple[Tensor, Tensor]:
        """Return the predicted states and their times."""
        x = combine(self.rows.predict[state.row], state.history, state.x)
        return x, self.rows.t[state.row]

    def advance(self, state: State, x: Tensor, t: Tensor, velocity: Tensor) -> tuple[State, Tensor]:  # noqa: ARG002
        """Make the step of every slot's row; those at the end of a table have arrived or start again."""
        weights = self.rows.update[state.row]
        moved = combine(weights[:, [0, *range(2, weights.shape[1])]], state.history, state.x)
        moved = torch.addcmul(moved, per_sample(weights[:, 1], moved), velocity)
        history = state.history
        if history.shape[1]:
            store = self.rows.store[state.row]
            newest = store[:, :1] * x.flatten(1) + store[:, 1:] * velocity.flatten(1)
            history = torch.cat([newest[:, None], history[:, :-1]], dim=1)
        unease = state.unease + (moved - x).flatten(1).square().mean(1)
        ended = torch.isin(state.row, self.last)
        again = ended & (unease.sqrt() > self.limit) & (state.row < self.last[-1])
        following = (state.row + 1).clamp(max=len(self.rows) - 1)
        if self.limit < math.inf and again.any():  # the question costs a wait for the device
            moved = torch.where(per_sample(again, moved), state.x0, moved)
            unease = torch.where(again, 0.0, unease)
        return State(moved, state.x0, following, unease, history), ended & ~again


def combine(weights: Tensor, history: Tensor, x: Tensor) -> Tensor:
    """Return weights[:, 0] x + sum_k weights[:, 1 + k] history[:, k], shaped like x."""
    moved = weights[:, :1] * x.flatten(1)
    if history.shape[1]:
        moved = torch.baddbmm(moved[:, None], weights[:, None, 1:], history)[:, 0]
    return moved.reshape(x.shape)
