"""The output directory of a stage: held by one process, complete or not, made for which settings.

The lock is an advisory lock on `.lock`, which the system drops when the process ends, however it
ends.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from reflow.artifacts import (
    AVERAGES,
    LOG,
    MODEL,
    PAIRS,
    PLAN,
    PREVIEW,
    PREVIOUS,
    SHARDS,
    STATE,
    TRACKED,
    TRACKING,
    Header,
    of_others,
)
from reflow.artifacts.files import busy, held, unfinished, writing
from reflow.errors import ReflowError
from reflow.recipes.training import RHYTHM

LOCK = ".lock"
MARKS = (LOCK, MODEL, STATE, PREVIOUS, AVERAGES, PAIRS, SHARDS, PLAN)  # of a stage; logs have many
OURS = {"model": (MODEL, STATE, PREVIOUS, AVERAGES, LOG, PREVIEW, TRACKING), "pairs": (PAIRS, SHARDS, PLAN)}

NUMBERED = re.compile(r"pairs-\d+-of-\d+\.safetensors|averages-\d+\.safetensors")


@contextlib.contextmanager
def claim(
    directory: Path,
    kind: Literal["model", "pairs"],
    *,
    inputs: Sequence[Path] = (),
    fresh: bool,
    part: str | None = None,
) -> Iterator[None]:
    """Create the directory and hold it until the block ends; `fresh` removes what a stage left.

    part: hold only this part of it, beside other processes that hold other parts.

    Raises ReflowError when it cannot be written, another process holds it, it is one of the inputs, holds
    an artifact of another kind, or files without any of ours.
    """
    for path in inputs:
        if directory.resolve() == (path if path.is_dir() else path.parent).resolve():
            raise ReflowError(f"--out {directory} is where {path} comes from; give another --out")
    other, names = ("pairs", (PAIRS, SHARDS)) if kind == "model" else ("a model", (MODEL, STATE))
    if any(True for name in names for _ in directory.glob(name)):
        raise ReflowError(f"--out {directory} holds {other}, not {kind}; give another --out")
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        _require_no_strangers(directory)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(directory / LOCK, busy(directory), shared=part is not None))
        if part is not None:
            name = f"{LOCK}-{part.replace('/', '-of-')}"
            other_job = f"part {part} of {directory} is being written by another reflow; wait for it"
            stack.enter_context(held(directory / name, other_job))
        else:
            for leftover in leftovers(directory):
                leftover.unlink(missing_ok=True)
            if fresh:
                _discard(_written(directory, kind), directory)
        yield


def _written(directory: Path, kind: Literal["model", "pairs"]) -> list[Path]:
    """Return what a stage left in a directory; refuse what only has the name of something of ours."""
    found = []
    for name in OURS[kind]:
        for path in directory.glob(name):
            if name == TRACKING and not path.is_symlink():
                found += [path / own for own in TRACKED if os.path.lexists(path / own)]
            elif path.is_symlink() or (path.is_file() and not of_others(path)):
                found += [path] if NUMBERED.fullmatch(path.name) or "*" not in name else []
            else:
                raise ReflowError(f"{path} was not written by reflow; move it, or give another --out")
    return found


def _discard(paths: Sequence[Path], directory: Path) -> None:
    """Remove files and folders of ours; of a link, the link."""
    for path in paths:
        with writing(path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    with contextlib.suppress(OSError):  # there is none, or it has files of others
        (directory / TRACKING).rmdir()


def _require_no_strangers(directory: Path) -> None:
    """Refuse a directory of somebody's files that no stage has written into.

    Hidden and empty files are let be, and the log to which this very command speaks.
    """
    if any(True for name in MARKS for _ in directory.glob(name)):
        return
    logs = list(_spoken_to())
    for path in sorted(directory.iterdir()):
        found = path.stat()
        if path.name.startswith(".") or any(os.path.samestat(found, log) for log in logs):
            continue
        if path.is_dir() or found.st_size:
            raise ReflowError(
                f"--out {directory} holds {path.name}, and no stage has written there; give a new or an "
                "empty directory"
            )


def _spoken_to() -> Iterator[os.stat_result]:
    """Yield what standard output and error go to, as far as they are open."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            yield os.fstat(descriptor)


def require_same(path: Path, found: Header, wanted: Header, *, growing: bool = False) -> None:
    """Refuse to go on when what stands at `path` was made with other settings or parents.

    What is in RHYTHM may differ, and so may, if `growing`, the steps of the stage: more than before.
    """
    if found_differences := differences(found, wanted, growing=growing):
        raise ReflowError(
            f"{path} was made with other settings: {'; '.join(found_differences)}. "
            "Give another --out, or --fresh to discard it"
        )


def differences(found: Header, wanted: Header, *, growing: bool = False) -> list[str]:
    """Return in words how what is there differs from what is wanted now; what may differ as above."""
    grown = f"{wanted.stage}.steps" if growing else ""
    averages = (header.facts.get("average", {}) for header in (found, wanted))
    told = [
        f"{name} is {before} there and {now} now"
        for name, before, now in (
            *_differences("", found.recipe, wanted.recipe),
            *_differences("average", *averages),
        )
        if name.rpartition(".")[2] not in RHYTHM and not (name == grown and before < now)
    ]
    for what in ("kind", "stage", "rectification"):
        if getattr(found, what) != getattr(wanted, what):
            told.append(f"{what} is {getattr(found, what)} there, {getattr(wanted, what)} now")
    there, now = (header.facts.get("weights") for header in (found, wanted))
    if there != now:
        told.append(f"the weights of the pairs are {there} there and {now} now")
    for role in sorted(found.parents | wanted.parents):
        if found.parents.get(role) != wanted.parents.get(role):
            told.append(f"it was made from other {role}")
    return told


def _differences(name: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before | now):
            inner = f"{name}.{key}" if name else key
            yield from _differences(inner, before.get(key), now.get(key))
    elif before != now:
        yield name, before, now


def leftovers(directory: Path) -> list[Path]:
    """Return the unfinished files that killed stages left in a directory."""
    names = (MODEL, STATE, PREVIOUS, AVERAGES, LOG, PREVIEW, PAIRS, SHARDS, PLAN)
    return [path for name in names for path in unfinished(directory / name)]
