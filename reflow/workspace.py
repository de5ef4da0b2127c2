"""The output directory of a stage: held by one process, complete or not, made for which settings.

The lock is an advisory lock on `.lock`, which the system drops when the process ends, however it
ends.
"""

import contextlib
import fcntl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from reflow.artifacts import UNFINISHED, Header, writing
from reflow.errors import ReflowError

LOCK = ".lock"
OURS = ("model.safetensors", "state.safetensors", "log.jsonl", "samples.png", "pairs.json")


@contextlib.contextmanager
def claim(directory: Path, *, fresh: bool) -> Iterator[None]:
    """Create the directory and hold it until the block ends; `fresh` removes what a stage left.

    Raises ReflowError when it cannot be written or another process holds it.
    """
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ReflowError(
                f"{directory} is being written by another reflow; wait for it, or give another --out"
            ) from error
        for leftover in directory.glob(f"*{UNFINISHED}"):
            leftover.unlink()
        if fresh:
            for name in OURS:
                (directory / name).unlink(missing_ok=True)
            for shard in directory.glob("pairs-*-of-*.safetensors"):
                shard.unlink()
        yield


def require_same(path: Path, found: Header, wanted: Header, sections: Iterable[str]) -> None:
    """Refuse to go on when what stands at `path` was made with other settings or parents.

    `sections` are the parts of the recipe that the stage depends on.
    """
    differences = [
        f"{name} is {before} there and {now} now"
        for section in sections
        for name, before, now in _differences(
            section, found.recipe.get(section), wanted.recipe.get(section)
        )
    ]
    for what in ("kind", "stage", "rectification"):
        if getattr(found, what) != getattr(wanted, what):
            differences.append(f"{what} is {getattr(found, what)} there, {getattr(wanted, what)} now")
    for role in sorted(found.parents | wanted.parents):
        if found.parents.get(role) != wanted.parents.get(role):
            differences.append(f"it was made from other {role}")
    if differences:
        raise ReflowError(
            f"{path} was made with other settings: {'; '.join(differences)}. "
            "Give another --out, or --fresh to discard it"
        )


def _differences(name: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before | now):
            yield from _differences(f"{name}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield name, before, now
