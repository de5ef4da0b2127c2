"""Who is told of a training run: log.jsonl, the terminal and, where asked for, experiment trackers.

log.jsonl has one JSON object per logging interval, and is cut back to the step that a run resumes from.

What tells of a training run never ends it: see `harmless`.
"""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from reflow.artifacts import LOG, PREVIEW, Header, finite
from reflow.artifacts.files import write_atomically, writing
from reflow.errors import ReflowError
from reflow.recipes.read import flat
from reflow.recipes.recipe import Recipe
from reflow.terminal import Meter, say
from reflow.training.fit import Fit
from reflow.training.running_means import Means
from reflow.training.tracking import Launch, open_tracker


class Log:
    """The log of a training run from `step` on; seconds count all sessions."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.first, self.step, self.spent = path, step, step, 0.0
        self.begin = self.last = time.monotonic()
        self.waiting: list[str] = []
        self.size: int | None = None  # bytes of whole lines; None until the file is cut back
        with harmless("the log"):
            self.cut_back()

    def cut_back(self) -> None:
        """Keep the lines up to the step that the run resumes from, and the seconds of before."""
        earlier: list[str] = []
        there = ""
        with writing(self.path):
            if self.first and self.path.exists():
                there = self.path.read_text("utf-8", errors="replace")
        for line in there.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                if entry["step"] <= self.first:
                    earlier.append(line + "\n")
                    self.spent = float(entry["seconds"])
        whole = "".join(earlier).encode()
        write_atomically(self.path, whole)
        self.size = len(whole)

    def seconds(self) -> float:
        """Return the seconds of training so far, earlier sessions included."""
        return self.spent + time.monotonic() - self.begin

    def line(self, fit: Fit, figures: Means, validation: Mapping[str, float]) -> dict[str, Any]:
        """Return a line about the steps since the last line."""
        now, settings = time.monotonic(), fit.settings
        rate = (fit.step - self.step) / max(now - self.last, 1e-9)  # steps per second
        entry = {
            "step": fit.step,
            "loss": figures.loss,
            **({} if figures.quarters is None else {"loss_by_quarter": figures.quarters}),
            **validation,
            "gradient_norm": figures.gradient_norm,
            "lr": fit.rate,
            "skipped": figures.skipped,
            "images_per_s": round(rate * settings.batch, 1),
            "memory_mb": memory_mb(fit.device),
            "seconds": round(self.seconds(), 2),
            "seconds_left": round((settings.steps - fit.step) / rate, 1),
        }
        self.step, self.last = fit.step, now
        return entry

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line, after those that could not be written before.

        Raises ReflowError when it cannot be written now.
        """
        self.waiting.append(json.dumps(line, allow_nan=False) + "\n")
        self.catch_up()

    def catch_up(self) -> None:
        """Write the lines that wait; raises ReflowError when they have to wait longer."""
        if self.size is None:
            self.cut_back()
        assert self.size is not None
        with writing(self.path), self.path.open("ab") as file:
            file.truncate(min(self.size, os.fstat(file.fileno()).st_size))  # of a line cut short
            file.write("".join(self.waiting).encode())
            file.flush()
            os.fsync(file.fileno())
            self.size = file.tell()
        self.waiting.clear()


@contextlib.contextmanager
def harmless(what: str) -> Iterator[None]:
    """Say what went wrong in this block, which tells of a training run, and train on."""
    try:
        yield
    except ReflowError as error:
        reason, _, _ = str(error).partition(";")  # the remedy is for those whose training has ended
        say(f"{reason}. Training continues without it")
    except Exception as error:  # noqa: BLE001 (whatever it is, the run is worth more)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        say(f"{what} failed ({reason}). Training continues without it")


def memory_mb(device: torch.device) -> int:
    """Return the most memory used so far, in MB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 10**6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 10**6 if sys.platform == "darwin" else peak * 1024 // 10**6  # bytes or KiB


class Observers:
    """All that are told of a training run from its present step on; trackers are named."""

    def __init__(
        self, out: Path, recipe: Recipe, header: Header, fit: Fit, trackers: Sequence[str]
    ) -> None:
        self.out, self.stack = out, contextlib.ExitStack()
        self.file = Log(out / LOG, fit.step)
        self.meter = Meter(header.stage, fit.settings.steps, "steps", done=fit.step)
        title = f"{recipe.name} {header.stage} {header.rectification}"
        launch = Launch(out, title, flat(recipe.model_dump(mode="json")), fit.step)
        self.trackers = [open_tracker(name, launch, say) for name in trackers]

    def __enter__(self) -> "Observers":
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
        if self.file.waiting:
            with harmless("the log"):
                self.file.catch_up()
        self.stack.close()

    def log(self, fit: Fit, figures: Means, validation: Mapping[str, float]) -> None:
        """Tell the means of the steps since the last time.

        Raises ReflowError when the log cannot be written; its lines wait until it can.
        """
        line: dict[str, Any] = finite(self.file.line(fit, figures, validation))
        with harmless("the progress display"):
            self.meter.update(fit.step, in_short(line))
        for tracker in self.trackers:
            tracker.log(fit.step, numbers(line))
        self.file.write(line)

    def show(self, step: int, png: bytes) -> None:
        """Show a preview of the averaged model.

        Raises ReflowError when it cannot be written.
        """
        for tracker in self.trackers:
            tracker.picture(step, "samples", png)
        write_atomically(self.out / PREVIEW, png)

    def seconds(self) -> float:
        """Return the seconds of training so far, earlier sessions included."""
        return self.file.seconds()


def in_short(line: Mapping[str, Any]) -> str:
    """Return the figures of a log line for the progress display."""
    loss = "none" if line["loss"] is None else f"{line['loss']:.4f}"
    held_out = "" if line.get("held_out_loss") is None else f" (held out {line['held_out_loss']:.4f})"
    return f"loss {loss}{held_out}  {line['images_per_s']:.0f} images/s"


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a log line by name, those of quarters of t under names of their own."""
    quarters = line.get("loss_by_quarter") or ()
    named = dict(line) | {f"loss_by_quarter/{number}": loss for number, loss in enumerate(quarters, 1)}
    return {
        name: value for name, value in named.items() if isinstance(value, int | float) and name != "step"
    }
