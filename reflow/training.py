"""Driving a fit to its end inside a stage's directory: resume, log, states, previews, signals.

This is where training meets the clock, the terminal and the disk; `fit` knows none of them.
"""

import contextlib
import copy
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from reflow.artifacts import (
    LOG,
    MODEL,
    PREVIEW,
    STATE,
    Header,
    damaged,
    read_artifact,
    write_artifact,
    write_atomically,
    writing,
)
from reflow.couplings import Coupling
from reflow.errors import Interrupted, ReflowError
from reflow.fit import Fit
from reflow.flow import Objective, VelocityField
from reflow.models import Model
from reflow.models.preconditioning import Preconditioned
from reflow.reporting.preview import preview
from reflow.reporting.progress import Meter, say
from reflow.settings import FitSettings
from reflow.workspace import require_same


@dataclass
class Stop:
    """Which signal has asked the process to stop, if any."""

    signal: int | None = None


def interruptible(field: VelocityField, stop: Stop, where: Callable[[], str]) -> VelocityField:
    """Return the field, raising Interrupted at the first call after a signal, `where` the work is."""

    def velocity(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if stop.signal is not None:
            raise Interrupted(stop.signal, where())
        return field(x, t, label)

    return velocity


@contextlib.contextmanager
def watching_signals() -> Iterator[Stop]:
    """Note the first SIGINT or SIGTERM instead of dying of it; a second one kills as usual."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.signal = number
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finished(out: Path, wanted: Header) -> bool:
    """Return whether `out` holds the complete model that is wanted, and say so.

    Raises ReflowError when what stands there, complete or not, was made with other settings.
    """
    if not (out / MODEL).exists():
        return False
    found, _ = read_artifact(out / MODEL, "model")
    require_same(out / MODEL, found, wanted)
    say(f"{out} is complete; nothing to do (--fresh makes it anew)")
    return True


@dataclass(frozen=True)
class _Session:
    """A fit in a stage's directory: how it is saved, shown and published."""

    fit: Fit
    out: Path
    header: Header
    model: Model

    def save(self) -> None:
        """Write the state; refuse to overwrite a good one with values that are not finite."""
        _require_finite(self.fit, self.out)
        facts = self.header.facts | {"step": self.fit.step}
        state = replace(self.header, kind="state", facts=facts)
        write_artifact(self.out / STATE, self.fit.tensors(), state)

    def show(self) -> None:
        """Write the preview of the averaged model."""
        seed, device = int(self.header.recipe["seed"]), self.fit.device
        write_atomically(self.out / PREVIEW, preview(self.model, seed=seed, device=device))

    def publish(self) -> None:
        """Write the averaged model: the stage is complete."""
        self.save()
        self.show()
        write_artifact(self.out / MODEL, self.fit.average.state_dict(), self.header)

    def run(self, log: "_Log") -> None:
        """Take the steps that are left."""
        fit, settings = self.fit, self.fit.settings
        with (
            watching_signals() as stop,
            Meter(self.header.stage, settings.steps, "steps", done=fit.step) as meter,
        ):
            while fit.step < settings.steps:
                fit.advance()
                if fit.step % settings.log_every == 0 or fit.step == settings.steps:
                    _require_finite(fit, self.out)
                    meter.update(fit.step, log.write(fit))
                if stop.signal is not None:
                    self.save()
                    raise Interrupted(stop.signal, f"at step {fit.step}; the state is saved")
                if fit.step % settings.save_every == 0:
                    self.save()
                if fit.step % settings.preview_every == 0 and fit.step < settings.steps:
                    self.show()


def train_model(
    net: Preconditioned,
    coupling: Coupling,
    objective: Objective,
    settings: FitSettings,
    *,
    out: Path,
    header: Header,
    device: torch.device,
) -> None:
    """Train the network as its header says, from its state if there is one, and write the model.

    Raises Interrupted after a signal and ReflowError when the loss is not finite; the last state
    stands in both cases.
    """
    average = copy.deepcopy(net).eval().requires_grad_(False)
    fit = Fit(
        net,
        average,
        coupling,
        objective,
        settings,
        seed=int(header.recipe["seed"]),
        stream=f"{header.stage} {header.rectification}",
        device=device,
    )
    _resume(fit, out, header)
    log = _Log(out / LOG, fit.step)
    session = _Session(fit, out, header, Model(average, header, digest=""))
    session.run(log)
    session.publish()
    say(f"{out}: {settings.steps} steps in {log.seconds():.0f} s; the model is complete")


def _resume(fit: Fit, out: Path, header: Header) -> None:
    """Restore the state in `out`, if there is one."""
    path = out / STATE
    if not path.exists():
        return
    found, tensors = read_artifact(path, "state")
    require_same(path, replace(found, kind="model"), header)
    try:
        fit.restore(tensors, found.facts["step"])
    except (KeyError, RuntimeError) as error:
        raise damaged(path, f"it does not fit its recipe ({error})") from error


def _require_finite(fit: Fit, out: Path) -> None:
    if not bool(torch.isfinite(fit.losses + fit.norms)):
        state = out / STATE
        kept = f"the last good state is kept in {state}" if state.exists() else "no state was saved"
        raise ReflowError(
            f"the loss is not finite at or before step {fit.step}; {kept}. "
            "Lower the learning rate (lr) or check the data, then start again with --fresh"
        )


class _Log:
    """log.jsonl: one JSON object per logging interval, cut back to the step that a run resumes from."""

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

    def write(self, fit: Fit) -> str:
        """Append the averages since the last line and return them for the progress display."""
        now, steps = time.monotonic(), fit.step - self.step
        rate = steps * fit.settings.batch / max(now - self.last, 1e-9)
        entry: dict[str, Any] = {
            "step": fit.step,
            "loss": float(fit.losses) / steps,
            "gradient_norm": float(fit.norms) / steps,
            "lr": fit.rate,
            "images_per_s": round(rate, 1),
            "seconds": round(self.seconds(), 2),
        }
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.step, self.last = fit.step, now
        fit.reset()
        return f"loss {entry['loss']:.4f}  {rate:.0f} images/s"
