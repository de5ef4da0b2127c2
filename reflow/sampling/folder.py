"""A folder of samples, one file each, in which an interrupted command resumes.

A record beside the files says what they were asked for. It is written first and every file appears whole,
so what has its name is kept, and only what is missing is drawn.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflow.artifacts import canonical
from reflow.artifacts.files import PART, busy, held, write_atomically, writing
from reflow.errors import ReflowError

RECORD, LOCK = ".reflow-sample.json", ".reflow-sample.lock"
FORMAT = 1  # of the record


@dataclass(frozen=True)
class SampleFolder:
    """A folder of `count` pictures, numbered from 0."""

    path: Path
    count: int

    def file(self, number: int) -> Path:
        """Return the file of a sample."""
        width = max(5, len(str(self.count - 1)))
        return self.path / f"{number:0{width}d}.png"

    def missing(self) -> list[int]:
        """Return the numbers of the samples that are not there yet."""
        return [number for number in range(self.count) if not self.file(number).is_file()]

    def put(self, number: int, picture: bytes) -> None:
        """Write a sample."""
        write_atomically(self.file(number), picture)


@contextlib.contextmanager
def sample_folder(path: Path, count: int, request: Mapping[str, Any]) -> Iterator[SampleFolder]:
    """Make the folder or resume in it, and hold it until the block ends.

    request: what the samples follow from, as JSON's values.

    Raises ReflowError when another process holds it, or it holds files of others or of another request.
    """
    wanted = json.loads(canonical({"format": FORMAT, "count": count, **request}))
    require_ours(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with held(path / LOCK, busy(path), passing=True):
        for part in path.glob(".*.part"):
            if re.search(r"^\.(\d+\.png|\.reflow-sample\.json)" + PART, part.name):
                part.unlink(missing_ok=True)
        if (path / RECORD).exists():
            _require_same(path, wanted)
        else:
            require_ours(path)
            write_atomically(path / RECORD, (canonical(wanted) + "\n").encode())
        yield SampleFolder(path, count)


def require_ours(path: Path) -> None:
    """Refuse a folder with files in it, hidden ones aside, and no record of samples."""
    if not path.is_dir() or (path / RECORD).exists():
        return
    with writing(path):
        strangers = sorted(found.name for found in path.iterdir() if found.name[0] != ".")
    if strangers:
        raise ReflowError(
            f"--out {path} is a folder with files in it ({strangers[0]}) that no reflow sample began; "
            "give a new one"
        )


def _require_same(path: Path, wanted: Mapping[str, Any]) -> None:
    try:
        found = json.loads((path / RECORD).read_bytes())
        told = [
            f"{name} is {_brief(found.get(name))} there and {_brief(wanted.get(name))} now"
            for name in sorted(found | wanted)
            if found.get(name) != wanted.get(name)
        ]
    except OSError as error:
        raise ReflowError(f"{path / RECORD} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ReflowError(f"{path / RECORD} is damaged: it is no record; give another --out") from error
    if told:
        raise ReflowError(f"{path} holds other samples: {'; '.join(told)}. Give another --out")


def _brief(value: Any) -> str:
    """Return a value of a request in few words: of digests the beginning, of settings what is set."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(part)}" for key, part in value.items() if part is not None)
    return value[:12] if isinstance(value, str) else str(value)
