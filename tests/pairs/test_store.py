"""Pairs on disk: every byte checked through small buffers, rows the same whatever the shards."""

import json
import resource
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fields import examples
from files import EVENT, made, store
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from reflow import inputs
from reflow.artifacts import file_digest, parse_header
from reflow.couplings import Stored
from reflow.errors import ReflowError
from reflow.flow import Pair
from reflow.pairs import shard as one_shard
from reflow.pairs import store as all_shards
from reflow.pairs.store import open_pairs, shard_name

MB = 1 << 20


def rewrite(directory: Path, number: int, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Change the tensors of a shard and the digest that the index lists for it; return the shard."""
    index = json.loads((directory / "pairs.json").read_text())
    entry = index["shards"][number]
    path = directory / entry["file"]
    tensors = load_file(path)
    change(tensors)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata)
    entry["sha256"] = file_digest(path)
    reseal(directory, shards=index["shards"])
    return path


def reseal(directory: Path, **changes: Any) -> None:
    """Change entries of the index as somebody does who knows of its digest."""
    path = directory / "pairs.json"
    content = {key: value for key, value in json.loads(path.read_text()).items() if key != "header"}
    shards = content.pop("shards")
    header = parse_header(content, path)
    own = {key: changes.pop(key) for key in list(changes) if key != "shards"}
    path.write_text(replace(header, **own).sealed(shards=changes.get("shards", shards)))


def refused(directory: Path, *words: object) -> None:
    with pytest.raises(ReflowError) as caught:
        open_pairs(directory)
    assert "\n" not in str(caught.value)
    for word in words:
        assert str(word) in str(caught.value)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    picks=st.lists(st.integers(0, 10**6), max_size=30),
)
def test_rows_are_found_in_shards_of_any_sizes(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], picks: list[int]
) -> None:
    n = sum(sizes)
    whole = made(n, labelled=True)
    opened = open_pairs(store(tmp_path_factory.mktemp("pairs"), whole, sizes))
    assert len(opened) == n
    rows = np.array([pick % n for pick in picks], np.int64)
    for found, kept in zip(opened.take(rows), whole, strict=True):
        assert found is not None and kept is not None
        assert torch.equal(found, kept[rows])


def test_draws_do_not_depend_on_the_shards(tmp_path: Path) -> None:
    whole = made(70, labelled=True)
    one = open_pairs(store(tmp_path / "one", whole, [70]))
    seven = open_pairs(store(tmp_path / "seven", whole, [5, 20, 1, 14, 10, 13, 7]))
    rng = torch.Generator()
    for first in (0, 65, 700):
        a, b = (examples(Stored(opened, seed=3), first, 32, rng) for opened in (one, seven))
        for left, right in zip(a, b, strict=True):
            assert left is not None and right is not None
            assert torch.equal(left, right)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_images_of_half_precision_come_back_as_they_were_rounded(
    tmp_path: Path, precision: torch.dtype
) -> None:
    whole = made(30)
    half = Pair(whole.x0, whole.x1.to(precision))
    noise, image, _ = open_pairs(store(tmp_path / "pairs", half, [11, 19])).take(np.arange(30))
    assert torch.equal(noise, whole.x0)
    assert image.dtype == torch.float32
    assert torch.equal(image, whole.x1.to(precision).float())
    assert not torch.equal(image, whole.x1)


def test_noise_is_kept_in_float32_only_and_images_in_one_precision(tmp_path: Path) -> None:
    half = store(tmp_path / "half", made(10), [10])
    shard = rewrite(half, 0, lambda t: t.update(noise=t["noise"].half()))
    refused(half, shard, "its noise is not of shape (10, 1, 4, 4) and F32")
    eight_bits = store(tmp_path / "eight", made(10), [10])
    rewrite(eight_bits, 0, lambda t: t.update(image=t["image"].to(torch.uint8)))
    refused(eight_bits, "its image is not of shape (10, 1, 4, 4) and F32 or F16 or BF16")
    mixed = store(tmp_path / "mixed", made(10), [4, 6])
    rewrite(mixed, 1, lambda t: t.update(image=t["image"].half()))
    refused(mixed, mixed, "F16 and F32")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["noise", "image"])
def test_values_that_are_not_finite_are_found_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: torch.dtype, value: float
) -> None:
    monkeypatch.setattr(one_shard, "CHUNK", 64)
    for place in (0, 31, 32, 3 * 16 - 1):  # the ends of the tensor and of chunks
        directory = store(tmp_path / f"{place}", made(8, image=precision), [5, 3])

        def spoil(tensors: dict[str, torch.Tensor], place: int = place) -> None:
            tensors[name].view(-1)[place] = value

        refused(directory, rewrite(directory, 1, spoil), f"its {name} holds NaN or infinity")


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
def test_large_values_are_finite(tmp_path: Path, precision: torch.dtype) -> None:
    largest = torch.finfo(precision).max
    directory = store(tmp_path / "pairs", made(8, image=precision), [8])
    rewrite(directory, 0, lambda t: t["image"].fill_(largest))
    assert bool((open_pairs(directory).take(np.arange(8)).x1 == largest).all())


def test_noise_too_large_to_be_squared_is_refused(tmp_path: Path) -> None:
    directory = store(tmp_path / "pairs", made(1000), [1000])
    rewrite(directory, 0, lambda t: t["noise"].fill_(torch.finfo(torch.float32).max))
    refused(directory, "swapped")


@pytest.mark.parametrize("mean", [0.0, 0.5])
@pytest.mark.parametrize(("scale", "accepted"), [(0.88, False), (0.92, True), (1.08, True), (1.12, False)])
def test_noise_deviates_by_about_one_over_all_chunks_of_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float, accepted: bool, mean: float
) -> None:
    monkeypatch.setattr(one_shard, "CHUNK", 1000)
    rng = np.random.default_rng(0)
    levels = np.concatenate([rng.standard_normal(8000) + 0.5, rng.standard_normal(8000) - 0.5])
    noise = torch.from_numpy((mean + scale * levels / levels.std()).astype(np.float32)).reshape(-1, *EVENT)
    directory = store(tmp_path / "pairs", Pair(noise, noise / 2), [1000])
    if accepted:
        assert len(open_pairs(directory)) == 1000
    else:
        refused(directory, "pairs-00000-of-00001.safetensors", "swapped")


def test_inverted_noise_need_not_be_standard_normal(tmp_path: Path) -> None:
    whole = made(1000)
    narrow = Pair(0.7 * whole.x0, whole.x1)
    refused(store(tmp_path / "drawn", narrow, [1000]), "swapped")
    assert len(open_pairs(store(tmp_path / "inverted", narrow, [1000], inverted=True))) == 1000


@pytest.mark.parametrize("chunk", [64, one_shard.CHUNK])
def test_any_changed_byte_of_a_shard_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(one_shard, "CHUNK", chunk)
    directory = store(tmp_path / "pairs", made(6, labelled=True), [2, 4])
    shard = directory / shard_name(1, 2)
    content = shard.read_bytes()
    for position in range(0, len(content), 11):
        altered = bytearray(content)
        altered[position] ^= 0x10
        shard.write_bytes(altered)
        refused(directory, shard.name)
    for damage in (content[:-1], content + b"\x00", content[: len(content) // 2], b""):
        shard.write_bytes(damage)
        refused(directory, shard.name)
    shard.write_bytes(content)
    assert len(open_pairs(directory)) == 6


def test_of_several_damaged_shards_the_first_is_named(tmp_path: Path) -> None:
    directory = store(tmp_path / "pairs", made(40), [10] * 4)
    for number in (3, 1, 2):
        with (directory / shard_name(number, 4)).open("ab") as file:
            file.write(b"more")
    refused(directory, shard_name(1, 4))


@pytest.mark.parametrize("listed", [[], [0], [0, 0]])
def test_an_index_without_pairs_is_damaged(tmp_path: Path, listed: list[int]) -> None:
    refused(store(tmp_path / "pairs", made(1), listed), "pairs.json", "lists no pairs")


def test_opening_and_drawing_take_no_memory_of_the_size_of_the_shard(tmp_path: Path) -> None:
    """The system may drop the pages of a map at any time; what counts is what is allocated."""
    n = 200_000
    whole = made(n)
    directory = store(tmp_path / "pairs", whole, [n])  # one shard of 25 MB
    del whole
    assert (directory / shard_name(0, 1)).stat().st_size > 24 * MB
    tracemalloc.start()
    try:
        coupling = Stored(open_pairs(directory), seed=0)
        _, opening = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for k in range(20):
            examples(coupling, 256 * k, 256, torch.Generator())
        _, drawing = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert opening < 4 * MB  # a buffer, and one of the exponents in it
    assert drawing < 1 * MB  # 20 batches in turn of 33 kB, and an order that is not stored


def test_each_shard_holds_one_file_open(tmp_path: Path) -> None:
    directory = store(tmp_path / "pairs", made(60), [2] * 30)
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = open_pairs(directory)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 30
    del opened
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_more_shards_than_open_files_are_allowed_raise_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = store(tmp_path / "pairs", made(60), [1] * 60)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
        with monkeypatch.context() as patch:
            patch.setattr(all_shards, "_allow_open_files", lambda _: None)
            refused(directory, "cannot be mapped", "ulimit -n")
        assert len(open_pairs(directory)) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    directory = store(tmp_path / "pairs", made(50), [10, 30, 10])
    sizes = [path.stat().st_size for path in sorted(directory.glob("*.safetensors"))]
    seen: list[tuple[int, int]] = []
    open_pairs(directory, lambda done, total: seen.append((done, total)))
    assert seen == [(sum(sizes[: number + 1]), sum(sizes)) for number in range(3)]


def test_a_long_check_shows_how_far_it_is_and_a_short_one_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = store(tmp_path / "pairs", made(20_000), [10_000, 10_000])  # two shards of 1.28 MB
    inputs.open_pairs_watched(directory)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(inputs, "PATIENCE_SECONDS", -1.0)
    inputs.open_pairs_watched(directory)
    assert f"check {directory}: 2/2 MB" in capsys.readouterr().err


def test_a_changed_digit_of_the_index_is_refused(tmp_path: Path) -> None:
    directory = store(tmp_path / "pairs", made(8), [8], nfe_max=17)
    path = directory / "pairs.json"
    path.write_text(path.read_text().replace('"nfe_max":17', '"nfe_max":18'))
    refused(directory, path, "header does not match its digest")


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "of an earlier version"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda shards: shards[:1], ("announces 8 pairs and lists shards with 5",)),
        (lambda shards: [shards[0], shards[0]], ("pairs-00000-of-00002.safetensors twice",)),
        (lambda shards: [shards[0], shards[1] | {"sha256": shards[0]["sha256"]}], ("twice",)),
        (lambda shards: [shards[0], shards[1] | {"file": "../" + shards[1]["file"]}], ("'../pairs",)),
        (lambda shards: [shards[0] | {"file": "/etc/passwd"}, shards[1]], ("'/etc/passwd'",)),
        (lambda shards: [shards[0] | {"file": ".."}, shards[1]], ("'..'",)),
        (lambda shards: [shards[0] | {"file": "a\x1b[2J"}, shards[1]], ("'a\\x1b[2J'",)),
    ],
    ids=["left out", "twice", "same bytes twice", "up", "absolute", "dots", "escape"],
)
def test_a_list_of_shards_that_is_not_the_set_is_refused(
    tmp_path: Path, change: Callable[[Any], Any], words: tuple[str, ...], sealed: bool
) -> None:
    directory = store(tmp_path / "pairs", made(8), [5, 3], count=8)
    path = directory / "pairs.json"
    reseal(directory, shards=change(json.loads(path.read_text())["shards"]))
    if not sealed:
        content = json.loads(path.read_text())
        del content["header"]
        path.write_text(json.dumps(content))
    refused(directory, path, "is damaged", *words)


def test_shards_of_another_set_are_refused(tmp_path: Path) -> None:
    directory = store(tmp_path / "pairs", made(8), [5, 3])
    for changes, word in (
        ({"recipe": {"seed": 3}}, "seed is None there and 3 now"),
        ({"parents": {"model": "0" * 64, "first-pairs": "1" * 64}}, ""),
        ({"rectification": 2}, "rectification is 1 there, 2 now"),
        ({"facts": {"event": list(EVENT), "classes": None, "inverted": True}}, "inverted is None there"),
    ):
        before = (directory / "pairs.json").read_text()
        reseal(directory, **changes)
        if word:
            refused(directory, "pairs-00000-of-00002.safetensors", "does not belong to pairs.json", word)
        else:  # the index may have more parents than its shards
            assert len(open_pairs(directory)) == 8
        (directory / "pairs.json").write_text(before)
