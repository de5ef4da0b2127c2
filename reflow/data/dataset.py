"""A data set: bytes of images or float32 vectors, with labels where there are classes.

Images are uint8 (N, C, H, W) and become float32 in [-1, 1] when seen; vectors are float32 (N, D). What
is stored may be a memory map of a file: a subset keeps the numbers of its rows and copies no values.
Torch is imported where it is needed: the processes that decode images start without it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reflow.data.formats import listing
from reflow.errors import ReflowError
from reflow.recipes.recipe import DataSettings

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 22  # bytes digested at a time

Labels = tuple[NDArray[np.int64] | None, tuple[str, ...]]  # of a source, with the names of its classes


@dataclass(frozen=True)
class DataSet:
    """Stored values, labels int64 (N,) in [0, classes) or None, and the names of the classes.

    rows: which of the stored values these are, in order; None: all. labels: of these rows.
    """

    stored: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    rows: NDArray[np.int64] | None = None
    known_digest: str | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.stored) if self.rows is None else len(self.rows)

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) or (D,)."""
        return tuple(int(n) for n in self.stored.shape[1:])

    @property
    def values(self) -> NDArray[np.uint8] | NDArray[np.float32]:
        """All values (N, *event) as stored; of a subset they are copied into memory."""
        return self.stored if self.rows is None else self.stored[self.rows]

    def raw(self, rows: NDArray[np.int64]) -> "tuple[Tensor, Tensor | None]":
        """Return the values (n, *event) as stored, to be sent to the device, and the labels (n,)."""
        import torch

        values = torch.from_numpy(self.stored[rows if self.rows is None else self.rows[rows]])
        return values, None if self.labels is None else torch.from_numpy(self.labels[rows])

    def take(self, rows: NDArray[np.int64]) -> "tuple[Tensor, Tensor | None]":
        """Return the values (n, *event) as a network sees them, float32, and the labels (n,)."""
        from reflow.pixels import as_seen

        values, labels = self.raw(rows)
        return as_seen(values), labels

    def subset(self, rows: NDArray[np.int64]) -> "DataSet":
        """Return the data at these rows."""
        labels = None if self.labels is None else self.labels[rows]
        inside = rows if self.rows is None else self.rows[rows]
        return DataSet(self.stored, labels, self.class_names, inside)

    def without_labels(self) -> "DataSet":
        """Return the data for a model that is not conditioned on labels."""
        return DataSet(self.stored, rows=self.rows)

    def digest(self) -> str:
        """Return the SHA-256 of values, labels and class names: what the data is, not where."""
        if self.known_digest is not None:
            return self.known_digest
        shape = (len(self), *self.event)
        sha = hashlib.sha256(f"{self.stored.dtype} {shape} {self.class_names}".encode())
        step = max(1, CHUNK // max(1, self.stored[:1].nbytes))
        for first in range(0, len(self), step):
            part = slice(first, first + step)
            values = self.stored[part] if self.rows is None else self.stored[self.rows[part]]
            sha.update(np.ascontiguousarray(values).data)
        if self.labels is not None:
            sha.update(np.ascontiguousarray(self.labels).data)
        return sha.hexdigest()


def number_classes(labels: NDArray[np.integer]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels (N,) renumbered as 0..K-1 in ascending order, and what each one was called."""
    kinds, numbered = np.unique(labels, return_inverse=True)
    return numbered.astype(np.int64), tuple(str(kind) for kind in kinds)


def class_labels(values: NDArray[Any], count: int, what: str, settings: DataSettings) -> Labels:
    """Return the labels of `count` samples, renumbered, and class names; one meaning in all formats.

    A label is a whole number from 0 on. Raises ReflowError for others; below 0 only where they are used.
    """
    require_class_numbers(values.dtype, values.shape, count, what)
    refuse_negative(values, what, settings)
    return number_classes(values)


def require_class_numbers(dtype: np.dtype[Any], shape: tuple[int, ...], count: int, what: str) -> None:
    """Raise for labels that are not one whole number for each of `count` samples."""
    if dtype.kind not in "iu" or shape != (count,):
        hint = "; of one-hot labels take argmax(axis=1)" if len(shape) == 2 else ""
        raise ReflowError(
            f"{what} is {dtype} {list(shape)}; make it int64 [{count}], one whole number per sample{hint}"
        )


def refuse_negative(labels: NDArray[np.integer], what: str, settings: DataSettings) -> None:
    """Raise where labels below 0, which often mean "no class", would be taught as a class."""
    if settings.labels and len(labels) and labels.min() < 0:
        raise ReflowError(
            f"{what} has samples with label {labels.min()}, and classes are numbered from 0; "
            "remove samples without a class, renumber, or set data.labels=false"
        )


def labels_if_wanted(settings: DataSettings, read: Callable[[], Labels]) -> Labels:
    """Return what `read` returns; labels that the recipe does not use never refuse a source."""
    try:
        return read()
    except ReflowError:
        if settings.labels:
            raise
        return None, ()


def split(data: DataSet, held_out: float, seed: int) -> tuple[DataSet, DataSet]:
    """Return (training, held-out) data; `held_out` is the second one's share."""
    count = round(len(data) * held_out)
    if not 0 < count < len(data):
        raise ReflowError(
            f"data.held_out = {held_out:g} of {len(data)} samples leaves one side empty; "
            "give more data or another share"
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(data))
    return data.subset(np.sort(order[count:])), data.subset(np.sort(order[:count]))


def require_taught(training: DataSet, held_out: DataSet) -> str | None:
    """Raise if a class has no samples to train on; return a warning about classes without held-out ones."""
    counts = [
        np.bincount(_labels_of(part), minlength=len(part.class_names)) for part in (training, held_out)
    ]
    for number in np.flatnonzero(counts[0] == 0):
        name, there = training.class_names[number], counts[1][number]
        raise ReflowError(
            f"class {name!r} has {there} sample{'s' * int(there != 1)}, none outside the held-out part: "
            "a model would draw what it never saw; add samples, remove the class, or change data.held_out"
        )
    lacking = [training.class_names[number] for number in np.flatnonzero(counts[1] == 0)]
    if not lacking:
        return None
    return (
        f"warning: no sample of class {listing(lacking)} is held out, so evaluation says nothing of it; "
        "add samples, or raise data.held_out"
    )


def _labels_of(data: DataSet) -> NDArray[np.int64]:
    assert data.labels is not None, "the recipe uses labels"
    return data.labels
