"""Files: written whole or not at all, their place made ready before the work, and locks."""

import contextlib
import errno
import fcntl
import glob
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reflow.errors import ReflowError

PART = r"\.[0-9a-f]{1,16}\.part$"  # ends the name of a file that is being written


@contextlib.contextmanager
def output_file(path: Path) -> Iterator[None]:
    """Make the folder of a file and hold the file until the block ends, by a lock beside it.

    Removes what killed processes left when they were writing it. Raises ReflowError where it cannot be
    written, or another process holds it.
    """
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.parent.is_file():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):  # a disk may refuse what permissions allow
            pass
    with held(path.with_name(f".{path.name}.lock"), busy(path), passing=True):
        for part in unfinished(path):
            part.unlink(missing_ok=True)
        yield


def busy(path: Path) -> str:
    """Return what is said of an output that another process holds."""
    return f"{path} is being written by another reflow; wait for it, or give another --out"


def unfinished(path: Path) -> list[Path]:
    """Return what killed processes left of a file, whose name may hold wildcards."""
    found = path.parent.glob(f".{path.name if '*' in path.name else glob.escape(path.name)}.*.part")
    return [part for part in found if re.search(PART, part.name) and part.is_file()]


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
def held(
    path: Path, busy: str | None = None, *, shared: bool = False, passing: bool = False
) -> Iterator[None]:
    """Hold an advisory lock until the block ends; wait for it, or raise ReflowError(busy) at once.

    passing: its file goes with it, unless the process is killed. A file that stands there stays as it is,
    and a link is refused.
    """
    with contextlib.ExitStack() as stack:
        lock = _locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, busy)
        stack.callback(os.close, lock)
        if passing:
            stack.callback(_remove, path)
        yield


def _locked(path: Path, mode: int, busy: str | None) -> int:
    """Return the open, locked file of this name."""
    while True:
        with writing(path):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            with writing(path):  # a network disk may know no locks
                fcntl.flock(lock, mode if busy is None else mode | fcntl.LOCK_NB)
            if _is_still(path, lock):
                return lock
        except ReflowError as error:
            os.close(lock)
            if isinstance(error.__cause__, BlockingIOError):
                raise ReflowError(busy) from error.__cause__
            raise
        os.close(lock)  # whoever held it has removed its name meanwhile


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # left there it does no harm
        if not path.stat().st_size:  # else somebody else wrote it
            path.unlink()


def _is_still(path: Path, lock: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(lock))
    except FileNotFoundError:
        return False
