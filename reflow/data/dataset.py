"""A data set: bytes of images or float32 vectors, with labels where there are classes.

Images are uint8 (N, C, H, W) and become float32 in [-1, 1] when seen; vectors are float32 (N, D). What
is stored may be a memory map of a file: a subset keeps the numbers of its rows and copies no values.
Torch is imported where it is needed: the processes that decode images start without it.
"""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reflow.errors import ReflowError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 22  # bytes digested at a time


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
