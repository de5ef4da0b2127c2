"""Continuous batching: samples that have arrived leave, fresh ones take their slots.

The batch stays full and its shape constant, whatever the number of evaluations each sample takes. A
method says where it wants the velocity (`query`) and takes the answer (`advance`), one network
evaluation of every slot at a time; each slot has a time of its own. A sample's result depends on its
neighbours by rounding only.

Shapes: x (B, *event), t (B,), label (B,); every tensor of a state has the slots first.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import VelocityField

SMALLEST = 16  # slots; smaller batches save nothing and round differently


class Draw(NamedTuple):
    """Samples to be solved: their numbers (n,), where they start (n, *event), labels (n,) or None."""

    number: Tensor
    x0: Tensor
    label: Tensor | None = None


class Arrival(NamedTuple):
    """Samples that have arrived: numbers (n,), end points (n, *event), evaluations (n,)."""

    number: Tensor
    x1: Tensor
    nfe: Tensor


class Method(Protocol):
    """A way from 0 to 1; a state is a NamedTuple of tensors with the field x."""

    def begin(self, x0: Tensor) -> Any:
        """Return the state of samples that stand at the start."""
        ...

    def query(self, state: Any) -> tuple[Tensor, Tensor]:
        """Return where and when the velocity of every slot is wanted: x (B, *event), t (B,)."""
        ...

    def advance(self, state: Any, x: Tensor, t: Tensor, velocity: Tensor) -> tuple[Any, Tensor]:
        """Take the answer to `query`; return the new state and which slots have arrived (B,)."""
        ...


@torch.no_grad()
def solve(
    field: VelocityField,
    method: Method,
    draws: Iterable[Draw],
    *,
    batch: int,
    constant: bool = False,
    span: tuple[float, float] = (0.0, 1.0),
) -> Iterator[Arrival]:
    """Carry all draws to their end with at most `batch` slots; yield them as they arrive.

    constant: keep the shape of the batch to the very end, for compiled code; idle slots are padding.
    span: the times at the method's 0 and 1, which messages name.

    Raises ReflowError, naming the sample and the time, when the field is not finite.
    """
    feed = _Feed(draws)
    first = feed.take(batch)
    if first is None:
        return
    slots = _admit(method, first)
    if constant and len(slots.number) < batch:
        slots = _take(slots, torch.arange(batch, device=first.x0.device) % len(slots.number))
        slots.busy[len(first.number) :] = False
    while True:
        x, t = method.query(slots.state)
        velocity = field(x, t, slots.label if first.label is not None else None)
        _require_finite(velocity, slots, t, span)
        state, arrived = method.advance(slots.state, x, t, velocity)
        slots = slots._replace(state=state, nfe=slots.nfe + 1)
        arrived = arrived & slots.busy
        if not arrived.any():
            continue
        yield Arrival(slots.number[arrived], slots.state.x[arrived], slots.nfe[arrived])
        slots = _refill(method, slots, arrived.nonzero()[:, 0], feed)
        busy = int(slots.busy.sum())
        if not busy:
            return
        if not constant:
            slots = _shrink(slots, busy)


class _Slots(NamedTuple):
    number: Tensor
    label: Tensor
    nfe: Tensor
    busy: Tensor
    state: Any


class _Feed:
    """Draws of any size, handed out in the sizes asked for."""

    def __init__(self, draws: Iterable[Draw]) -> None:
        self.draws = iter(draws)
        self.rest: Draw | None = None

    def take(self, n: int) -> Draw | None:
        """Return the next n samples, fewer at the end, None after it."""
        parts: list[Draw] = []
        while n > 0:
            draw = self.rest or next(self.draws, None)
            if draw is None:
                break
            if len(draw.number):
                parts.append(_slice(draw, slice(0, n)))
            self.rest = _slice(draw, slice(n, None)) if len(draw.number) > n else None
            n -= min(n, len(draw.number))
        if len(parts) <= 1:
            return parts[0] if parts else None
        labels = [part.label for part in parts if part.label is not None]
        return Draw(
            torch.cat([part.number for part in parts]),
            torch.cat([part.x0 for part in parts]),
            torch.cat(labels) if labels else None,
        )


def _slice(draw: Draw, rows: slice) -> Draw:
    return Draw(draw.number[rows], draw.x0[rows], None if draw.label is None else draw.label[rows])


def _admit(method: Method, draw: Draw) -> _Slots:
    number = draw.number.to(draw.x0.device, copy=True)  # slots are refilled in place
    blank = torch.zeros_like(number)
    label = blank.clone() if draw.label is None else draw.label.to(number, copy=True)
    return _Slots(number, label, blank.clone(), blank == 0, method.begin(draw.x0))


def _refill(method: Method, slots: _Slots, free: Tensor, feed: _Feed) -> _Slots:
    """Put fresh samples into the free slots; those that get none are idle."""
    draw = feed.take(len(free))
    count = 0 if draw is None else len(draw.number)
    slots.busy[free[count:]] = False
    if draw is not None:
        fresh = _admit(method, draw)
        for old, new in zip(_tensors(slots), _tensors(fresh), strict=True):
            old[free[:count]] = new
    return slots


def _take(slots: _Slots, rows: Tensor) -> _Slots:
    state = type(slots.state)(*(part[rows] for part in slots.state))
    number, label, nfe, busy = (part[rows] for part in slots[:4])
    return _Slots(number, label, nfe, busy, state)


def _shrink(slots: _Slots, busy: int) -> _Slots:
    """Halve the batch as often as the busy slots allow: few shapes, and equal rounding in all of them."""
    size = len(slots.busy)
    while size // 2 >= max(busy, SMALLEST):
        size //= 2
    if size == len(slots.busy):
        return slots
    return _take(slots, slots.busy.to(torch.int8).argsort(descending=True, stable=True)[:size])


def _tensors(slots: _Slots) -> tuple[Tensor, ...]:
    return (*slots[:4], *slots.state)


def _require_finite(velocity: Tensor, slots: _Slots, t: Tensor, span: tuple[float, float]) -> None:
    if velocity.isfinite().all():
        return
    bad = ~velocity.flatten(1).isfinite().all(1) & slots.busy
    if bad.any():
        first = int(bad.nonzero()[0])
        time = span[0] + (span[1] - span[0]) * float(t[first])
        raise ReflowError(
            f"the velocity of sample {int(slots.number[first])} is not finite "
            f"at t = {time:.4f}; the model is damaged or diverged"
        )
