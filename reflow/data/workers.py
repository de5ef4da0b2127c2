"""Jobs on other processes or threads: results in order, few of them in flight.

Images are decoded by processes. Threads would do for large ones, whose decoding leaves the
interpreter's lock; of small ones half the time is Python.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from reflow.errors import ReflowError

Result = TypeVar("Result")


QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of work and of time, or "max"


def processors() -> int:
    """Return how many processors this process may use, by its affinity and its container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        work, time = map(int, QUOTA.read_text().split())
        count = min(count, max(1, round(work / time)))
    return count


def in_order(jobs: Iterable[Callable[[], Result]], pool: Executor, workers: int) -> Iterator[Result]:
    """Yield the results of the jobs; no more than twice as many as there are workers wait or run."""
    pending: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(job))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


@contextlib.contextmanager
def processes(count: int) -> Iterator[Executor]:
    """Yield a pool of fresh processes; forked ones would inherit locks that threads of torch hold."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_follow_parent)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ReflowError(
            "a process that decodes images was killed, possibly out of memory; "
            "run the command again with fewer processors (taskset -c 0)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Leave signals of the terminal to the parent, and end when it ends, however it does."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a child"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
