"""Couplings: the joint law of (x0, x1) that training draws from.

A coupling is an endless stream of numbered examples; data are visited in a fresh permutation every
epoch, a function of the seed and the example number alone, so that resuming needs no position beyond
the step, and any process may draw any part of a batch. Shapes: x0, x1 (n, *event).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.couplings.permutation import Permutation
from reflow.devices import to_device
from reflow.flow import Pair
from reflow.pixels import as_seen
from reflow.randomness import Draws, draw_seed

Numbers = NDArray[np.int64]


class Coupling(Protocol):
    """What training draws its examples from."""

    def draw(self, examples: Numbers, draws: Draws) -> Pair:
        """Return the examples of these numbers (n,), one for each row of the draws, on their device."""
        ...


class Numbered(Protocol):
    """Samples by row number, in memory or on disk."""

    def __len__(self) -> int: ...


class RawSamples(Numbered, Protocol):
    """A data set."""

    def raw(self, rows: Numbers) -> tuple[Tensor, Tensor | None]:
        """Return values as they are stored, bytes of images among them, and labels at these rows."""
        ...


class StoredPairs(Numbered, Protocol):
    """Pairs on disk."""

    def take(self, rows: Numbers) -> Pair:
        """Return the pairs at these rows."""
        ...


class Order:
    """The row that each example number visits: one permutation of all rows per epoch."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self._latest: tuple[int, Permutation] | None = None

    def __call__(self, examples: Numbers) -> Numbers:
        """Return the rows (n,) of the examples (n,)."""
        epochs, places = np.divmod(examples, self.rows)
        visited = np.empty_like(examples)
        for epoch in np.unique(epochs).tolist():
            inside = epochs == epoch
            visited[inside] = self._permutation_of(epoch)(places[inside])
        return visited

    def _permutation_of(self, epoch: int) -> Permutation:
        latest = self._latest  # looked at once: a thread that draws ahead may be asking as well
        if latest is None or latest[0] != epoch:
            rng = np.random.Generator(np.random.Philox(draw_seed(self.seed, "order", epoch)))
            latest = self._latest = epoch, Permutation(self.rows, rng)
        return latest[1]


class Independent:
    """Data with fresh noise at every visit: the coupling of the base model."""

    def __init__(self, data: RawSamples, seed: int, *, flip: bool = False) -> None:
        self.data, self.flip = data, flip
        self.order = Order(len(data), seed)

    def draw(self, examples: Numbers, draws: Draws) -> Pair:
        """Return data with noise, images mirrored with probability one half where asked for."""
        values, label = self.data.raw(self.order(examples))
        x1 = as_seen(to_device(values, draws.device))  # bytes are a quarter of the way
        if self.flip:
            mirrored = draws.uniform() < 0.5
            x1 = torch.where(mirrored.reshape(-1, 1, 1, 1), x1.flip(-1), x1)
        x0 = draws.normal(x1.shape[1:])
        return Pair(x0, x1, None if label is None else to_device(label, draws.device))


class Stored:
    """Pairs that a teacher made: the coupling of reflow and distillation."""

    def __init__(self, pairs: StoredPairs, seed: int) -> None:
        self.pairs = pairs
        self.order = Order(len(pairs), seed)

    def draw(self, examples: Numbers, draws: Draws) -> Pair:
        """Return stored pairs."""
        pair = self.pairs.take(self.order(examples))
        return Pair(*(None if end is None else to_device(end, draws.device) for end in pair))  # type: ignore[arg-type]


class Drawn:
    """Pairs first to last - 1 of a store in a random order, which the seed decides."""

    def __init__(self, pairs: StoredPairs, seed: int, first: int, last: int) -> None:
        self.pairs, self.first, self.last = pairs, first, last
        rng = np.random.Generator(np.random.Philox(draw_seed(seed, "split")))
        self.permutation = Permutation(len(pairs), rng)

    def __len__(self) -> int:
        return self.last - self.first

    def take(self, rows: Numbers) -> Pair:
        """Return the pairs at these rows of the part."""
        return self.pairs.take(self.permutation(self.first + rows))


class Mixture:
    """Several couplings, each giving a fixed share of the examples.

    Of the first e examples each coupling gives its share of e to within one per further coupling, and
    exactly that share whenever e is a multiple of the sum of the shares; its own examples are numbered
    without gaps, so every one of its rows is still visited once in each of its epochs.
    """

    def __init__(self, couplings: Sequence[Coupling], shares: Sequence[int]) -> None:
        self.couplings, self.shares = couplings, shares

    def draw(self, examples: Numbers, draws: Draws) -> Pair:
        """Return examples in random order: times of training are stratified over the places in it."""
        first = int(examples[0] - draws.rows[0])  # of the batch, whose examples are numbered on
        begins, ends = self.given(first), self.given(first + draws.batch)
        limits = np.cumsum([end - begin for begin, end in zip(begins, ends, strict=True)])
        places = draws.shuffled()  # in the batch as it would be in the order of the couplings
        source = np.searchsorted(limits, places, side="right")
        numbers = places + np.subtract(ends, limits)[source]  # of each example in its own coupling
        used = np.unique(source).tolist()
        parts = [self.couplings[k].draw(numbers[source == k], draws.at(source == k)) for k in used]
        back = to_device(torch.from_numpy(np.argsort(np.argsort(source, kind="stable"))), draws.device)
        x0, x1 = (torch.cat([part[end] for part in parts])[back] for end in (0, 1))
        labels = [part.label for part in parts if part.label is not None]
        return Pair(x0, x1, torch.cat(labels)[back] if labels else None)

    def given(self, examples: int) -> list[int]:
        """Return how many of the first `examples` examples come from each coupling."""
        counts, left, total = [], examples, sum(self.shares)
        for share in self.shares[:-1]:
            counts.append(left * share // total)
            left, total = left - counts[-1], total - share
        return [*counts, left]
