"""Which data a source holds: by the SHA-256 of its bytes, or by what the file system says of them.

Reading 100 GB again to see that nothing changed would take minutes. So an index remembers for each
source the stamp of its files (names, sizes, times of modification and of change) and the key of their
content. Files with the same stamp are trusted to be the same; everything else is read again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from reflow.artifacts import canonical
from reflow.artifacts.files import write_atomically
from reflow.data.formats import Watch
from reflow.data.workers import in_order, processors
from reflow.errors import ReflowError

PIECE = 1 << 26  # bytes of a file that one thread digests
BUFFER = 1 << 20
THREADS = 16  # at most, to read with
SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system in use (FAT) counts two seconds


class Stamp(NamedTuple):
    """The digest of what the file system says of some files, and the latest of their times, in ns."""

    digest: str
    newest: int


def stamp(path: Path, files: Mapping[str, Path]) -> Stamp:
    """Return what the file system says of the files of a source."""
    sha, newest = hashlib.sha256(f"{path.resolve()}".encode(errors="surrogateescape")), 0
    for name, file in files.items():
        found = _stat(file)
        times = found.st_mtime_ns, found.st_ctime_ns
        sha.update(canonical([name, found.st_size, *times]).encode())
        newest = max(newest, *times)
    return Stamp(sha.hexdigest(), newest)


def content_key(kind: str, files: Mapping[str, Path], title: str, watch: Watch) -> str:
    """Return the SHA-256 over kind, names and bytes of the files, digested in pieces by threads."""
    sizes = {name: _stat(file).st_size for name, file in sorted(files.items())}
    total, done = sum(sizes.values()), 0
    sha = hashlib.sha256(canonical([kind, sizes]).encode())
    threads = min(THREADS, processors())
    with ThreadPoolExecutor(threads) as pool:
        for piece, size in in_order(_pieces(files, sizes), pool, threads):
            sha.update(piece)
            done += size
            watch.progress(title, done // 10**6, total // 10**6, "MB")
    return sha.hexdigest()


def recall(index: Path, now: Stamp) -> str | None:
    """Return the content key of files with this stamp; None for changed or just written files.

    A file may change again within one tick of its clock: only times well before the entry count.
    """
    try:
        written = index.stat().st_mtime_ns
        entry = json.loads(index.read_bytes())
        then, key, check = entry["stamp"], entry["content"], entry["check"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if then != now.digest or check != _check(then, key) or written - now.newest < SETTLED_NS:
        return None
    return str(key)


def remember(index: Path, then: Stamp, key: str) -> None:
    """Note the content key of files with this stamp."""
    entry = {"stamp": then.digest, "content": key, "check": _check(then.digest, key)}
    with contextlib.suppress(ReflowError):  # a cache that only others may write is as good, if slower
        write_atomically(index, canonical(entry).encode())


def _check(digest: str, key: str) -> str:
    return hashlib.sha256(f"{digest} {key}".encode()).hexdigest()


def _pieces(
    files: Mapping[str, Path], sizes: Mapping[str, int]
) -> Iterator[Callable[[], tuple[bytes, int]]]:
    for name, size in sizes.items():
        for first in range(0, size, PIECE):
            yield partial(_digest, files[name], first, min(PIECE, size - first))


def _digest(file: Path, first: int, size: int) -> tuple[bytes, int]:
    """Return the SHA-256 of a piece of a file, and its size."""
    sha, left = hashlib.sha256(), size
    try:
        with file.open("rb", buffering=0) as stream:
            stream.seek(first)
            while left and (content := stream.read(min(BUFFER, left))):
                sha.update(content)
                left -= len(content)
    except OSError as error:
        raise _unreadable(file, error) from error
    if left:
        raise ReflowError(f"{file} was cut while it was read; run the same command again")
    return sha.digest(), size


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> ReflowError:
    return ReflowError(f"{file} cannot be read ({error.strerror or error}); fix its permissions")
