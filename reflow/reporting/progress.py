"""Progress of a long job on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from reflow.artifacts import PAIRS, Header
from reflow.config import unread
from reflow.data import DataSet, Watch, open_data
from reflow.pairs import PairStore, open_pairs, read_index
from reflow.settings import DataSettings
from reflow.solvers.pilot import Accuracy
from reflow.solvers.plan import Plan
from reflow.workspace import require_same

LINE_SECONDS = 10.0  # plain lines come at least this far apart
PATIENCE_SECONDS = 2.0  # what takes less than this shows nothing


def say(message: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def say_unread(overrides: Iterable[str], section: str) -> None:
    """Say which training settings a stage does not read, as it reads those of its own section."""
    for name in unread(overrides, [section]):
        say(f"note: --set {name} changes nothing here; this stage reads [{section}]")


class Meter:
    """A counter from 0 to total; `update` shows it with a few figures."""

    def __init__(self, title: str, total: int, unit: str, *, done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.first, self.begin, self.shown = done, time.monotonic(), 0.0
        console = Console(stderr=True)
        self.bar: Progress | None = None
        if console.is_terminal:
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
        if done < self.total and now - self.shown < LINE_SECONDS:
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
    with _patient() as show:
        return open_pairs(
            directory,
            lambda done, total: show(f"check {directory}", done // 10**6, total // 10**6, "MB"),
        )


def open_data_watched(settings: DataSettings, seed: int) -> DataSet:
    """Return the data of these settings, showing how far it is decoded when that takes a while."""
    with _patient() as show:
        return open_data(settings, seed, Watch(show, say))


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
def _patient() -> Iterator[Callable[[str, int, int, str], None]]:
    """Yield what takes (what, done, total, unit) and shows a meter once PATIENCE_SECONDS have gone."""
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        meters: dict[str, Meter] = {}

        def show(what: str, done: int, total: int, unit: str) -> None:
            if what not in meters and time.monotonic() - begin > PATIENCE_SECONDS:
                stack.close()  # the meter of what came before
                meters[what] = stack.enter_context(Meter(what, total, unit, done=done))
            if what in meters:
                meters[what].update(done)

        yield show
