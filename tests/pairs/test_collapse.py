"""Pairs of later rounds are compared with the first round's, and collapsed ones are refused but kept."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, Command, Exact, artifacts, one_line
from files import store
from neighbours import covered_by_sklearn

from reflow.artifacts import Header, file_digest
from reflow.flow import Pair
from reflow.pairs.collapse import MOST, coverage_of, recorded
from reflow.pairs.store import PairStore, open_pairs, read_index
from reflow.pairs.writer import ShardSet, spent
from reflow.randomness import draw_seed

COUNT = ("--count", 200)


def ring(n: int, seed: int = 0, modes: int = 8) -> Pair:
    """Return pairs whose images are some of eight Gaussians on a circle, in turn."""
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    angle = torch.arange(n) % modes * math.tau / 8
    return Pair(noise, torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * noise)


def first_round(path: Path, pair: Pair) -> PairStore:
    return open_pairs(store(path, pair, [len(pair.x0) // 3, len(pair.x0) - len(pair.x0) // 3]))


def later_round(path: Path, pair: Pair, size: int = 300) -> ShardSet:
    path.mkdir()
    header = Header("pairs", "couple", 2, {}, {}, {"event": [2], "classes": None})
    new = ShardSet(path, header, len(pair.x0), size)
    for shard in range(len(new)):
        rows = new.numbers(shard)
        part = Pair(pair.x0[rows.start : rows.stop], pair.x1[rows.start : rows.stop])
        new.write(shard, part, spent(torch.ones(len(rows), dtype=torch.int64)))
    return new


def test_the_images_of_numbers_come_from_the_shards_that_hold_them(tmp_path: Path) -> None:
    pair = ring(700)
    rows = np.array([699, 0, 299, 300, 3])
    assert torch.equal(later_round(tmp_path / "x", pair).images(rows), pair.x1[torch.from_numpy(rows)])


def test_the_same_images_again_are_compared_as_the_first_rounds_own(tmp_path: Path) -> None:
    first = first_round(tmp_path / "1", ring(1000))
    found = coverage_of(first, later_round(tmp_path / "2", ring(1000)), seed=0)
    assert found.samples == 500
    assert (found.recall, found.spread) == (found.own_recall, found.own_spread)
    assert found.own_recall > 0.9
    assert found.own_spread == pytest.approx(1, abs=0.02)


def test_recall_is_that_of_disjoint_halves_by_the_numbers_of_the_pairs(tmp_path: Path) -> None:
    """A set is compared with one of other numbers: against itself it would cover everything."""
    pair = ring(90)
    noise = torch.randn(90, 2, generator=torch.Generator().manual_seed(3))
    first, new = first_round(tmp_path / "1", pair), later_round(tmp_path / "2", Pair(noise, noise / 2))
    found = coverage_of(first, new, seed=4)
    rows = np.random.Generator(np.random.Philox(draw_seed(4, "against"))).permutation(90)
    reference, own, images = (
        images[rows[side]].double().numpy()
        for images, side in (
            (pair.x1, slice(45)),
            (pair.x1, slice(45, None)),
            (noise / 2, slice(45, None)),
        )
    )
    assert found.samples == 45
    assert found.own_recall == covered_by_sklearn(reference, own)
    assert found.recall == covered_by_sklearn(reference, images)
    assert found.spread == pytest.approx(math.sqrt(images.var(0).sum() / reference.var(0).sum()))


@pytest.mark.parametrize("lost", [1, 4])
def test_lost_modes_are_lost_recall(tmp_path: Path, lost: int) -> None:
    first = first_round(tmp_path / "1", ring(3200))
    found = coverage_of(first, later_round(tmp_path / "2", ring(3200, seed=1, modes=8 - lost)), seed=0)
    assert found.kept()["recall"] == pytest.approx(1 - lost / 8, abs=0.03)  # of 1600 samples


def test_shrunk_images_are_lost_spread(tmp_path: Path) -> None:
    pair = ring(1000)
    first = first_round(tmp_path / "1", pair)
    found = coverage_of(first, later_round(tmp_path / "2", Pair(pair.x0, 0.8 * pair.x1)), seed=0)
    assert found.kept()["spread"] == pytest.approx(0.8, rel=1e-5)  # of float32
    assert found.kept()["recall"] < 0.9


def test_no_more_than_so_many_are_compared(tmp_path: Path) -> None:
    first = first_round(tmp_path / "1", ring(2 * MOST + 100))
    new = later_round(tmp_path / "2", ring(2 * MOST + 40, seed=1), 2000)
    assert coverage_of(first, new, seed=0).samples == MOST


@pytest.fixture
def first(reflow: Command, chain: Path, tmp_path: Path, exact: Exact) -> Path:
    """Make the pairs of a first round whose images are known: m + 0.6 x0."""
    assert exact.std(torch.zeros(1, 1), None) == 0.6
    assert reflow("couple", chain / "base", "--out", tmp_path / "first", *COUNT).code == 0
    return tmp_path / "first"


def shrink(exact: Exact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all models 0.8 times the spread."""
    monkeypatch.setattr(exact, "std", lambda x, _: torch.full((len(x), *[1] * (x.ndim - 1)), 0.48))


