"""What the terminal shows: lines, columns, and the progress of a long job on standard error.

Standard error tells and standard output holds results. So what fails to reach standard error (a full disk
under a log, a reader that has left, a terminal that was closed) ends nothing and waits; what fails to reach
standard output is `Unprinted`.
"""

import contextlib
import errno
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # plain lines come at least this far apart
MOST_WAITING = 1000  # pieces of text that wait for standard error; older ones are let go


class Unprinted(Exception):  # noqa: N818 (the work itself is done)
    """Standard output does not take a result; `cause` is why."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"standard output cannot be written: {cause.strerror or cause}")
        self.cause = cause


class StandardError:
    """A stream that never fails: what it does not take now comes before what is written next."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.waiting: deque[str | bytes] = deque(maxlen=MOST_WAITING)
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        try:
            self.handle: int | None = stream.fileno()  # a buffer of its own would keep what waits here
        except (OSError, ValueError):
            self.handle = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text, now or later."""
        encoding = self.stream.encoding or "utf-8"
        self.waiting.append(text if self.handle is None else text.encode(encoding, "backslashreplace"))
        self.flush()
        return len(text)

    def flush(self) -> None:
        """Try to write what waits."""
        while self.waiting:
            part = self.waiting.popleft()
            try:
                left = self._put(part)
            except (OSError, ValueError):
                self.waiting.appendleft(part)
                return
            if left:
                self.waiting.appendleft(left)

    def _put(self, part: str | bytes) -> str | bytes:
        """Write what the system takes at once; return the rest."""
        if isinstance(part, bytes):
            assert self.handle is not None, "bytes are for a handle"
            return part[os.write(self.handle, part) :]
        self.stream.write(part)
        self.stream.flush()
        return ""


class StandardOutput:
    """A stream that raises Unprinted, once, and has nothing left to fail with when the program ends."""

    def __init__(self, stream: TextIO, *, closed: bool = False) -> None:
        self.stream, self.shut, self.failed = stream, closed, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text."""
        with self._printing():
            if self.shut:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Pass on what is written."""
        with self._printing():
            if not self.failed:
                self.stream.flush()

    @contextlib.contextmanager
    def _printing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failed = True
            raise Unprinted(error) from error


def guard_streams() -> None:
    """Make standard error one that cannot fail, and have standard output say that it does.

    A closed one becomes /dev/null below: the next file that is opened would take its place, and whoever
    writes there would write into an artifact.
    """
    out, err = cast(TextIO | None, sys.stdout), cast(TextIO | None, sys.stderr)
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    nowhere = Path(os.devnull)
    if not isinstance(out, StandardOutput):
        guarded = StandardOutput(out or nowhere.open("w"), closed=out is None)
        sys.stdout = cast(TextIO, guarded)
    if not isinstance(err, StandardError):
        sys.stderr = cast(TextIO, StandardError(err or nowhere.open("w")))


# Control characters, marks that reorder text and other ends of lines; bytes of names that are no text.
STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
BYTES = re.compile(r"[\ud800-\udfff]")


def visible(text: str, *, bytes_stay: bool = False) -> str:
    """Return one line in which names and headers of others cannot steer a terminal.

    An escape becomes \\x1b, and so does any byte that is no text, unless bytes_stay.
    """
    text = STEERING.sub(_escaped, text)
    return text if bytes_stay else BYTES.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def say(message: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"{visible(message)}\n")
    sys.stderr.flush()


def answer(result: str) -> None:
    """Write a result, in one line or several, to standard output."""
    sys.stdout.write("".join(f"{visible(line)}\n" for line in result.split("\n")))
    sys.stdout.flush()


class Meter:
    """A counter from 0 to total: a bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, title: str, total: int, unit: str, *, done: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.first, self.begin, self.shown = done, time.monotonic(), 0.0
        console = Console(stderr=True)
        self.bar: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}  {task.fields[figures]}", markup=False),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task(
                visible(title), total=total, completed=done, unit=unit, figures=""
            )

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
    words = [[visible(str(word)) for word in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    flush = set(range(len(widths)) if left is None else left)
    return [
        "  ".join(
            f"{word:<{width}}" if column in flush else f"{word:>{width}}"
            for column, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in words
    ]
