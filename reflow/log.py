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
        kept = []
        if path.exists() and step:
            for line in path.read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    if entry["step"] <= step:
                        kept.append(line + "\n")
                        self.spent = float(entry["seconds"])
        write_atomically(path, "".join(kept).encode())

    def seconds(self) -> float:
        """Return the seconds of training so far, earlier sessions included."""
        return self.spent + time.monotonic() - self.begin

    def write(self, fit: Fit, figures: Figures, validation: Mapping[str, float]) -> dict[str, Any]:
        """Append a line about the steps since the last one, and return it."""
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
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.step, self.last = fit.step, now
        return entry


def memory_mb(device: torch.device) -> int:
    """Return the most memory used so far, in MB: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 10**6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 10**6 if sys.platform == "darwin" else peak * 1024 // 10**6  # bytes or KiB
