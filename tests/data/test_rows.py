"""Samples by row number: bytes as stored, parts that copy nothing, and one digest for ever."""

from pathlib import Path

import numpy as np
import pytest
import torch
from files import GREY, RGB, folder, load

from reflow.data import DataSet, dataset, split
from reflow.pixels import as_seen

ROWS = np.array([5, 0, 5, 3])


def numbered(n: int = 8) -> DataSet:
    """Return n images of three channels whose pixels are their row number, labelled with it."""
    values = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 3, 2, 2))
    return DataSet(values, np.arange(n), tuple(map(str, range(n))))


def test_every_level_is_seen_as_it_always_was() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_seen(levels), levels.float() / 127.5 - 1)
    assert torch.equal(
        as_seen(levels), torch.from_numpy(np.arange(256, dtype=np.float32) / np.float32(127.5) - 1)
    )
    vectors = torch.randn(3, 2)
    assert as_seen(vectors) is vectors


def test_raw_values_are_the_bytes_and_seen_they_are_what_is_taken() -> None:
    data = numbered()
    values, labels = data.raw(ROWS)
    assert (values.dtype, values.shape) == (torch.uint8, (4, 3, 2, 2))
    assert values[:, 0, 0, 0].tolist() == ROWS.tolist()
    assert labels is not None and labels.tolist() == ROWS.tolist()
    assert torch.equal(as_seen(values), data.take(ROWS)[0])
    assert data.without_labels().raw(ROWS)[1] is None


def test_parts_of_parts_are_the_same_rows_and_copy_no_values() -> None:
    data = numbered()
    part = data.subset(np.array([6, 1, 3, 4])).subset(np.array([3, 0, 2])).without_labels()
    assert np.shares_memory(part.stored, data.stored)
    assert (len(part), part.event) == (3, (3, 2, 2))
    np.testing.assert_array_equal(part.values[:, 0, 0, 0], [4, 6, 3])
    assert part.raw(np.array([2, 0]))[0][:, 0, 0, 0].tolist() == [3, 4]
    labels = data.subset(np.array([6, 1, 3])).raw(np.array([2, 0]))[1]
    assert labels is not None and labels.tolist() == [3, 6]


def test_the_digest_of_a_part_is_that_of_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbered()
    part = data.subset(ROWS)
    copy = DataSet(data.values[ROWS].copy(), data.labels[ROWS], data.class_names)  # type: ignore[index]
    assert part.digest() == copy.digest() != data.digest()
    digest = part.digest()
    monkeypatch.setattr(dataset, "CHUNK", 20)  # bytes; a sample has twelve
    assert part.digest() == digest


def test_digests_are_those_that_models_in_the_wild_were_trained_on(tmp_path: Path) -> None:
    """Computed by the version before the cache, which held all data in memory."""
    np.savez(tmp_path / "a.npz", images=RGB, labels=np.array([7, -1, 7, 30]))
    np.savez(tmp_path / "v.npz", samples=np.arange(12.0).reshape(4, 3))
    labelled = load(tmp_path / "a.npz")
    digests = {
        labelled.digest(): "b99b2b4d2a76def4bd3ca33eb61ad2c2983861922f2312ec63aafda6c99b4202",
        split(labelled, 0.5, 3)[
            1
        ].digest(): "ab80cf38beaf9352dafe6cd5f684882c9927ec94e7dfd06b55489999a2ceabcd",
        load(
            folder(tmp_path / "g", GREY)
        ).digest(): "1263f4620b5cdb8cdc6409e5693a2d5d74b712b55646f0b4cea4fdffcbdf97f3",
        load(
            tmp_path / "v.npz"
        ).digest(): "fbf7bb0295ebc085d04533598f0bf998d7cfa8f847605de247b4514169a5a353",
        load("digits").digest(): "0c1017152bd5c22c5fbf0c4b09f0ddd424886d65ef07e4575baa6ccbdd9ca017",
        load(
            "two-moons", points=50
        ).digest(): "2bd4799fabef5bf8edb818ef82944a1623dc5b5f055aea5987b2542dce5d4be1",
    }
    for found, known in digests.items():
        assert found == known
