"""The IDX files of the MNIST family, gzipped: big-endian magic number, dimensions, bytes.

A single file of images, or a folder of the four files of a set, whose two parts become one.

Format: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", section "file formats".
"""

import contextlib
import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reflow.data.dataset import labels_if_wanted, number_classes
from reflow.data.formats import BLOCK, Contents, rows_per_block
from reflow.data.images import MOST_PIXELS, as_stored, reason, refitting
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

FILES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
DENSEST = 1032  # bytes that gzip can make of one
IMAGES, LABELS = 0x00000803, 0x00000801  # the last byte is the number of dimensions


def files_of_idx(path: Path) -> dict[str, Path]:
    """Return the file of images and that of their labels, if it lies beside it."""
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if beside == path or not beside.exists():
        return {"images": path}
    return {"images": path, "labels": beside}


def read_idx(path: Path, settings: DataSettings) -> Contents:
    """Return the images of X-images-idx3-ubyte.gz; X-labels-idx1-ubyte.gz beside it labels them."""
    return _joined([path], settings)


def is_idx_folder(path: Path) -> bool:
    """Return whether the four files of a set of the MNIST family, or some of them, lie in a folder."""
    return any((path / name).exists() for name in FILES)


def files_of_idx_folder(path: Path) -> dict[str, Path]:
    """Return the four files of a folder; refuse it if one is missing."""
    missing = [name for name in FILES if not (path / name).exists()]
    if missing:
        raise ReflowError(
            f"--data {path}: {missing[0]} is missing beside other files of its set; add it, or give one "
            "file, X-images-idx3-ubyte.gz"
        )
    return {name: path / name for name in FILES}


def read_idx_folder(path: Path, settings: DataSettings) -> Contents:
    """Return the images and labels of the four files: those to train on, then those to test on."""
    return _joined([path / name for name in FILES if "images" in name], settings)


def _joined(paths: Sequence[Path], settings: DataSettings) -> Contents:
    """Return the images of files one after the other, with labels if all of them are labelled."""
    parts = [_described(path, settings) for path in paths]
    count, weight = sum(part.count for part in parts), sum(part.weight for part in parts)
    blocks = chain.from_iterable(part.blocks for part in parts)
    labels = [part.labels for part in parts if part.labels is not None]
    if len(labels) < len(parts):
        _refuse_unlabelled(paths, settings)
        return Contents(count, blocks, weight=weight)
    return Contents(count, blocks, *number_classes(np.concatenate(labels)), weight)


def _refuse_unlabelled(paths: Sequence[Path], settings: DataSettings) -> None:
    if settings.labels:
        raise ReflowError(
            f"{paths[0]} has no labels; put X-labels-idx1-ubyte.gz beside X-images-idx3-ubyte.gz, under "
            "the same X"
        )


def _described(path: Path, settings: DataSettings) -> Contents:
    """Return the images of a file and the labels as they stand in the file beside it."""
    with _opened(path) as file, _unzipping(path):
        count, height, width = _shape(file, path, IMAGES)
    weight = 0 if as_stored((height, width, 1), settings) else count * height * width
    blocks = refitting(_rows(path), settings, f"{path}")
    beside = files_of_idx(path).get("labels")
    if beside is None:
        return Contents(count, blocks, weight=weight)
    labels, _ = labels_if_wanted(settings, lambda: (_labels(beside, path, count), ()))
    return Contents(count, blocks, labels, weight=weight)


def _shape(file: gzip.GzipFile, path: Path, magic: int) -> tuple[int, ...]:
    """Read the header of a file of images or labels and return the dimensions that it announces."""
    dimensions = magic & 0xFF
    size = 4 * (1 + dimensions)
    header = file.read(size)
    found = int.from_bytes(header[:4], "big") if len(header) >= 4 else None
    if found == LABELS and magic == IMAGES:
        raise ReflowError(f"{path} holds labels; give the images, X-images-idx3-ubyte.gz, instead")
    if found != magic:
        raise ReflowError(
            f"{path} is not an IDX file of {'images' if magic == IMAGES else 'labels'} "
            f"(it does not begin with {magic:#010x}); download it again or give another format"
        )
    shape = struct.unpack(f">{dimensions}I", header[4:].ljust(size - 4, b"\0"))
    if not math.prod(shape):
        raise _cut(path, shape, 0)
    if math.prod(shape) > DENSEST * path.stat().st_size or math.prod(shape[1:]) > MOST_PIXELS:
        announced = " x ".join(map(str, shape))
        raise ReflowError(
            f"{path} announces {announced} bytes, which its {path.stat().st_size} cannot hold as images; "
            "download it again"
        )
    return shape


def _rows(path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the number of the first row and images (n, H, W, 1), block by block."""
    with _opened(path) as file:
        with _unzipping(path):
            count, height, width = shape = _shape(file, path, IMAGES)
        step = rows_per_block(height * width)
        for first in range(0, count, step):
            n = min(step, count - first)
            with _unzipping(path):
                content = file.read(n * height * width)
            if len(content) < n * height * width:
                raise _cut(path, shape, first * height * width + len(content))
            yield first, np.frombuffer(content, np.uint8).reshape(n, height, width, 1)
        with _unzipping(path):
            more = len(file.read(BLOCK))
        if more:
            raise _cut(path, shape, math.prod(shape) + more)


def _labels(path: Path, images: Path, count: int) -> NDArray[np.int64]:
    """Return the labels of `count` images; no more of them are read."""
    with _opened(path) as file, _unzipping(path):
        shape = _shape(file, path, LABELS)
        if shape[0] != count:
            raise ReflowError(
                f"{path} has {shape[0]} labels for the {count} images of {images.name}; "
                "take both from one set"
            )
        content = file.read(count + 1)
    if len(content) != count:
        raise _cut(path, shape, len(content))
    return np.frombuffer(content, np.uint8).astype(np.int64)


def _cut(path: Path, shape: tuple[int, ...], found: int) -> ReflowError:
    announced = " x ".join(map(str, shape))
    return ReflowError(f"{path} announces {announced} bytes and holds {found}; download it again")


def _opened(path: Path) -> gzip.GzipFile:
    with _unzipping(path):
        return gzip.open(path)


@contextlib.contextmanager
def _unzipping(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise ReflowError(f"{path} cannot be unzipped ({reason(error)}); download it again") from error
