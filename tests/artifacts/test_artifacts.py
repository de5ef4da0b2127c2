"""Artifacts: whole or absent, equal bytes for equal inputs, checked on reading, readable for ever."""

import contextlib
import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Command
from safetensors import safe_open

from reflow import load_model
from reflow.artifacts import Header, file_digest, read_artifact, read_header, write_artifact
from reflow.artifacts.files import write_atomically
from reflow.errors import ReflowError
from reflow.flow import Pair
from reflow.pairs.store import open_pairs, read_index, write_index, write_shard

GOLDEN = Path(__file__).parents[1] / "golden"
HEADER = Header(kind="model", stage="train", rectification=1, recipe={"seed": 0, "name": "x"})


def tensors() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, 2, generator=rng) for name in "cab"}


def test_tensors_and_header_return_as_they_were(tmp_path: Path) -> None:
    digest = write_artifact(tmp_path / "m", tensors(), HEADER)
    header, found = read_artifact(tmp_path / "m", "model")
    assert header == HEADER == read_header(tmp_path / "m")
    assert digest == file_digest(tmp_path / "m")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


def test_equal_inputs_give_equal_bytes_whatever_their_order(tmp_path: Path) -> None:
    reverse = dict(reversed(tensors().items()))
    assert write_artifact(tmp_path / "a", tensors(), HEADER) == write_artifact(
        tmp_path / "b", reverse, HEADER
    )


def test_the_header_is_one_entry_that_safetensors_reads(tmp_path: Path) -> None:
    write_artifact(tmp_path / "m", tensors(), HEADER)
    with safe_open(tmp_path / "m", "pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["reflow"]
    assert json.loads(metadata["reflow"])["format"] == 1


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_artifact(path, tensors(), HEADER)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for position in range(start, len(content), 7):
        altered = bytearray(content)
        altered[position] ^= 0x10
        path.write_bytes(altered)
        with pytest.raises(ReflowError, match="damaged"):
            read_artifact(path, "model")


def test_any_changed_bit_of_a_header_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m"
    header = replace(HEADER, recipe={"sigma_data": 0.5, "tolerance": 1e-05}, facts={"step": 40})
    write_artifact(path, tensors(), header)
    content = path.read_bytes()
    unnoticed = []
    for position in range(8 + int.from_bytes(content[:8], "little")):
        for bit in (0x01, 0x04, 0x20):
            altered = bytearray(content)
            altered[position] ^= bit
            path.write_bytes(altered)
            with contextlib.suppress(ReflowError):
                found, _ = read_artifact(path, "model")
                unnoticed += [position] if found != header else []
    assert not unnoticed


def test_a_changed_digit_is_refused_by_all_who_read_headers(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_artifact(path, tensors(), replace(HEADER, kind="state", facts={"step": 1800}))
    assert path.read_bytes().count(b"1800") == 1
    path.write_bytes(path.read_bytes().replace(b"1800", b"1200"))
    for read in (lambda: read_header(path), lambda: read_artifact(path, "state")):
        with pytest.raises(ReflowError, match="header does not match its digest"):
            read()


def test_headers_of_earlier_versions_have_no_digest_and_load(tmp_path: Path) -> None:
    """The golden files are such; no later version has other entries without one."""
    for kind, name in (("model", "base/model"), ("state", "base/state"), ("model", "student/model")):
        shutil.copy(GOLDEN / f"{name}.safetensors", tmp_path / "m")
        with safe_open(tmp_path / "m", "pt") as file:
            assert "header" not in json.loads(file.metadata()["reflow"])
        assert read_header(tmp_path / "m").kind == kind
    path = tmp_path / "m"
    write_artifact(path, tensors(), HEADER)
    path.write_bytes(path.read_bytes().replace(b'\\"header\\":', b'\\"leader\\":'))
    with pytest.raises(ReflowError, match="header does not match its digest"):
        read_header(path)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write_artifact(tmp_path / "m", {"a": torch.tensor([1.0, torch.nan])}, HEADER)
    with pytest.raises(ReflowError, match="tensor a holds NaN"):
        read_artifact(tmp_path / "m", "model")


@pytest.mark.parametrize("once", [False, True])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: bool
) -> None:
    def full(number: int) -> None:  # noqa: ARG001
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "m"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReflowError, match="cannot be written: No space left"):
        write_atomically(path, b"new", once=once)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("m", b"old")]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_of_two_writers_of_one_file_the_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(path: Path, target: Path) -> None:  # noqa: ARG001
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    other = {name: tensor + 1 for name, tensor in tensors().items()}
    first = write_artifact(tmp_path / "m", tensors(), HEADER, once=True)
    assert write_artifact(tmp_path / "m", other, HEADER, once=True) == first == file_digest(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert write_artifact(tmp_path / "m", other, HEADER) == file_digest(tmp_path / "m") != first


def test_writers_at_the_same_time_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        put = list(pool.map(lambda content: write_atomically(tmp_path / "m", content, once=True), contents))
    assert put.count(True) == 1
    assert (tmp_path / "m").read_bytes() == contents[put.index(True)]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def pair(n: int, offset: int = 0) -> Pair:
    rng = np.random.default_rng(offset)
    noise = torch.from_numpy(rng.standard_normal((n, 1, 4, 4)).astype(np.float32))
    return Pair(noise, noise / 2, torch.arange(offset, offset + n))


def test_pairs_come_back_by_row_across_shards(tmp_path: Path) -> None:
    header = Header("pairs", "couple", 1, {}, {}, {"event": [1, 4, 4], "classes": 9})
    shards = []
    for number, n in enumerate((5, 3)):
        name = f"pairs-{number:05d}-of-00002.safetensors"
        digest = write_shard(tmp_path / name, pair(n, offset=5 * number), header)
        shards.append({"file": name, "count": n, "sha256": digest})
    write_index(tmp_path, header, shards)
    store = open_pairs(tmp_path)
    assert len(store) == 8
    rows = np.array([7, 0, 4, 5, 7])
    x0, x1, label = store.take(rows)
    whole = torch.cat([pair(5).x0, pair(3, 5).x0])
    assert torch.equal(x0, whole[rows])
    assert torch.equal(x1, whole[rows] / 2)
    assert label is not None
    assert label.tolist() == rows.tolist()


def test_swapped_noise_and_image_are_refused(tmp_path: Path) -> None:
    header = Header("pairs", "couple", 1, {}, {}, {"event": [1, 4, 4], "classes": None})
    swapped = Pair(pair(1000).x1, pair(1000).x0)
    digest = write_shard(tmp_path / "shard", swapped, header)
    write_index(tmp_path, header, [{"file": "shard", "count": 1000, "sha256": digest}])
    with pytest.raises(ReflowError, match="swapped"):
        open_pairs(tmp_path)


def test_artifacts_of_format_1_load(reflow: Command) -> None:
    base, student = load_model(GOLDEN / "base"), load_model(GOLDEN / "student")
    assert (base.event, base.student_steps, student.student_steps) == ((2,), None, 1)
    pairs = open_pairs(GOLDEN / "pairs")
    assert len(pairs) == 6
    assert pairs.header.parents["model"] == base.digest
    assert read_index(GOLDEN / "pairs" / "pairs.json")[0].facts["nfe_max"] >= 7
    assert read_artifact(GOLDEN / "base" / "state.safetensors", "state")[0].facts["step"] == 3
    assert reflow("inspect", GOLDEN / "student").code == 0
