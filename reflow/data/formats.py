"""What a format knows of a source before it is decoded, and who is told while that happens.

A format lists the files whose bytes matter, reads labels and names, and yields blocks: jobs, cheap to
send to another process, that return the samples of a few rows in order.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reflow.recipes.recipe import DataSettings

BLOCK = 1 << 20  # bytes of an array that are converted together
ENCODED, IMAGES = 1 << 18, 32  # bytes of image files that are decoded together; how many at most


class Part(NamedTuple):
    """Samples (n, *event), uint8 or float32; `name` tells in messages where the first is from.

    decoder: the first version of the decoder that gives these values. seen: what was noticed, per image.
    """

    name: str
    values: NDArray[Any]
    decoder: int = 1
    seen: tuple[str, ...] = ()


class Corrupt(NamedTuple):
    """An image that cannot be decoded: its name within the source, and the refusal of it alone.

    decoder: the first version of the decoder that refuses it.
    """

    name: str
    refusal: str
    decoder: int = 1


Block = Callable[[], list[Part | Corrupt]]


@dataclass(frozen=True)
class Contents:
    """The number of samples, the blocks that hold them, labels (N,) or None and names of classes.

    weight: bytes that have to be decoded; 0 where arrays are only copied.
    """

    count: int
    blocks: Iterator[Block]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    weight: int = 0


class Format(NamedTuple):
    """A kind of source: what it is called, its files by role or relative name, and how it is read.

    left_out: how many files are no images, by ending. encoded: whether images have to be decoded.
    """

    name: str
    files: Callable[[Path], Mapping[str, Path]]
    read: Callable[[Path, DataSettings], Contents]
    left_out: Callable[[Path], Mapping[str, int]] = lambda _: {}
    encoded: bool = True


def _nobody(*_: object) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Watch:
    """Who is told how far a long job is (what, done, total, unit), and in a line what happened."""

    progress: Callable[[str, int, int, str], None] = _nobody
    say: Callable[[str], None] = _nobody


def rows_per_block(row_bytes: int) -> int:
    """Return how many rows of an array make a block."""
    return max(1, BLOCK // max(1, row_bytes))


def images_per_block(count: int, weight: int) -> int:
    """Return how many image files make a block, of `count` with `weight` bytes in all."""
    return max(1, min(IMAGES, ENCODED * count // max(1, weight)))


def listing(names: list[str]) -> str:
    """Return the first ten names and how many others there are."""
    others = len(names) - 10
    return ", ".join(names[:10]) + (f" and {others} others" if others > 0 else "")
