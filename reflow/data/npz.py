"""A NumPy archive: `images` uint8 [N,H,W,C] or [N,H,W], or `samples` float [N,D]; `labels` [N].

Labels are optional integers. This is also what `reflow sample --out FILE.npz` writes.
"""

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from reflow.data.dataset import Labels, class_labels, labels_if_wanted, require_class_numbers
from reflow.data.formats import Contents, Corrupt, Part, rows_per_block
from reflow.data.images import MOST_PIXELS, as_stored, reason, refitting, refuse_image_settings
from reflow.data.zip import DAMAGE
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

LARGEST_HEADER = 10_000  # bytes; the limit of NumPy, which reads the header before it looks
LARGEST_BY_COLUMNS = 1 << 32  # bytes of an array that has to be in memory as a whole
HEADERS = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}


class Array(NamedTuple):
    """What the header of a member says: its name in the archive, dtype, shape, order of the axes."""

    member: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    by_columns: bool

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_npz(path: Path, settings: DataSettings) -> Contents:
    """Return the images or vectors of an archive, with its labels renumbered as 0..K-1."""
    with _opened(path) as archive:
        keys = sorted({"images", "samples"} & set(archive.files))
        if len(keys) != 1:
            raise ReflowError(
                f"{path} holds {', '.join(map(repr, archive.files)) or 'nothing'}; it must hold either "
                "'images' (uint8 [N,H,W,C] or [N,H,W]) or 'samples' (float32 [N,D])"
            )
        array = _header(archive, keys[0], path)
        contents = (_images if keys == ["images"] else _samples)(array, path, settings)
        labels, class_names = labels_if_wanted(
            settings, lambda: _labels(archive, contents.count, path, settings)
        )
    return replace(contents, labels=labels, class_names=class_names)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    try:
        file = path.open("rb")  # np.load leaves a damaged file open
    except OSError as error:
        raise ReflowError(f"{path} cannot be read ({reason(error)}); fix its permissions") from error
    with file:
        try:
            archive = np.load(file, allow_pickle=False)
        except DAMAGE as error:
            raise ReflowError(f"{path} is not a .npz archive; write it again with numpy.savez") from error
        if not isinstance(archive, NpzFile):
            raise ReflowError(f"{path} is a single array; write it with numpy.savez(path, images=...)")
        yield archive


@contextlib.contextmanager
def _reading(path: Path, key: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise ReflowError(
            f"{path}: {key!r} cannot be read ({reason(error)}); "
            "write the file again with numpy.savez, from arrays of plain numbers"
        ) from error


def _array(archive: NpzFile, key: str, path: Path) -> NDArray[Any]:
    with _reading(path, key):
        return np.asarray(archive[key])


def _header(archive: NpzFile, key: str, path: Path) -> Array:
    """Return what a member holds without reading it."""
    assert archive.zip is not None, "it is open"
    name = f"{key}.npy" if f"{key}.npy" in archive.zip.namelist() else key
    with _reading(path, key), archive.zip.open(name) as member:
        shape, by_columns, dtype = _skip_header(member)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
    return Array(name, dtype, shape, by_columns and len(shape) > 1)


def _skip_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = read_magic(member)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the .npy format")
    length = member.read(2 * version[0])
    size = int.from_bytes(length, "little")
    if size > LARGEST_HEADER:
        raise ValueError(f"its header has {size} bytes")
    return HEADERS[version](io.BytesIO(length + member.read(size)))


def _rows(path: Path, key: str, array: Array) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the number of the first row and the rows, block by block."""
    row, whole_size = math.prod(array.shape[1:]), math.prod(array.shape) * array.dtype.itemsize
    if row > 4 * MOST_PIXELS or (array.by_columns and whole_size > LARGEST_BY_COLUMNS):
        remedy = "write it in C order (numpy.ascontiguousarray)" if array.by_columns else "shrink it"
        raise ReflowError(f"{path}: {key!r} is {array}, too large to be read; {remedy}")
    step = rows_per_block(array.dtype.itemsize * math.prod(array.shape[1:]))
    with _opened(path) as archive:
        if array.by_columns:  # the bytes of a row are far apart: it has to fit into memory
            whole = _array(archive, key, path)
            yield from ((first, whole[first : first + step]) for first in range(0, len(whole), step))
            return
        assert archive.zip is not None, "it is open"
        with _reading(path, key):
            member = archive.zip.open(array.member)
        with member:
            with _reading(path, key):
                _skip_header(member)
            for first in range(0, array.shape[0], step):
                shape = (min(step, array.shape[0] - first), *array.shape[1:])
                size = math.prod(shape) * array.dtype.itemsize
                with _reading(path, key):
                    content = member.read(size)
                    if len(content) < size:
                        raise EOFError("it is cut short")
                yield first, np.frombuffer(content, array.dtype).reshape(shape)


def _images(array: Array, path: Path, settings: DataSettings) -> Contents:
    shape: tuple[int, ...] = (*array.shape, 1) if len(array.shape) == 3 else array.shape
    known = len(shape) == 4 and shape[3] in (1, 3, 4) and 0 not in shape
    if array.dtype != np.uint8 or not known:
        raise ReflowError(
            f"{path}: 'images' is {array}; "
            "make it uint8 [N,H,W,C] with 1, 3 or 4 channels, or uint8 [N,H,W]"
        )
    rows = ((first, part.reshape(-1, *shape[1:])) for first, part in _rows(path, "images", array))
    weight = 0 if as_stored(shape[1:], settings) else math.prod(shape)
    return Contents(shape[0], refitting(rows, settings, f"{path}"), weight=weight)


def _samples(array: Array, path: Path, settings: DataSettings) -> Contents:
    known = array.dtype.name in ("float32", "float64")
    if not known or len(array.shape) != 2 or 0 in array.shape:
        raise ReflowError(f"{path}: 'samples' is {array}; make it float32 [N,D]")
    refuse_image_settings(settings, f"{path}")
    rows = _rows(path, "samples", array)
    return Contents(array.shape[0], (partial(_vectors, path, part) for _, part in rows))


def _vectors(path: Path, samples: NDArray[Any]) -> list[Part | Corrupt]:
    with np.errstate(over="ignore"):  # what overflows is found with the other infinities
        return [Part(f"{path}", np.ascontiguousarray(samples, np.float32))]


def _labels(archive: NpzFile, count: int, path: Path, settings: DataSettings) -> Labels:
    """Return the labels; where there are none, refuse to do without, and say what to do."""
    if "labels" not in archive.files:
        others = [key for key in archive.files if key not in ("images", "samples")]
        found = f"'labels', but {', '.join(map(repr, others))}" if others else "'labels'"
        if settings.labels:
            raise ReflowError(
                f"{path} has no {found}; write the classes as labels=..., one whole number per sample"
            )
        return None, ()
    what = f"{path}: 'labels'"
    header = _header(archive, "labels", path)
    require_class_numbers(header.dtype, header.shape, count, what)  # before they are read
    return class_labels(_array(archive, "labels", path), count, what, settings)
