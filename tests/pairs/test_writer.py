"""Pairs that come in any order fill their shards, in the memory of the open ones."""

import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from files import EVENT, made
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reflow.artifacts import Header
from reflow.flow import Pair
from reflow.pairs.writer import ShardSet, ShardWriter

HEADER = Header("pairs", "couple", 1, {}, {}, {"event": list(EVENT), "classes": None})
Write = Callable[[int, Pair, Tensor], None]


def shelf_of(items: int, size: int, write: Write, dtype: torch.dtype = torch.float32) -> ShardWriter:
    return ShardWriter(ShardSet(Path("nowhere"), HEADER, items, size), dtype, write)


def nothing(shard: int, pair: Pair, nfe: Tensor) -> None:
    """Write nothing."""


def put(writer: ShardWriter, whole: Pair, numbers: Tensor) -> None:
    """Start and finish these pairs."""
    writer.start(numbers, whole.x0[numbers], None if whole.label is None else whole.label[numbers])
    writer.finish(numbers, whole.x1[numbers], numbers + 100)


@given(
    items=st.integers(1, 40),
    size=st.integers(1, 12),
    chunk=st.integers(1, 9),
    labelled=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_order_of_arrival_does_not_matter(
    items: int, size: int, chunk: int, labelled: bool, seed: int
) -> None:
    written: dict[int, tuple[Pair, Tensor]] = {}

    def write(shard: int, pair: Pair, nfe: Tensor) -> None:
        assert shard not in written
        written[shard] = pair, nfe

    rng = np.random.default_rng(seed)
    whole, order = made(items, labelled=labelled), torch.from_numpy(rng.permutation(items))
    begun, ended = order.split(chunk), torch.from_numpy(rng.permutation(items)).split(chunk)
    with shelf_of(items, size, write) as writer:
        for numbers in begun:
            label = None if whole.label is None else whole.label[numbers]
            writer.start(numbers, whole.x0[numbers], label)
        for numbers in ended:
            writer.finish(numbers, whole.x1[numbers], numbers + 100)
        assert not writer.open
    assert sorted(written) == list(range(-(-items // size)))
    pairs, evaluations = zip(*(written[shard] for shard in sorted(written)), strict=True)
    assert torch.equal(torch.cat([pair.x0 for pair in pairs]), whole.x0)
    assert torch.equal(torch.cat([pair.x1 for pair in pairs]), whole.x1)
    assert torch.cat(evaluations).tolist() == list(range(100, 100 + items))
    for pair in pairs:
        assert (pair.label is None) == (not labelled)
    if whole.label is not None:
        assert torch.cat([pair.label for pair in pairs if pair.label is not None]).equal(whole.label)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_are_rounded_and_noise_is_not(dtype: torch.dtype) -> None:
    seen = []
    with shelf_of(4, 4, lambda shard, pair, nfe: seen.append(pair), dtype) as writer:  # noqa: ARG005
        put(writer, made(4), torch.arange(4))
    assert torch.equal(seen[0].x0, made(4).x0)
    assert torch.equal(seen[0].x1, made(4).x1.to(dtype))


def test_only_open_shards_are_held() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def write(shard: int, pair: Pair, nfe: Tensor) -> None:  # noqa: ARG001
        alive.append(weakref.ref(pair.x0))

    whole, most = made(120), 0
    with shelf_of(120, 10, write) as writer:
        for numbers in torch.arange(120).split(7):
            writer.start(numbers, whole.x0[numbers], None)
            most = max(most, len(writer.open))
            writer.finish(numbers, whole.x1[numbers], numbers)
            # The one being written, and the one before until its thread has let go of it.
            assert sum(shard() is not None for shard in alive) <= 2
    assert most == 2  # seven pairs lie in two shards of ten at most
    assert not [shard for shard in alive if shard() is not None and shard is not alive[-1]]


def test_solving_goes_on_while_a_shard_is_written_and_waits_for_the_one_after() -> None:
    free, both = threading.Event(), threading.Event()
    written, whole = [], made(9)

    def write(shard: int, pair: Pair, nfe: Tensor) -> None:  # noqa: ARG001
        assert free.wait(10)
        written.append(shard)

    def fill() -> None:
        with shelf_of(9, 3, write) as writer:
            put(writer, whole, torch.arange(3))
            put(writer, whole, torch.arange(3, 5))
            both.set()
            put(writer, whole, torch.arange(5, 6))  # full, and the one before is not written yet
            written.append("two are full")
            put(writer, whole, torch.arange(6, 9))

    filling = threading.Thread(target=fill)
    filling.start()
    assert both.wait(10)
    assert not written
    free.set()
    filling.join(10)
    assert written[0] == 0  # before the second was accepted: never two behind
    assert sorted(map(str, written)) == ["0", "1", "2", "two are full"]


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_what_goes_wrong_while_writing_reaches_the_caller(broken: int) -> None:
    written = []

    def write(shard: int, pair: Pair, nfe: Tensor) -> None:  # noqa: ARG001
        if shard == broken:
            raise OSError("no space left")
        written.append(shard)

    with pytest.raises(OSError, match="no space left"), shelf_of(9, 3, write) as writer:
        put(writer, made(9), torch.arange(9))
    assert written == list(range(broken))  # nothing after it


def test_an_error_of_the_caller_waits_for_the_writing_and_is_the_one_raised() -> None:
    written = []

    def write(shard: int, pair: Pair, nfe: Tensor) -> None:  # noqa: ARG001
        written.append(shard)
        raise OSError("no space left")

    def fill(writer: ShardWriter) -> None:
        put(writer, made(9), torch.arange(4))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), shelf_of(9, 3, write) as writer:
        fill(writer)
    assert written == [0]


def test_a_pair_that_was_never_started_is_a_mistake() -> None:
    with pytest.raises(KeyError), shelf_of(9, 3, nothing) as writer:
        writer.finish(torch.arange(3), made(3).x1, torch.arange(3))
