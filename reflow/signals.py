"""Signals that ask a long job to stop: noted, so that it can save first.

SIGINT comes from Ctrl-C, SIGTERM from whoever ends jobs, SIGHUP from a terminal or a connection that was
lost, and SIGUSR1 from schedulers that warn before a time limit. One that was ignored when the command
began stays ignored: nohup does so with SIGHUP. Importing this module does not import torch.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from reflow.errors import Interrupted

if TYPE_CHECKING:
    from torch import Tensor

    from reflow.flow import VelocityField

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
INSISTING = (signal.SIGINT, signal.SIGTERM)  # sent again, they kill; the others may well come twice

Handler = Callable[[int, FrameType | None], None]


@dataclass
class Stop:
    """Which signal has asked the process to stop, if any."""

    signal: int | None = None


def interruptible(field: "VelocityField", stop: Stop, where: Callable[[], str]) -> "VelocityField":
    """Return the field, raising Interrupted at the first call after a signal, `where` the work is."""

    def velocity(x: "Tensor", t: "Tensor", label: "Tensor | None" = None) -> "Tensor":
        if stop.signal is not None:
            raise Interrupted(stop.signal, where())
        return field(x, t, label)

    return velocity


def heed(handler: Handler) -> None:
    """Have every signal that asks to stop handled, but for those that are ignored."""
    for number in _heeded():
        signal.signal(number, handler)


@contextlib.contextmanager
def watching_signals() -> Iterator[Stop]:
    """Note the first signal that asks to stop instead of dying of it.

    A second SIGINT or SIGTERM kills as usual; a closed terminal may send SIGHUP from the shell and from the
    system.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.signal = stop.signal or number
        if number in INSISTING:
            signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in _heeded()}
    heed(note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> list[signal.Signals]:
    """Return the signals that are not ignored, nor handled by something that is not Python."""
    return [number for number in STOPPING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