def test_a_sane_round_passes_and_its_index_tells(
    reflow: Command, chain: Path, tmp_path: Path, first: Path
) -> None:
    arguments = ("couple", chain / "reflow", "--against", first, "--out", tmp_path / "x", *COUNT)
    answer = reflow(*arguments)
    assert answer.code == 0, answer.err
    header, _ = read_index(tmp_path / "x" / "pairs.json")
    assert header.parents["first-pairs"] == file_digest(first / "pairs.json")
    found = recorded(header.facts)
    assert found.samples == 100
    assert found.kept()["recall"] == pytest.approx(1, abs=0.1)  # solved in 4 steps, else the same
    assert f"{tmp_path / 'x'}: {found.told()}" in answer.err
    before = artifacts(tmp_path / "x")
    again = reflow(*arguments)
    assert again.code == 0
    assert "nothing to do" in again.err
    assert found.told() in again.err
    assert artifacts(tmp_path / "x") == before


def test_collapsed_pairs_are_refused_kept_and_taken_all_the_same_when_told_to(
    reflow: Command,
    chain: Path,
    tmp_path: Path,
    first: Path,
    exact: Exact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shrink(exact, monkeypatch)
    arguments = ("couple", chain / "reflow", "--against", first, "--out", tmp_path / "x", *COUNT)
    line = one_line(reflow(*arguments))
    assert "collapse" in line
    assert "of the spread is left (couple.least_spread = 0.9)" in line
    assert "stop at round 1" in line
    assert "--weights 0.8,0.2" in line
    shards = artifacts(tmp_path / "x")
    assert sorted(shards) == [f"pairs-{shard:05}-of-00010.safetensors" for shard in range(10)]  # no index
    assert one_line(reflow(*arguments)) == line  # again, with nothing solved anew
    train = ("train", "--pairs", tmp_path / "x", "--init", chain / "reflow", "--out", tmp_path / "y")
    assert "unfinished" in one_line(reflow(*train))
    lower = ("--set", "couple.least_spread=0.75", "--set", "couple.least_recall=0")
    answer = reflow(*arguments, *lower)
    assert answer.code == 0, answer.err
    kept = recorded(read_index(tmp_path / "x" / "pairs.json")[0].facts).kept()
    assert kept["spread"] == pytest.approx(0.8, abs=0.03)  # of 4 steps of Heun
    found = artifacts(tmp_path / "x")
    assert found.pop("pairs.json")
    assert found == shards
    assert reflow(*arguments, *lower).code == 0
    assert one_line(reflow(*arguments)) == line  # what is asked of them holds for complete pairs, too


def test_whoever_closes_the_set_finds_the_collapse(
    reflow: Command,
    chain: Path,
    tmp_path: Path,
    first: Path,
    exact: Exact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shrink(exact, monkeypatch)
    arguments = ("couple", chain / "reflow", "--against", first, "--out", tmp_path / "x", *COUNT)
    answer = reflow(*arguments, "--part", "2/2")
    assert answer.code == 0, answer.err
    assert "collapse" in one_line(reflow(*arguments, "--part", "1/2"))
    assert not (tmp_path / "x" / "pairs.json").exists()


def test_complete_pairs_are_compared_when_asked_and_stay_as_they_are(
    reflow: Command,
    chain: Path,
    tmp_path: Path,
    first: Path,
    exact: Exact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shrink(exact, monkeypatch)
    arguments = ("couple", chain / "reflow", "--out", tmp_path / "x", *COUNT)
    assert reflow(*arguments).code == 0
    before = artifacts(tmp_path / "x")
    assert "collapse" in one_line(reflow(*arguments, "--against", first))
    assert reflow(*arguments).code == 0
    assert artifacts(tmp_path / "x") == before


def test_pairs_that_cannot_be_compared_are_refused_before_any_work(
    reflow: Command, chain: Path, labelled: Path, tmp_path: Path
) -> None:
    arguments = ("couple", chain / "base", "--out", tmp_path / "x")
    strange = store(tmp_path / "ring", ring(40), [40])
    line = one_line(reflow(*arguments, "--against", strange))
    assert f"--against {strange} holds samples of (2,) with no classes" in line
    assert "does not exist" in one_line(reflow(*arguments, "--against", tmp_path / "none"))
    assert reflow("couple", labelled, "--out", tmp_path / "l", "--count", 4).code == 0
    assert "with 10 classes" in one_line(reflow(*arguments, "--against", tmp_path / "l"))
    assert "leave out" in one_line(reflow(*arguments, "--invert", "--against", chain / "pairs"), 2)
    line = one_line(reflow(*arguments, "--count", 20, "--against", chain / "pairs"))
    assert "needs 32 pairs on both sides, and there are 50 and 20" in line
    assert not (tmp_path / "x").exists()


def test_only_the_pairs_that_the_base_model_generated_are_compared_with(
    reflow: Command,
    chain: Path,
    tmp_path: Path,
    exact: Exact,  # noqa: ARG001
) -> None:
    out, later, real = (tmp_path / name for name in ("x", "later", "real"))
    arguments = ("couple", chain / "base", "--out", out, "--against")
    assert reflow("couple", chain / "reflow", "--out", later).code == 0
    line = one_line(reflow(*arguments, later))
    assert f"--against {later} holds pairs of round 2; give the pairs that the base model" in line
    some = ("--set", "data.held_out=0.95", "--set", "train.steps=2")
    assert reflow("train", TINY, "--out", tmp_path / "base", *some).code == 0
    gates = ("--set", "couple.noise_gate=[0.001,1000]", "--set", "couple.round_trip_gate=9")
    invert = ("couple", tmp_path / "base", "--invert", "--out", real, "--tolerance", 1e-2, *gates)
    assert reflow(*invert).code == 0
    assert "holds real images; give the pairs that the base" in one_line(reflow(*arguments, real))
    assert not out.exists()


def test_only_pairs_of_the_same_noise_and_labels_are_compared(
    reflow: Command, chain: Path, labelled: Path, tmp_path: Path
) -> None:
    line = one_line(
        reflow("couple", chain / "base", "--out", tmp_path / "x", "--seed", 1, "--against", chain / "pairs")
    )
    assert "has seed = 0, and these pairs have 1, so noise or labels differ" in line
    assert reflow("couple", labelled, "--out", tmp_path / "all").code == 0
    some = ("--labels", "1,2", "--against", tmp_path / "all")
    line = one_line(reflow("couple", labelled, "--out", tmp_path / "x", *some))
    assert "has couple.labels = all, and these pairs have [1, 2]" in line
    assert not (tmp_path / "x").exists()
