"""log.jsonl: one JSON object per logging interval, cut back to the step that a run resumes from."""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reflow.artifacts import write_atomically, writing
from reflow.fit import Fit
from reflow.tally import Figures


class Log:
    """The log of a training from `step` on; seconds count all sessions."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step, self.spent = path, step, 0.0
        self.begin = self.last = time.monotonic()
        kept: list[str] = []
        self.waiting: list[str] = []
        if path.exists() and step:
            for line in path.read_text("utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    if entry["step"] <= step:
                        kept.append(line + "\n")
                        self.spent = float(entry["seconds"])
        whole = "".join(kept).encode()
        write_atomically(path, whole)
        self.size = len(whole)

    def seconds(self) -> float:
        """Return the seconds of training so far, earlier sessions included."""
        return self.spent + time.monotonic() - self.begin

    def line(self, fit: Fit, figures: Figures, validation: Mapping[str, float]) -> dict[str, Any]:
        """Return a line about the steps since the last one."""
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
        self.waiting.append(json.dumps(line) + "\n")
        with writing(self.path), self.path.open("ab") as file:
            file.truncate(min(self.size, os.fstat(file.fileno()).st_size))  # of a line cut short
            file.write("".join(self.waiting).encode())
            file.flush()
            os.fsync(file.fileno())
            self.size = file.tell()
        self.waiting.clear()


def memory_mb(device: torch.device) -> int:
    """Return the most memory used so far, in MB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 10**6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 10**6 if sys.platform == "darwin" else peak * 1024 // 10**6  # bytes or KiB
