"""Couplings: the joint law of (x0, x1) that training draws from.

A coupling is an endless stream of examples. `draw(first, n, rng)` returns examples number first to
first + n - 1; data are visited in a fresh permutation every epoch, a function of the seed and the
example number alone, so that resuming needs no position beyond the step. Shapes: x0, x1 (n, *event).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from reflow.flow import Pair
from reflow.noise import draw_seed
from reflow.permutations import Permutation


class Coupling(Protocol):
    """What training draws its examples from."""

    def draw(self, first: int, n: int, rng: Generator) -> Pair:
        """Return examples first to first + n - 1, on the generator's device."""
        ...


class Rows(Protocol):
    """Samples by row number, in memory or on disk."""

    def __len__(self) -> int: ...


class Samples(Rows, Protocol):
    """A data set."""

    def take(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        """Return x1 and labels at these rows."""
        ...


class StoredPairs(Rows, Protocol):
    """Pairs on disk."""

    def take(self, rows: NDArray[np.int64]) -> Pair:
        """Return the pairs at these rows."""
        ...


class Order:
    """The row that each example number visits: one permutation of all rows per epoch."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self._epoch = -1
        self._permutation: Permutation

    def __call__(self, first: int, n: int) -> NDArray[np.int64]:
        """Return the rows (n,) of examples first to first + n - 1."""
        examples = np.arange(first, first + n)
        epochs = examples // self.rows
        visited = np.empty(n, np.int64)
        for epoch in range(first // self.rows, (first + n - 1) // self.rows + 1):
            inside = epochs == epoch
            visited[inside] = self._permutation_of(epoch)(examples[inside] % self.rows)
        return visited

    def _permutation_of(self, epoch: int) -> Permutation:
        if epoch != self._epoch:
            rng = np.random.Generator(np.random.Philox(draw_seed(self.seed, "order", epoch)))
            self._epoch, self._permutation = epoch, Permutation(self.rows, rng)
        return self._permutation


class Independent:
    """Data with fresh noise at every visit: the coupling of the base model."""

    def __init__(self, data: Samples, seed: int, *, flip: bool = False) -> None:
        self.data, self.flip = data, flip
        self.order = Order(len(data), seed)

    def draw(self, first: int, n: int, rng: Generator) -> Pair:
        """Return n examples, images mirrored with probability one half where asked for."""
        x1, label = self.data.take(self.order(first, n))
        x1 = x1.to(rng.device)
        if self.flip:
            mirrored = torch.rand(n, generator=rng, device=rng.device) < 0.5
            x1 = torch.where(mirrored.reshape(-1, 1, 1, 1), x1.flip(-1), x1)
        x0 = torch.randn(x1.shape, generator=rng, device=rng.device)
        return Pair(x0, x1, None if label is None else label.to(rng.device))


class Stored:
    """Pairs that a teacher made: the coupling of reflow and distillation."""

    def __init__(self, pairs: StoredPairs, seed: int) -> None:
        self.pairs = pairs
        self.order = Order(len(pairs), seed)

    def draw(self, first: int, n: int, rng: Generator) -> Pair:
        """Return n stored pairs."""
        x0, x1, label = self.pairs.take(self.order(first, n))
        device = rng.device
        return Pair(x0.to(device), x1.to(device), None if label is None else label.to(device))


class Mixture:
    """Several couplings, each giving a fixed share of the examples.

    Of the first e examples each coupling gives its share of e to within one per further coupling, and
    exactly that share whenever e is a multiple of the sum of the shares; its own examples are numbered
    without gaps, so every one of its rows is still visited once in each of its epochs.
    """

    def __init__(self, couplings: Sequence[Coupling], shares: Sequence[int]) -> None:
        self.couplings, self.shares = couplings, shares

    def draw(self, first: int, n: int, rng: Generator) -> Pair:
        """Return n examples in random order: times of training are stratified over the places in it."""
        before, after = self.given(first), self.given(first + n)
        parts = [
            coupling.draw(begin, end - begin, rng)
            for coupling, begin, end in zip(self.couplings, before, after, strict=True)
        ]
        places = torch.randperm(n, generator=rng, device=rng.device)
        x0 = torch.cat([part.x0 for part in parts])[places]
        x1 = torch.cat([part.x1 for part in parts])[places]
        labels = [part.label for part in parts if part.label is not None]
        return Pair(x0, x1, torch.cat(labels)[places] if labels else None)

    def given(self, examples: int) -> list[int]:
        """Return how many of the first `examples` examples come from each coupling."""
        counts, left, total = [], examples, sum(self.shares)
        for share in self.shares[:-1]:
            counts.append(left * share // total)
            left, total = left - counts[-1], total - share
        return [*counts, left]
