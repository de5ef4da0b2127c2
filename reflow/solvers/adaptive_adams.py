"""Adams' predictor-corrector with a step size of its own for every sample, one evaluation a step.

The predictor integrates the polynomial through the last velocities, the corrector the one that also
passes through the new velocity; their difference estimates the error. The order grows by itself from
one as velocities come in. Shampine & Gordon 1975, Computer Solution of ODEs, chapters 3 to 5.

Shapes: x (B, *event), s, h, known (B,), nodes (B, K) and history (B, K, D), newest first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reflow.devices import most_precise
from reflow.solvers.fixed_grid import combine
from reflow.solvers.step_size import FIRST_STEP, Control, clip, require_progress

SHARE = 0.15  # of predictor minus corrector: what the corrected value is off by, about


class State(NamedTuple):
    """Samples under way; `known` counts the velocities they remember."""

    x: Tensor
    s: Tensor
    h: Tensor
    known: Tensor
    nodes: Tensor
    history: Tensor


class VariableAdams:
    """Adams of order 2 to 4 under step control."""

    def __init__(self, order: int, tolerance: float) -> None:
        self.order = order
        self.control = Control(tolerance, safety=0.85, shrink=0.2, grow=2.0)

    def begin(self, x0: Tensor) -> State:
        """Return samples at the start, before the first velocity."""
        s = x0.new_zeros(len(x0))
        return State(
            x0,
            s,
            torch.full_like(s, FIRST_STEP),
            torch.zeros(len(x0), dtype=torch.int64, device=x0.device),
            x0.new_zeros(len(x0), self.order),
            x0.new_zeros(len(x0), self.order, x0[0].numel()),
        )

    def query(self, state: State) -> tuple[Tensor, Tensor]:
        """Return the predicted states and the ends of the steps; at first, the start itself."""
        weights = _weights(state.nodes, state.known, state.s, state.h)
        x = combine(torch.cat([torch.ones_like(weights[:, :1]), weights], 1), state.history, state.x)
        return x, _ends(state)

    def advance(self, state: State, x: Tensor, t: Tensor, velocity: Tensor) -> tuple[State, Tensor]:
        """Correct, judge the step, and remember the velocity of those that were accepted."""
        flat = velocity.flatten(1)
        nodes = torch.cat([t[:, None], state.nodes], 1)
        history = torch.cat([flat[:, None], state.history], 1)
        weights = _weights(nodes, state.known + 1, state.s, state.h)
        weights = torch.where(state.known[:, None] > 0, weights, 0.0)
        corrected = combine(torch.cat([torch.ones_like(weights[:, :1]), weights], 1), history, state.x)
        begun = state.known > 0
        q = torch.where(begun, self.control.error(SHARE * (corrected - x).flatten(1)), 0.0)
        require_progress(state.h, q, state.s)
        accepted = q <= 1
        s = torch.where(accepted, t, state.s)
        h = torch.where(begun, self.control.next_step(state.h, q, state.known), state.h)
        arrived = accepted & (s >= 1)  # who stays as an idle slot stands still: no step, nothing known
        known = torch.where(accepted, (state.known + 1).clamp(max=self.order), state.known)
        keep = accepted[:, None]
        moved = State(
            torch.where(keep.reshape(-1, *[1] * (x.ndim - 1)), corrected, state.x),
            s,
            torch.where(arrived, FIRST_STEP, clip(h, s)),
            torch.where(arrived, 0, known),
            torch.where(keep, nodes[:, : self.order], state.nodes),
            torch.where(keep[..., None], history[:, : self.order], state.history),
        )
        return moved, arrived


def _ends(state: State) -> Tensor:
    ends = torch.where(state.h >= 1 - state.s, 1.0, state.s + state.h)
    return torch.where(state.known > 0, ends, state.s)


def _weights(nodes: Tensor, known: Tensor, s: Tensor, h: Tensor) -> Tensor:
    """Return the weights (B, K) of the velocities at the nodes for the integral over [s, s + h].

    Unknown nodes weigh nothing: their place in the Vandermonde system is a row of the identity.
    """
    count = nodes.shape[1]
    precise = most_precise(nodes.device)
    place = torch.arange(count, device=nodes.device)
    missing = place >= known[:, None]  # (B, K)
    scaled = torch.where(missing, 0.0, (nodes - s[:, None]) / h[:, None]).to(precise)
    powers = scaled[:, None, :] ** place[None, :, None]  # (B, power, node)
    alone = torch.eye(count, dtype=torch.bool, device=nodes.device)
    system = torch.where(missing[:, None, :] | missing[:, :, None], alone.to(precise), powers)
    moments = torch.where(missing, 0.0, 1 / (place + 1.0).to(precise))
    weights: Tensor = torch.linalg.solve(system, moments)
    return weights.to(nodes) * h[:, None]
