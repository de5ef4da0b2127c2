"""States of a training run: what a killed one resumes from, bit for bit.

A state holds everything that `Fit.restore` needs. The one before is kept beside the newest, for a disk
that returns other bytes than were written.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from reflow.artifacts import MODEL, PREVIOUS, STATE, Header, damaged, read_artifact, write_artifact
from reflow.artifacts.facts import model_facts
from reflow.artifacts.files import writing
from reflow.artifacts.stage_directory import require_same
from reflow.distributed import Shared, agree
from reflow.errors import ReflowError
from reflow.terminal import say
from reflow.training.fit import Fit

SPARE = 2**20  # bytes left free beside a state


class UnwrittenStateError(ReflowError):
    """There is nothing wrong with a state, but the disk does not take it."""


@dataclass(frozen=True)
class Checkpoints:
    """The states in a stage's directory of the training run that this header describes."""

    out: Path
    header: Header

    def save(self, fit: Fit) -> None:
        """Write the state; the one that stood there becomes the previous one.

        Raises ReflowError, leaving what stood there, when weights have grown beyond float32, and
        UnwrittenStateError when it cannot be written.
        """
        tensors = fit.tensors()
        if not fit.world.leads:
            return
        self._require_finite(fit.step, tensors)
        self._require_room(sum(tensor.nbytes for tensor in tensors.values()))
        facts = self.header.facts | {"step": fit.step}
        try:
            if (self.out / STATE).exists():
                _copy(self.out / STATE, self.out / PREVIOUS)
            write_artifact(self.out / STATE, tensors, replace(self.header, kind="state", facts=facts))
        except ReflowError as error:
            raise UnwrittenStateError(str(error)) from error

    def restore(self, fit: Fit) -> str | None:
        """Restore the newest whole state in all processes; return what is worth saying about it.

        Raises ReflowError when it was made with other settings, or there are states and none is whole.
        """
        step, tensors, trouble = self._read() if fit.world.leads else (0, {}, None)
        step = agree(step, fit.world)
        if step:
            try:
                fit.restore(Shared(tensors, fit.world), step)
            except (KeyError, RuntimeError) as error:
                raise damaged(self.out / STATE, f"it does not fit its recipe ({error})") from error
        return trouble

    def _read(self) -> tuple[int, dict[str, Tensor], str | None]:
        """Return step and tensors of the newest whole state, and what was wrong with a newer one."""
        broken: ReflowError | None = None
        for path in (self.out / STATE, self.out / PREVIOUS):
            if not path.exists():
                continue
            try:
                found, tensors = read_artifact(path, "state")
            except ReflowError as error:
                broken = broken or error
                continue
            require_same(path, replace(found, kind="model"), self.header, growing=True)
            step = int(found.facts["step"])
            what = str(broken).partition(";")[0]  # without the remedy for those who have no other
            trouble = None if broken is None else f"{what}; {path.name} of step {step} is whole"
            return step, tensors, trouble
        if broken is not None:
            raise broken
        return 0, {}, None

    def forget_previous(self) -> None:
        """Remove the previous state: the model is written."""
        with contextlib.suppress(OSError):  # what a disk holds on to does no harm
            (self.out / PREVIOUS).unlink(missing_ok=True)

    def _require_finite(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ReflowError(
                    f"{name} is not finite after step {step}; {saved_states(self.out)}. "
                    "Lower the learning rate (lr), then start over with --fresh"
                )

    def _require_room(self, size: int) -> None:
        try:
            free = shutil.disk_usage(self.out).free
        except OSError:
            return  # writing it will tell
        if free < size + SPARE:
            needs, there = math.ceil((size + SPARE) / 1e6), int(free / 1e6)  # rounded apart
            raise UnwrittenStateError(
                f"{self.out / STATE} needs {needs} MB and {there} MB are free; "
                f"{saved_states(self.out)}. Free some, then run the same command again"
            )


def already_trained(out: Path, wanted: Header) -> bool:
    """Return whether `out` holds the complete model that is wanted, and say so.

    Raises ReflowError when what stands there, complete or not, was made with other settings.
    """
    if not (out / MODEL).exists():
        return False
    found, _ = read_artifact(out / MODEL, "model")
    require_same(out / MODEL, found, wanted, growing=True)
    before, now = (model_facts(header.facts).steps for header in (found, wanted))
    if before == now:
        say(f"{out} is complete; nothing to do (--fresh starts over)")
        return True
    if not (out / STATE).exists():
        raise ReflowError(
            f"{out} holds a model of {before} steps but not the state to continue it from; "
            "restore state.safetensors, or start over with --fresh"
        )
    say(f"{out}: resuming at step {before} of {now} (the learning rate is that of {now} steps)")
    return False


def saved_states(out: Path) -> str:
    """Return what remains of a training run that cannot go on."""
    there = (out / STATE).exists()
    return f"the last good state is kept in {out / STATE}" if there else "no state was saved"


def _copy(source: Path, target: Path) -> None:
    """Make `target` another name of a file, or a copy where the file system has no second names."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    with writing(target):
        try:
            beside.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, beside)
        beside.replace(target)
