"""Fixed-grid methods as tables: one row is one network evaluation.

A sample carries its state x and a history of what was learned at the last evaluations, newest first.
A row evaluates the velocity at time `t` on `predict` (weights of x and of the history), then makes
the new x from `update` (weights of x, of the new velocity and of the history), and remembers
`store` (weights of x and of the new velocity). Runge-Kutta and linear multistep methods alike are
such tables, so one loop runs them all, and every sample can stand at another row.

With several tables, one finer than the other, a sample whose own error estimate is larger than a limit
at the end of one table starts again on the next. The estimate is the root of the sum over steps of the
mean square difference between predictor and corrector.

Shapes: R rows, K values of history; predict (R, 1 + K), update (R, 2 + K), store (R, 2), t (R,),
all float64. Of samples under way: x, x0 (B, *event), row, error_estimate (B,), history (B, K, D) with D
the elements of the event.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reflow.flow import per_sample
from reflow.solvers.tableaus import EULER, HEUN, MIDPOINT, RK4, Tableau

Weights = Sequence[float]
VELOCITY: Weights = (0.0, 1.0)


@dataclass(frozen=True)
class GridRows:
    """The evaluations of one sample, in order."""

    t: Tensor
    predict: Tensor
    update: Tensor
    store: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def to(self, like: Tensor) -> "GridRows":
        """Return the table in the dtype and on the device of a tensor."""
        return GridRows(*(part.to(like) for part in (self.t, self.predict, self.update, self.store)))


def joined(tables: Sequence[GridRows]) -> GridRows:
    """Return tables of one method, one after the other."""
    parts = ("t", "predict", "update", "store")
    return GridRows(*(torch.cat([getattr(table, part) for table in tables]) for part in parts))


RowBuilder = Callable[[Tensor], GridRows]  # nodes (steps + 1,) from 0 to 1 -> rows


def runge_kutta(tableau: Tableau) -> RowBuilder:
    """Return the rows of an explicit Runge-Kutta method: its stages, step after step."""
    last = len(tableau.b) - 1

    def rows(nodes: Tensor) -> GridRows:
        table = _Table(history=last)
        for start, h in zip(nodes.tolist(), nodes.diff().tolist(), strict=False):
            for stage, (c, a) in enumerate(zip(tableau.c, tableau.a, strict=True)):
                newest_first = [h * weight for weight in reversed(a)]
                update = [h * weight for weight in reversed(tableau.b)] if stage == last else [0.0]
                table.add(start + c * h, newest_first, update)
        return table.rows()

    return rows


def adams(order: int) -> RowBuilder:
    """Return Adams' predictor-corrector, one evaluation a step: predict, evaluate, correct.

    The predictor integrates the polynomial through the last `order` velocities, the corrector the
    one through as many with the new velocity among them; both grow from order one. (A corrector of one
    order more is better for most samples and worse for the few that decide the root mean square.) The
    last evaluation, at the end of the grid, only corrects, so n steps take n + 1 evaluations.
    Hairer, Norsett & Wanner, Solving ODEs I, section III.1.
    """

    def rows(nodes: Tensor) -> GridRows:
        table = _Table(history=order)
        t = nodes.tolist()
        table.add(t[0], [], [0.0])
        for i in range(1, len(t)):
            past = t[max(0, i - order) : i][::-1]
            span = (t[i - 1], t[i])
            table.add(
                t[i],
                integral_weights(past, *span),
                integral_weights([t[i], *past][:order], *span),
            )
        return table.rows()

    return rows


def dpm(nodes: Tensor) -> GridRows:
    """Return DPM-Solver++(2M): the data prediction D = x + (1 - t) v, linear in the log-SNR.

    With u = 1 - t and lambda = ln(t / u), x' = (u'/u) x + (1 - u'/u) (D + (D - D_before) / (2 r)),
    r the ratio of the last step to this one in lambda; of first order in the first, second and last
    step. Lu et al. 2022 (arXiv:2211.01095), algorithm 2.
    """
    t = nodes.tolist()
    level = torch.logit(nodes).tolist()
    table = _Table(history=1)
    for i in range(len(t) - 1):
        u, left = 1 - t[i], (1 - t[i + 1]) / (1 - t[i])
        known = 2 <= i < len(t) - 2
        bend = (level[i + 1] - level[i]) / (level[i] - level[i - 1]) / 2 if known else 0.0
        new = (1 - left) * (1 + bend)
        table.add(t[i], [], [new * u, -(1 - left) * bend], keep=left + new, store=(1.0, u))
    return table.rows()


def integral_weights(nodes: Weights, start: float, end: float) -> list[float]:
    """Return the weights by which values at the nodes give the integral over [start, end].

    They integrate the polynomial through the values exactly; the nodes are scaled so that the small
    Vandermonde system is solved without loss.
    """
    h = end - start
    powers = torch.arange(len(nodes), dtype=torch.float64)
    scaled = (torch.tensor(nodes, dtype=torch.float64) - start) / h
    moments = 1 / (powers + 1)
    solved: list[float] = (h * torch.linalg.solve(scaled[None] ** powers[:, None], moments)).tolist()
    return solved


class _Table:
    """Rows under construction."""

    def __init__(self, history: int) -> None:
        self.history = history
        self.t: list[float] = []
        self.predict: list[Weights] = []
        self.update: list[Weights] = []
        self.store: list[Weights] = []

    def add(
        self, t: float, predict: Weights, update: Weights, keep: float = 1.0, store: Weights = VELOCITY
    ) -> None:
        """Add a row; missing weights of history are zero."""
        blank = [0.0] * (self.history + 1)
        self.t.append(t)
        self.predict.append([1.0, *predict, *blank][: self.history + 1])
        self.update.append([keep, *update, *blank][: self.history + 2])
        self.store.append(store)

    def rows(self) -> GridRows:
        parts = (self.t, self.predict, self.update, self.store)
        return GridRows(*(torch.tensor(part, dtype=torch.float64) for part in parts))


METHODS: dict[str, RowBuilder] = {
    "euler": runge_kutta(EULER),
    "midpoint": runge_kutta(MIDPOINT),
    "heun": runge_kutta(HEUN),
    "rk4": runge_kutta(RK4),
    "adams2": adams(2),
    "adams3": adams(3),
    "adams4": adams(4),
    "dpm2m": dpm,
}


class State(NamedTuple):
    """Samples under way: x, where they began, the row they stand at, what they remember.

    error_estimate: the sum over steps so far, whose root the limit is for.
    """

    x: Tensor
    x0: Tensor
    row: Tensor
    error_estimate: Tensor
    history: Tensor


class Scheduled:
    """A fixed-grid method; samples above the limit go on from the end of a table to the next one."""

    def __init__(self, tables: Sequence[GridRows], like: Tensor, limit: float = math.inf) -> None:
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
        error_estimate = state.error_estimate + (moved - x).flatten(1).square().mean(1)
        ended = torch.isin(state.row, self.last)
        again = ended & (error_estimate.sqrt() > self.limit) & (state.row < self.last[-1])
        following = (state.row + 1).clamp(max=len(self.rows) - 1)
        if self.limit < math.inf and again.any():  # the question costs a wait for the device
            moved = torch.where(per_sample(again, moved), state.x0, moved)
            error_estimate = torch.where(again, 0.0, error_estimate)
        return State(moved, state.x0, following, error_estimate, history), ended & ~again


def combine(weights: Tensor, history: Tensor, x: Tensor) -> Tensor:
    """Return weights[:, 0] x + sum_k weights[:, 1 + k] history[:, k], shaped like x."""
    moved = weights[:, :1] * x.flatten(1)
    if history.shape[1]:
        moved = torch.baddbmm(moved[:, None], weights[:, None, 1:], history)[:, 0]
    return moved.reshape(x.shape)
