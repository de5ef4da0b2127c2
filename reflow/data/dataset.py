"""Data in memory: bytes of images or float32 vectors, with labels where there are classes.

Images are uint8 (N, C, H, W) and become float32 in [-1, 1] when taken; vectors are float32 (N, D).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.errors import ReflowError


@dataclass(frozen=True)
class DataSet:
    """Values, labels int64 (N,) in [0, classes) or None, and the names of the classes."""

    values: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) or (D,)."""
        return tuple(int(n) for n in self.values.shape[1:])

    def take(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Return the values (n, *event) as a network sees them, float32, and the labels (n,)."""
        values = torch.from_numpy(self.values[rows])
        if values.dtype == torch.uint8:
            values = values.float() / 127.5 - 1
        return values, None if self.labels is None else torch.from_numpy(self.labels[rows])

    def subset(self, rows: NDArray[np.int64]) -> "DataSet":
        """Return the data at these rows."""
        labels = None if self.labels is None else self.labels[rows]
        return DataSet(self.values[rows], labels, self.class_names)

    def without_labels(self) -> "DataSet":
        """Return the data for a model that is not conditioned on labels."""
        return DataSet(self.values)

    def digest(self) -> str:
        """Return the SHA-256 of values, labels and class names: what the data is, not where."""
        sha = hashlib.sha256(f"{self.values.dtype} {self.values.shape} {self.class_names}".encode())
        sha.update(np.ascontiguousarray(self.values).data)
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
