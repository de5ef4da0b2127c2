"""Progress of a long job on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reflow.artifacts import PAIRS, Header
from reflow.pairs import PairStore, open_pairs, read_index
from reflow.pairs import Progress as BytesRead
from reflow.solvers.pilot import Accuracy
from reflow.solvers.plan import Plan
from reflow.workspace import require_same

LINE_SECONDS = 10.0  # plain lines come at least this far apart
PATIENCE_SECONDS = 2.0  # what takes less than this shows nothing


def say(message: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


class Meter:
    """A counter from 0 to total; `update` shows it with a few figures, unless it is hidden."""

    def __init__(self, title: str, total: int, unit: str, *, done: int = 0, hidden: bool = False) -> None:
        self.title, self.total, self.unit, self.hidden = title, total, unit, hidden
        self.first, self.begin, self.shown = done, time.monotonic(), 0.0
        console = Console(stderr=True)
        self.bar: Progress | None = None
        if console.is_terminal and not hidden:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}  {task.fields[figures]}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task(title, total=total, completed=done, unit=unit, figures="")

    def __enter__(self) -> "Meter":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, done: int, figures: str = "") -> None:
        """Show that `done` of the total is reached."""
        if self.bar:
            self.bar.update(self.task, completed=done, figures=figures)
            return
        now = time.monotonic()
        if self.hidden or (done < self.total and now - self.shown < LINE_SECONDS):
            return
        self.shown = now
        spent = now - self.begin
        left = spent * (self.total - done) / max(done - self.first, 1)
        say(
            f"{self.title}: {done}/{self.total} {self.unit}  {figures}  "
            f"{spent:.0f} s gone, {left:.0f} s left"
        )


def open_pairs_watched(directory: Path) -> PairStore:
    """Return the pairs in a directory, showing how far the check of all bytes is when it takes a while."""
    with _megabytes(f"check {directory}") as progress:
        return open_pairs(directory, progress)


def already_complete(out: Path, header: Header) -> bool:
    """Return whether `out` holds the complete pairs that are wanted, checked, and say so."""
    if not (out / PAIRS).exists():
        return False
    found, _ = read_index(out / PAIRS)
    require_same(out / PAIRS, found, header)
    open_pairs_watched(out)
    say(f"{out} is complete; nothing to do (--fresh makes it anew)")
    return True


def tell(plan: Plan, pilot: Accuracy, wanted: float | None) -> str:
    """Return in one line what a pilot found."""
    how = f"{len(plan.nodes) - 1} steps" if plan.nodes else f"tolerance {plan.local_tolerance:.2g} per step"
    if plan.finer:
        how += f" ({' or '.join(str(len(nodes) - 1) for nodes in plan.finer)} for the few that need them)"
    asked = "" if wanted is None else f" (asked for {wanted:g})"
    spent = f"it took {pilot.evaluations / pilot.samples:.0f} evaluations a sample"
    return (
        f"pilot: {plan.solver}, {how}; {pilot.samples} samples are off by {pilot.rms:.2g} RMS{asked}, "
        f"the worst by {pilot.worst:.2g}; {spent}"
    )


@contextlib.contextmanager
def _megabytes(title: str) -> Iterator[BytesRead]:
    """Yield what takes (bytes done, bytes in all) and shows a meter once PATIENCE_SECONDS have gone."""
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        meter: Meter | None = None

        def show(done: int, total: int) -> None:
            nonlocal meter
            done, total = done // 10**6, total // 10**6
            if meter is None and time.monotonic() - begin > PATIENCE_SECONDS:
                meter = stack.enter_context(Meter(title, total, "MB", done=done))
            if meter is not None:
                meter.update(done)

        yield show
