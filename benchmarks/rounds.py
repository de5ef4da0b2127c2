"""Timing what takes turns, so that whatever else a machine does falls on all alike.

A contestant is a function that sets up some work and returns it; it is called in a process of its own, so
that no contestant inherits another's threads or memory. Only one of them works at a time. Seconds are
taken by the clock or, on a machine that others use too, as processor time.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

Work = Callable[[], object]
Contestant = Callable[[], Work]  # by a name that another process can import

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Timing:
    """Seconds of the first piece of work by the wall clock, and of the others, round by round."""

    first: float
    seconds: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    def faster_than(self, other: "Timing") -> float:
        """Return how many times faster this is: the median over rounds of both of the ratio."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def alternate(
    contestants: Mapping[str, Contestant], rounds: int, *, clock: str = "wall", threads: int = 1
) -> dict[str, Timing]:
    """Time all contestants in every round, forwards and backwards in turns."""
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    processes, first = [], {}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    try:
        for name, contestant in contestants.items():
            ends[name], theirs = context.Pipe()
            processes.append(context.Process(target=_serve, args=(theirs, contestant, clock, threads)))
            processes[-1].start()
            theirs.close()
            first[name] = ends[name].recv()
        for number in range(rounds):
            for name in list(contestants)[:: 1 if number % 2 == 0 else -1]:
                ends[name].send(None)
                seconds[name].append(ends[name].recv())
    finally:
        for end in ends.values():
            end.close()
        for process in processes:
            process.join()
    return {name: Timing(first[name], spent) for name, spent in seconds.items()}


def _serve(end: Connection, contestant: Contestant, clock: str, threads: int) -> None:
    """Work whenever told to, and say how long it took; leave when the other end is closed."""
    torch.set_num_threads(threads)
    work = contestant()
    end.send(_timed(work, CLOCKS["wall"]))
    while True:
        try:
            end.recv()
        except EOFError:
            return
        end.send(_timed(work, CLOCKS[clock]))


def _timed(work: Work, now: Callable[[], float]) -> float:
    begin = now()
    work()
    return now() - begin


def paid_back(cost: float, before: float, after: float) -> int | None:
    """Return the steps after which `cost` seconds are paid back by steps of `after` seconds, or None."""
    if after >= before:
        return None
    return int(-(-cost // (before - after)))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
