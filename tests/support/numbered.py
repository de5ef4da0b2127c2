"""Samples and pairs that tell their row, and mixtures of them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from reflow.couplings import Mixture, Stored
from reflow.flow import Pair

Rows = NDArray[np.int64]


@dataclass
class Numbered:
    """Samples or pairs whose values tell their row."""

    data: Tensor  # (N, *event)
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.data)

    def raw(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        chosen = torch.from_numpy(rows)
        return self.data[chosen], None if self.labels is None else self.labels[chosen]


@dataclass
class NumberedPairs:
    """Pairs whose noise, image and label tell their row."""

    pairs: Pair

    def __len__(self) -> int:
        return len(self.pairs.x0)

    def take(self, rows: Rows) -> Pair:
        chosen = torch.from_numpy(rows)
        x0, x1, label = self.pairs
        return Pair(x0[chosen], x1[chosen], None if label is None else label[chosen])


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def row_numbers(n: int, width: int = 2) -> Tensor:
    return torch.arange(n, dtype=torch.float32)[:, None].expand(n, width).clone()


def numbered(n: int, offset: int = 0, *, labelled: bool = False) -> NumberedPairs:
    """Return n pairs whose values are offset, offset + 1, ..."""
    x0 = offset + row_numbers(n)
    return NumberedPairs(Pair(x0, x0 + 0.25, offset + torch.arange(n) if labelled else None))


def mixture(lengths: list[int], shares: list[int], *, labelled: bool = False) -> Mixture:
    """Return a mixture of numbered pairs; those of component i begin at 1000 i."""
    parts = [numbered(n, 1000 * i, labelled=labelled) for i, n in enumerate(lengths)]
    return Mixture([Stored(part, seed=i) for i, part in enumerate(parts)], shares)


def values(pair: Pair) -> list[float]:
    return sorted(pair.x0[:, 0].tolist())
