"""Signals that ask a long job to stop: noted, so that it can save first."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from torch import Tensor

from reflow.errors import Interrupted
from reflow.flow import VelocityField


@dataclass
class Stop:
    """Which signal has asked the process to stop, if any."""

    signal: int | None = None


def interruptible(field: VelocityField, stop: Stop, where: Callable[[], str]) -> VelocityField:
    """Return the field, raising Interrupted at the first call after a signal, `where` the work is."""

    def velocity(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if stop.signal is not None:
            raise Interrupted(stop.signal, where())
        return field(x, t, label)

    return velocity


@contextlib.contextmanager
def watching_signals() -> Iterator[Stop]:
    """Note the first SIGINT or SIGTERM instead of dying of it; a second one kills as usual."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.signal = number
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
