"""Shards being filled: pairs come in any order, a full shard is written while the next ones fill.

Only open shards take memory. Writing happens in one thread beside the solving, at most one shard behind it.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from reflow.flow import Pair
from reflow.shardset import ShardSet
from reflow.solvers.engine import Draw

Write = Callable[[int, Pair, Tensor], None]  # (number of the shard, its pairs, their evaluations)


class Shelf:
    """The open shards of a set; images are kept in `dtype`."""

    def __init__(self, shards: ShardSet, dtype: torch.dtype, write: Write) -> None:
        self.shards, self.dtype, self.write = shards, dtype, write
        self.open: dict[int, _Shard] = {}
        self.pool = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.pool.shutdown(wait=True)
        if kind is None:
            self._finish()

    def watched(self, draws: Iterable[Draw]) -> Iterator[Draw]:
        """Yield the draws, taking the noise of each."""
        for draw in draws:
            self.start(*draw)
            yield draw

    def start(self, numbers: Tensor, x0: Tensor, label: Tensor | None) -> None:
        """Take the noise and the labels of pairs that are about to be solved."""
        for shard, rows, inside in self._places(numbers):
            if shard not in self.open:
                self.open[shard] = _Shard(len(self.shards.numbers(shard)), x0, label, self.dtype)
            self.open[shard].x0[inside] = x0[rows]
            if label is not None:
                self.open[shard].labels()[inside] = label[rows]

    def finish(self, numbers: Tensor, x1: Tensor, nfe: Tensor) -> None:
        """Take the images of pairs that were started; write the shards that are full now.

        Raises what went wrong with the shard before.
        """
        if self.pending is not None and self.pending.done():
            self._finish()
        for shard, rows, inside in self._places(numbers):
            here = self.open[shard]
            here.x1[inside], here.nfe[inside] = x1[rows].to(self.dtype), nfe[rows]
            here.missing -= len(inside)
            if not here.missing:
                self._finish()
                full = self.open.pop(shard)
                pair = Pair(full.x0, full.x1, full.label)
                self.pending = self.pool.submit(self.write, shard, pair, full.nfe)

    def _places(self, numbers: Tensor) -> Iterable[tuple[int, Tensor, Tensor]]:
        """Yield (shard, rows of the input that it takes, their places in it)."""
        owners = numbers // self.shards.size
        for shard in sorted(set(owners.tolist())):
            rows = (owners == shard).nonzero()[:, 0]
            yield shard, rows, numbers[rows] - shard * self.shards.size

    def _finish(self) -> None:
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()


class _Shard:
    def __init__(self, size: int, x0: Tensor, label: Tensor | None, dtype: torch.dtype) -> None:
        self.x0 = torch.empty(size, *x0.shape[1:])
        self.x1 = torch.empty(size, *x0.shape[1:], dtype=dtype)
        self.nfe = torch.empty(size, dtype=torch.int64)
        self.label = None if label is None else torch.empty(size, dtype=torch.int64)
        self.missing = size

    def labels(self) -> Tensor:
        """Return the labels of a set that has them."""
        assert self.label is not None
        return self.label
