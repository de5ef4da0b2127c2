"""Following a run in an experiment tracker that cannot harm the training run; log.jsonl stays the truth.

A failure is said once. Figures then wait and are offered again, in order, so that none is missing when
the tracker is back; a picture is let go.
"""

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from reflow.artifacts import LOG
from reflow.errors import UsageError
from reflow.extras import require_installed
from reflow.training.trackers import TRACKERS, Launch, Tracker

__all__ = ["TRACKERS", "Launch", "Tracker", "open_tracker", "require_tracker"]

PATIENCE = 64  # calls at most that a failing tracker is left alone


def require_tracker(name: str) -> None:
    """Refuse a tracker that is unknown or whose library is not installed."""
    if name not in TRACKERS:
        raise UsageError(f"--track {name}: unknown; choose from {', '.join(TRACKERS)}")
    require_installed(name, "track", f"--track {name}")


def open_tracker(name: str, launch: Launch, warn: Callable[[str], None]) -> Tracker:
    """Return the tracker of this name; `warn` is told once when it fails, then or later.

    Raises ReflowError for a tracker that is unknown or not installed, and nothing after that.
    """
    require_tracker(name)
    return _Guarded(name, launch, warn)


class _Guarded:
    """A tracker that raises nothing: opened when it can be, and again after a failure."""

    def __init__(self, name: str, launch: Launch, warn: Callable[[str], None]) -> None:
        self.name, self.launch, self.warn = name, launch, warn
        self.tracker: Tracker | None = None
        self.waiting: deque[tuple[int, Mapping[str, float]]] = deque()
        self.failures, self.pause, self.told = 0, 0, False
        self._attempt()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Pass figures on, now or when the tracker is back."""
        self.waiting.append((step, dict(figures)))
        self._when_due()

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Pass a picture on if the tracker is there."""

        def give(tracker: Tracker) -> None:
            tracker.picture(step, name, png)
            self._reached(step)

        self._when_due(give)

    def close(self) -> None:
        """Try a last time to pass on what waits, and close."""
        if self.tracker is not None or self.waiting:
            self._attempt(lambda tracker: tracker.close())
        if self.waiting:
            self.warn(f"{len(self.waiting)} lines of figures never reached {self.name}; {LOG} has them")

    def _when_due(self, action: Callable[[Tracker], None] | None = None) -> None:
        if self.pause:
            self.pause -= 1
        else:
            self._attempt(action)

    def _attempt(self, action: Callable[[Tracker], None] | None = None) -> None:
        """Open the tracker if need be, pass on what waits, then act."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # ours carries results
                if self.tracker is None:
                    self.tracker = TRACKERS[self.name](self.launch)
                while self.waiting:
                    step, figures = self.waiting[0]
                    self.tracker.log(step, figures)
                    self._reached(step)
                    self.waiting.popleft()
                if action is not None:
                    action(self.tracker)
        except Exception as error:  # noqa: BLE001 (whatever goes wrong there, the training run goes on)
            self._failed(error)
        else:
            self.failures = 0

    def _failed(self, error: Exception) -> None:
        """Leave the tracker alone for 0, 1, 3, 7 ... calls; the clock is not ours to read."""
        self.tracker = None
        self.pause = min(2**self.failures, PATIENCE) - 1
        self.failures += 1
        if not self.told:
            self.told = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.warn(f"{self.name} is unavailable ({reason}); metrics stay in {LOG} and will be retried")

    def _reached(self, step: int) -> None:
        """Note how far the tracker has come, for when it is opened again."""
        self.launch = replace(self.launch, step=max(self.launch.step, step))
