"""Many processes fill one set of pairs: the same pairs as one process makes, whatever goes wrong."""

from pathlib import Path

import pytest
import torch
from commands import Command, digests, one_line, require_same_pairs
from files import made
from hypothesis import given
from hypothesis import strategies as st

from reflow.artifacts import Header, file_digest
from reflow.artifacts.stage_directory import claim
from reflow.distributed import Part
from reflow.flow import Pair
from reflow.pairs.store import open_pairs, read_index
from reflow.pairs.writer import ShardSet, spent


@given(st.integers(1, 20), st.integers(0, 200))
def test_every_shard_belongs_to_one_part(count: int, shard: int) -> None:
    owners = [number for number in range(1, count + 1) if Part(number, count).owns(shard)]
    assert len(owners) == 1


def test_parts_one_after_the_other_make_the_same_pairs_and_the_last_writes_the_index(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    for done, part in enumerate((3, 1, 2), 1):
        answer = reflow("couple", chain / "base", "--out", tmp_path, "--part", f"{part}/3")
        assert answer.code == 0, answer.err
        assert len(list(tmp_path.glob("pairs-*"))) == done
        assert (tmp_path / f"pairs-{part - 1:05}-of-00003.safetensors").exists()
        assert (tmp_path / "pairs.json").exists() == (done == 3)
        left = f"part {part}/3 is complete; other parts have {3 - done} of 3 shards still to make"
        assert (left in answer.err) == (done < 3)
    require_same_pairs(tmp_path, chain / "pairs")


def test_a_job_without_part_completes_what_parts_left(reflow: Command, chain: Path, tmp_path: Path) -> None:
    assert reflow("couple", chain / "base", "--out", tmp_path, "--part", "2/3").code == 0
    (made_by_part,) = tmp_path.glob("pairs-*")
    before = made_by_part.stat().st_mtime_ns
    (tmp_path / f".{made_by_part.name}.0123456789abcdef.part").touch()  # as a killed job leaves it
    assert reflow("couple", chain / "base", "--out", tmp_path).code == 0
    require_same_pairs(tmp_path, chain / "pairs")
    assert made_by_part.stat().st_mtime_ns == before
    assert not list(tmp_path.glob(".*.part"))


def test_a_job_without_part_checks_what_parts_left(reflow: Command, chain: Path, tmp_path: Path) -> None:
    assert reflow("couple", chain / "base", "--out", tmp_path, "--part", "2/3").code == 0
    (made_by_part,) = tmp_path.glob("pairs-*")
    made_by_part.write_bytes(made_by_part.read_bytes()[:-1])
    line = one_line(reflow("couple", chain / "base", "--out", tmp_path))
    assert f"{made_by_part} is damaged" in line


def test_what_torchrun_splits_takes_neither_part_nor_fresh(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    arguments = ("couple", chain / "base", "--out", tmp_path)
    assert "--part is for jobs without torchrun" in one_line(reflow(*arguments, "--part", "1/2"), code=2)
    assert "--fresh would discard" in one_line(reflow(*arguments, "--fresh"), code=2)
    assert reflow(*arguments).code == 0
    assert [path.name[:11] for path in tmp_path.glob("pairs*")] == ["pairs-00001"]


def test_two_jobs_on_one_part_are_one_too_many(reflow: Command, chain: Path, tmp_path: Path) -> None:
    arguments = ("couple", chain / "base", "--out", tmp_path)
    with claim(tmp_path, "pairs", fresh=False, part="1/3"):
        before = digests(tmp_path)
        line = one_line(reflow(*arguments, "--part", "1/3"))
        assert f"part 1/3 of {tmp_path} is being written by another reflow" in line
        assert "being written by another reflow" in one_line(reflow(*arguments))
        assert "being written by another reflow" in one_line(reflow(*arguments, "--fresh"))
        assert digests(tmp_path) == before
        assert reflow(*arguments, "--part", "2/3").code == 0
    with claim(tmp_path, "pairs", fresh=False):
        assert "being written by another reflow" in one_line(reflow(*arguments, "--part", "1/3"))
    assert reflow(*arguments).code == 0
    require_same_pairs(tmp_path, chain / "pairs")


HEADER = Header("pairs", "couple", 1, {}, {}, {"event": [1, 4, 4], "classes": None})


def threes(first: int) -> list[Pair]:
    """Return two times three pairs."""
    x0, x1, _ = made(20)
    return [Pair(x0[begin : begin + 3], x1[begin : begin + 3]) for begin in (first, first + 3)]


@pytest.mark.parametrize("knows", [False, True], ids=["loser closes", "winner closes"])
def test_without_working_locks_the_first_shard_stays_and_the_index_is_true(
    tmp_path: Path, knows: bool
) -> None:
    first, second = (ShardSet(tmp_path, HEADER, 6, 3) for _ in range(2))
    theirs, ours = threes(0), threes(10)
    first.write(0, theirs[0], spent(torch.tensor([5, 5, 5])))
    there = first.path(0).read_bytes()
    second.write(0, ours[0], spent(torch.tensor([7, 8, 9])))
    second.write(1, ours[1], spent(torch.tensor([6, 6, 6])))
    first.write(1, theirs[1], spent(torch.tensor([5, 5, 5])))
    assert first.path(0).read_bytes() == there
    facts = (first if knows else second).close({})
    assert facts.nfe_histogram == {"5": 3, "6": 3}  # of the files, not of what was refused
    for entry in read_index(tmp_path / "pairs.json")[1]:
        assert entry["sha256"] == file_digest(tmp_path / entry["file"])
    store = open_pairs(tmp_path)
    assert torch.equal(torch.from_numpy(store.shards[0].noise[:].copy()), theirs[0].x0)
    assert {path.name for path in tmp_path.glob("*.part")} == set()


def test_an_index_is_written_once(tmp_path: Path) -> None:
    first, second = (ShardSet(tmp_path, HEADER, 6, 3) for _ in range(2))
    for shard, pair in enumerate(threes(0)):
        first.write(shard, pair, spent(torch.tensor([4, 4, 4])))
    first.close({"plan": {"who": 1}})
    before = (tmp_path / "pairs.json").stat()
    assert second.close({"plan": {"who": 2}}).count == 6
    after = (tmp_path / "pairs.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # reading moves others


def test_inspect_tells_how_many_shards_of_unfinished_pairs_there_are(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    answer = reflow("couple", chain / "base", "--out", tmp_path / "pairs", "--part", "2/3")
    assert answer.code == 0, answer.err
    text = reflow("inspect", tmp_path / "pairs").out
    assert "unfinished" in text
    assert "1 of 3" in text
