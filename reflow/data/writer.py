"""The values of a data set on their way into a file: appended in order, never all in memory.

The file is one of safetensors. Its header, digest included, and the labels are written last, into a
room left in front, so that the values begin at a whole page: [header][labels][values].
"""

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from reflow.artifacts import Header, canonical, preamble
from reflow.data.dataset import DataSet
from reflow.data.formats import Part
from reflow.errors import ReflowError

PAGE = 4096  # bytes
CHUNK = 1 << 22  # bytes copied at a time
DTYPES = {"uint8": "U8", "float32": "F32", "int64": "I64"}  # as safetensors calls them


class Growing:
    """A new file for the values of `expected` samples or fewer, with room for the header in front."""

    def __init__(self, path: Path, header: Header, expected: int, *, labelled: bool) -> None:
        """Make the file; `header` is as long as the final one."""
        self.path, self.expected, self.count, self.first = path, expected, 0, ""
        self.shape: tuple[int, ...] = ()
        self.dtype = np.dtype(np.uint8)
        # 1024: the entries of the two tensors, and digits that come later
        spare = len(canonical(header.to_json())) + 1024
        self.begin = -(-(spare + 8 * expected * labelled) // PAGE) * PAGE
        with writing_cache(path):
            self.file = path.open("x+b")

    def __enter__(self) -> "Growing":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # what a full disk did not take is given up anyhow
            self.file.close()
        self.path.unlink(missing_ok=True)  # unless it got its name

    @property
    def row_bytes(self) -> int:
        """Size of one sample."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def append(self, part: Part) -> None:
        """Take in samples (n, *event); once an rgb image came, grey ones have three equal channels.

        Raises ReflowError for images of another size, for values that are not finite and when the disk
        is too small.
        """
        name, values = part.name, part.values
        if not self.shape:
            self.first, self.shape, self.dtype = name, values.shape[1:], values.dtype
            self._require_room()
        if values.shape[2:] != self.shape[1:]:
            raise ReflowError(
                f"images differ in size: {self.first} has {self.shape[2]} x {self.shape[1]} pixels, "
                f"{name} has {values.shape[3]} x {values.shape[2]}; give them one size with "
                "--set data.size=32"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = self.count + int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise ReflowError(f"--data {name}: sample {row} holds NaN or infinity; remove it")
        if values.shape[1] > self.shape[0]:
            self._recolour(values.shape[1])
        with writing_cache(self.path):
            self.file.seek(self.begin + self.count * self.row_bytes)
            self.file.write(np.ascontiguousarray(np.broadcast_to(values, (len(values), *self.shape))).data)
        self.count += len(values)

    def finish(self, header: Header, labels: NDArray[np.int64] | None) -> None:
        """Write header and labels in front of the values, all of it down to the disk."""
        size = 0 if labels is None else labels.nbytes
        tensors: dict[str, tuple[str, tuple[int, ...], int]] = {}
        if labels is not None:
            tensors["labels"] = ("I64", labels.shape, size)
        shape = (self.count, *self.shape)
        tensors["values"] = (DTYPES[self.dtype.name], shape, self.count * self.row_bytes)
        with writing_cache(self.path):
            self.file.seek(0)
            self.file.write(preamble(header, tensors, self.begin - size))
            self.file.write(b"" if labels is None else np.ascontiguousarray(labels).data)
            self.file.flush()
            os.fsync(self.file.fileno())

    def data(self, labels: NDArray[np.int64] | None, class_names: tuple[str, ...]) -> DataSet:
        """Return what is there so far, by memory map."""
        with writing_cache(self.path):
            self.file.flush()
        shape = (self.count, *self.shape)
        values = np.memmap(self.path, self.dtype, "r", self.begin, shape)
        return DataSet(np.asarray(values), labels, class_names)

    def _recolour(self, channels: int) -> None:
        """Repeat the channel of what is there, from the end on: nothing unread is overwritten."""
        grey, old = self.row_bytes, self.shape
        self.shape = (channels, *old[1:])
        self._require_room()
        step = max(1, CHUNK // grey)
        for first in reversed(range(0, self.count, step)):
            n = min(step, self.count - first)
            with writing_cache(self.path):
                self.file.seek(self.begin + first * grey)
                rows = np.frombuffer(self.file.read(n * grey), self.dtype).reshape(n, *old)
                self.file.seek(self.begin + first * self.row_bytes)
                self.file.write(np.repeat(rows, channels, axis=1).data)

    def _require_room(self) -> None:
        """Refuse before the work what the disk cannot hold."""
        there = self.path.stat().st_size
        needed = self.begin + self.expected * self.row_bytes - there
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            takes, has = _size(needed, math.ceil), _size(free, math.floor)
            raise ReflowError(
                f"the decoded data takes {takes}, and {self.path.parent} has {has} free; "
                "free some, choose another place with REFLOW_CACHE, or smaller images with "
                "--set data.size=32"
            )


@contextlib.contextmanager
def writing_cache(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into the cache into one line."""
    try:
        yield
    except OSError as error:
        raise ReflowError(
            f"the data cache {path.parent} cannot be written: {error.strerror or error}; "
            "free some space, or choose another place with REFLOW_CACHE"
        ) from error


def _size(count: int, whole: Callable[[float], int]) -> str:
    """Return bytes in tenths of a unit, rounded such that what is needed is more than what is free."""
    size, unit = (1e9, "GB") if count >= 10**8 else (1e6, "MB")
    return f"{whole(10 * count / size) / 10:.1f} {unit}"
