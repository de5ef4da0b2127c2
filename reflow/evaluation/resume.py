"""Results of a long command that are finished, kept beside its file until that is complete.

Each is named by what it follows from and carries its own digest: the same command goes on after any kill,
and another command beside the same file finds what both have in common, and nothing else.
"""

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflow.artifacts import canonical, finite
from reflow.artifacts.files import write_atomically, writing
from reflow.errors import ReflowError

SUFFIX = ".unfinished"
OURS = re.compile(r"[0-9a-f]{32}\.json|\.[0-9a-f]{32}\.json\.[0-9a-f]{16}\.part")


@dataclass(frozen=True)
class PartialResults:
    """The finished results of what becomes a file, in a folder beside it."""

    folder: Path

    def get(self, key: Any) -> Any:
        """Return the result of what a key describes (anything that JSON holds), or None."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # absent, cut or altered
            content = json.loads(self._path(key).read_bytes())
            if content["sha256"] == _digest(content["result"]):
                return content["result"]
        return None

    def put(self, key: Any, result: Any) -> None:
        """Keep a result."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        result = finite(result)
        content = {"result": result, "sha256": _digest(result)}
        text = json.dumps(content, allow_nan=False)  # the order of names stays
        write_atomically(self._path(key), text.encode())

    def clear(self) -> None:
        """Forget all of them, once the file is complete; what others put there stays."""
        with contextlib.suppress(OSError):  # what a disk holds on to does no harm
            for path in self.folder.iterdir():
                if OURS.fullmatch(path.name):
                    path.unlink()
            self.folder.rmdir()

    def _path(self, key: Any) -> Path:
        return self.folder / f"{hashlib.sha256(canonical(key).encode()).hexdigest()[:32]}.json"


def partial_results_of(out: Path) -> PartialResults:
    """Return the finished results of what becomes the file `out`; refuse a link in their place."""
    folder = out.with_name(out.name + SUFFIX)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ReflowError(
            f"{folder} is a link or a file where a folder belongs; remove it, or give another --out"
        )
    return PartialResults(folder)


def _digest(result: Any) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
