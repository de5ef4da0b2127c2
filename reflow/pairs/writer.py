"""A set of pairs being made: which shards there are, which are complete, and the index that closes it.

Several processes may fill one set: a shard is put under its name once, whoever comes first, and the
index is written by the process that finds all shards there. Pairs come in any order. Only open shards take
memory; a full one is written in a thread beside the solving, at most one shard behind it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.artifacts import PAIRS, SHARDS, Header, file_digest, read_artifact, read_header
from reflow.artifacts.facts import PairFacts, pair_facts
from reflow.artifacts.files import held
from reflow.artifacts.stage_directory import require_same
from reflow.errors import ReflowError
from reflow.flow import Pair
from reflow.pairs.shard import as_float, open_shard, read_layout
from reflow.pairs.store import read_index, shard_name, write_index, write_shard
from reflow.solvers.engine import Draw

LOCK = ".index.lock"


@dataclass(frozen=True)
class ShardSet:
    """The shards of `items` numbered pairs, `size` of them each, in the directory `out`."""

    out: Path
    header: Header
    items: int
    size: int
    entries: dict[int, dict[str, Any]] = field(default_factory=dict)  # of the shards known to be sound

    def __len__(self) -> int:
        return -(-self.items // self.size)

    def path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.out / shard_name(shard, len(self))

    def numbers(self, shard: int) -> range:
        """Return the pairs that belong to a shard."""
        return range(shard * self.size, min((shard + 1) * self.size, self.items))

    def pairs_in(self, shards: Iterable[int]) -> int:
        """Return how many pairs belong to these shards."""
        return sum(len(self.numbers(shard)) for shard in shards)

    def refuse_strangers(self) -> None:
        """Refuse shards of another count or size."""
        names = {self.path(shard).name for shard in range(len(self))}
        strangers = sorted({path.name for path in self.out.glob(SHARDS)} - names)
        if strangers:
            raise ReflowError(
                f"{self.out} holds {strangers[0]}, of another --count or couple.shard; "
                "give the same as before, another --out, or --fresh to discard them"
            )

    def check(self, shard: int) -> bool:
        """Return whether a shard is there; refuse one that is damaged or of other settings."""
        path = self.path(shard)
        if shard in self.entries:
            return True
        if not path.exists():
            return False
        found, _ = read_artifact(path, "pairs")
        require_same(path, found, self.header)
        self._enter(shard, found, file_digest(path))
        return True

    def _enter(self, shard: int, found: Header, digest: str) -> None:
        """Note a shard that is on disk, with what its own header says."""
        own = {key: value for key, value in found.facts.items() if key not in self.header.facts}
        self.entries[shard] = {"file": self.path(shard).name, "sha256": digest, **own}

    def write(self, shard: int, pair: Pair, facts: dict[str, Any]) -> None:
        """Write a shard, unless another process has; the facts are its own."""
        header = replace(self.header, facts=self.header.facts | facts)
        digest = write_shard(self.path(shard), pair, header)
        self._enter(shard, read_header(self.path(shard), "pairs"), digest)

    def missing(self) -> int:
        """Return how many shards are still to come."""
        return sum(not self.path(shard).exists() for shard in range(len(self)))

    def images(self, numbers: NDArray[np.int64]) -> Tensor:
        """Return the images (n, *event) of these pairs, float32, once all shards are there."""
        facts = pair_facts(self.header.facts)
        images = torch.empty(len(numbers), *facts.event)
        for shard in np.unique(numbers // self.size).tolist():
            self.check(shard)
            inside, own = numbers // self.size == shard, self.numbers(shard)
            layout = read_layout(
                self.path(shard), len(own), facts.event, labelled=facts.classes is not None
            )
            stored = open_shard(layout).image[numbers[inside] - own.start]
            images[torch.from_numpy(inside)] = as_float(stored)
        return images

    def close(self, found: Mapping[str, Any], parents: Mapping[str, str] | None = None) -> PairFacts:
        """Write the index of all shards, unless another process has; return the facts of the set.

        found, parents: facts and parents that the index has beside those of the shards.
        """
        with held(self.out / LOCK):
            if (self.out / PAIRS).exists():
                return pair_facts(read_index(self.out / PAIRS)[0].facts)
            for shard in range(len(self)):
                self.check(shard)
            entries = [dict(self.entries[shard]) for shard in range(len(self))]
            totals = _totals(entries)
            filled = [entry for entry in entries if entry["count"]]
            if not filled:
                raise ReflowError(
                    f"{self.out}: every pair fell outside the gates; "
                    "widen couple.noise_gate or couple.round_trip_gate"
                )
            facts = replace(pair_facts(self.header.facts), **found, **totals)
            lineage = self.header.parents | dict(parents or {})
            write_index(self.out, replace(self.header, facts=facts.to_json(), parents=lineage), filled)
            return facts


def spent(nfe: Tensor) -> dict[str, Any]:
    """Return how many pairs there are and how many evaluations (n,) they took."""
    return _figures(Counter(nfe.tolist()))


def _totals(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the same of all shards, whose histograms leave the entries."""
    histogram: Counter[int] = Counter()
    for entry in entries:
        histogram.update({int(key): n for key, n in entry.pop("nfe_histogram").items()})
    return _figures(histogram)


def _figures(histogram: Counter[int]) -> dict[str, Any]:
    count = sum(histogram.values())
    total = sum(nfe * n for nfe, n in histogram.items())
    return {
        "count": count,
        "nfe_mean": round(total / count, 4) if count else 0.0,
        "nfe_max": max(histogram, default=0),
        "nfe_histogram": {str(nfe): n for nfe, n in sorted(histogram.items())},
    }


Write = Callable[[int, Pair, Tensor], None]  # (number of the shard, its pairs, their evaluations)


class ShardWriter:
    """The open shards of a set; images are kept in `dtype`."""

    def __init__(self, shards: ShardSet, dtype: torch.dtype, write: Write) -> None:
        self.shards, self.dtype, self.write = shards, dtype, write
        self.open: dict[int, _Shard] = {}
        self.pool = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def __enter__(self) -> "ShardWriter":
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
