"""Results of a long command that are finished, kept beside its file until that is complete.

Each is named by what it follows from: the same command goes on after any kill, and another command beside
the same file finds what both have in common, and nothing else.
"""

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflow.artifacts import canonical, finite
from reflow.artifacts.files import write_atomically, writing

SUFFIX = ".unfinished"


@dataclass(frozen=True)
class PartialResults:
    """The finished results of what becomes a file, in a folder beside it."""

    folder: Path

    def get(self, key: Any) -> Any:
        """Return the result of what a key describes (anything that JSON holds), or None."""
        with contextlib.suppress(OSError, ValueError):  # absent, or cut by a disk that lost it
            return json.loads(self._path(key).read_bytes())
        return None

    def put(self, key: Any, result: Any) -> None:
        """Keep a result."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(
            self._path(key), json.dumps(finite(result), allow_nan=False).encode()
        )  # the order of names stays

    def clear(self) -> None:
        """Forget all of them, once the file is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)  # what a disk holds on to does no harm

    def _path(self, key: Any) -> Path:
        return self.folder / f"{hashlib.sha256(canonical(key).encode()).hexdigest()[:32]}.json"


def partial_results_of(out: Path) -> PartialResults:
    """Return the finished results of what becomes the file `out`."""
    return PartialResults(out.with_name(out.name + SUFFIX))
