"""The file that a command writes, whose place is made ready before the work."""

import errno
import glob
import os
import tempfile
from pathlib import Path

from reflow.artifacts import writing


def prepare(path: Path) -> None:
    """Make the folder of a file, and remove what killed processes left when they were writing the file.

    Raises ReflowError where it cannot be written.
    """
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.parent.is_file():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):  # a disk may refuse what permissions allow
            pass
        for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            part.unlink(missing_ok=True)
