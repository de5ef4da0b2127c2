"""Files: written whole or not at all, their place made ready before the work, and locks."""

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reflow.errors import ReflowError


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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write `path` into one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ReflowError(
            f"{path} cannot be written: {reason}; free or choose another place "
            "(--out), then run the same command again"
        ) from error


def write_atomically(path: Path, content: bytes, *, once: bool = False) -> bool:
    """Put content under `path` whole or not at all; what was there stays until then.

    once: what is there already stays, even if another process put it there meanwhile. Returns whether
    the content stands under the path now.
    """
    put = True
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with writing(path):
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if once:
                put = _put_once(beside, path)
            else:
                beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        keep_names(path.parent)
    return put


def keep_names(directory: Path) -> None:
    """Flush to the disk which files a directory has."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_once(beside: Path, path: Path) -> bool:
    """Give a file its name unless the name is taken; return whether it was free."""
    try:
        path.hardlink_to(beside)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if path.exists():  # a file system without hard links: as good as it gets
            return False
        beside.replace(path)
        return True
    finally:
        beside.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def held(path: Path, busy: str | None = None, *, shared: bool = False) -> Iterator[None]:
    """Hold an advisory lock until the block ends; wait for it, or raise ReflowError(busy) at once."""
    with writing(path):
        lock = path.open("w")
    with lock:
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            with writing(path):  # a network disk may know no locks
                fcntl.flock(lock, mode if busy is None else mode | fcntl.LOCK_NB)
        except ReflowError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise ReflowError(busy) from error.__cause__
            raise
        yield
