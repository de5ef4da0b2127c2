"""Who follows a training: its log, the terminal and, where asked for, experiment trackers."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from reflow.artifacts import LOG, PREVIEW, Header, write_atomically
from reflow.config import flat
from reflow.fit import Fit
from reflow.log import Log
from reflow.reporting.progress import Meter, say
from reflow.reporting.tracking import Launch, open_tracker
from reflow.tally import Figures


class Followers:
    """All that are told of a training from its present step on; trackers are named."""

    def __init__(self, out: Path, header: Header, fit: Fit, trackers: Sequence[str]) -> None:
        self.out, self.stack = out, contextlib.ExitStack()
        self.books = Log(out / LOG, fit.step)
        self.meter = Meter(header.stage, fit.settings.steps, "steps", done=fit.step)
        title = f"{header.recipe['name']} {header.stage} {header.rectification}"
        launch = Launch(out, title, flat(header.recipe), fit.step)
        self.trackers = [open_tracker(name, launch, say) for name in trackers]

    def __enter__(self) -> "Followers":
        self.stack.enter_context(self.meter)
        for tracker in self.trackers:
            self.stack.callback(tracker.close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stack.close()

    def log(self, fit: Fit, figures: Figures, validation: Mapping[str, float]) -> None:
        """Tell the means of the steps since the last time."""
        line = self.books.write(fit, figures, validation)
        self.meter.update(fit.step, in_short(line))
        for tracker in self.trackers:
            tracker.log(fit.step, numbers(line))

    def show(self, step: int, png: bytes) -> None:
        """Show a preview of the averaged model."""
        write_atomically(self.out / PREVIEW, png)
        for tracker in self.trackers:
            tracker.picture(step, "samples", png)

    def seconds(self) -> float:
        """Return the seconds of training so far, earlier sessions included."""
        return self.books.seconds()


def in_short(line: Mapping[str, Any]) -> str:
    """Return the figures of a log line for the progress display."""
    loss = "none" if line["loss"] is None else f"{line['loss']:.4f}"
    held_out = f" (held out {line['held_out_loss']:.4f})" if "held_out_loss" in line else ""
    return f"loss {loss}{held_out}  {line['images_per_s']:.0f} images/s"


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a log line by name, those of quarters of t under names of their own."""
    quarters = line.get("loss_by_quarter") or ()
    named = dict(line) | {f"loss_by_quarter/{number}": loss for number, loss in enumerate(quarters, 1)}
    return {
        name: value for name, value in named.items() if isinstance(value, int | float) and name != "step"
    }
