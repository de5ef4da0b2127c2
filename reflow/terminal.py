"""What the terminal shows: lines, columns, and the progress of a long job on standard error."""

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # plain lines come at least this far apart


def say(message: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


class Meter:
    """A counter from 0 to total: a bar on a terminal, a plain line now and then elsewhere."""

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
            f"{spent:.0f} s elapsed, {left:.0f} s left"
        )


def aligned(rows: Iterable[Sequence[object]], left: Iterable[int] | None = None) -> list[str]:
    """Return rows as lines in columns; those of the numbers `left` (default: all) are flush left."""
    words = [[str(word) for word in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    flush = set(range(len(widths)) if left is None else left)
    return [
        "  ".join(
            f"{word:<{width}}" if column in flush else f"{word:>{width}}"
            for column, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in words
    ]
