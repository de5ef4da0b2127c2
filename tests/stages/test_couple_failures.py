"""Coupling that goes wrong: one line, nothing lost that was complete, and the same command finishes."""

import errno
import os
import shutil
import signal
import time
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from commands import TINY, Command, artifacts, digests, one_line, require_same_pairs
from torch import Tensor

from reflow import load_model
from reflow.artifacts import Header, write_artifact
from reflow.models import Model
from reflow.randomness import noise


def command(chain: Path, out: Path) -> tuple[object, ...]:
    return "couple", chain / "base", "--out", out


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith(".part") or path.name[0] != "."}


SHARDS = [f"pairs-{number:05}-of-00003.safetensors" for number in range(3)]


@pytest.mark.parametrize("name", ["plan.json", SHARDS[0], SHARDS[2], "pairs.json"])
def test_a_disk_that_fills_up_costs_nothing_that_was_complete(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plain = Path.open

    def full(path: Path, mode: str = "r", **options: Any) -> IO[Any]:
        if not path.name.startswith(f".{name}."):
            return plain(path, mode, **options)
        with plain(path, mode, **options) as file:
            file.write(b"the beginning")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        line = one_line(reflow(*command(chain, tmp_path)))
    assert f"{name} cannot be written: No space left on device" in line
    order = ["plan.json", *SHARDS, "pairs.json"]
    assert visible(tmp_path) == set(order[: order.index(name)])
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*")}
    assert reflow(*command(chain, tmp_path)).code == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times  # not made again
    require_same_pairs(tmp_path, chain / "pairs")


def test_directories_that_cannot_be_written_are_refused(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in one_line(reflow(*command(chain, tmp_path / "file" / "x")))
    for lock in (".lock", ".plan.lock"):
        (tmp_path / lock / lock).mkdir(parents=True)
        assert f"{lock} cannot be written" in one_line(reflow(*command(chain, tmp_path / lock)))


def planned(chain: Path, out: Path) -> Path:
    """Return the directory of a job that was killed after its pilot."""
    out.mkdir(exist_ok=True)
    shutil.copy(chain / "pairs" / "plan.json", out)
    return out


def interrupted(chain: Path, out: Path) -> Path:
    """Return a directory where the last shard and the index are missing."""
    for name in SHARDS[:2]:
        shutil.copy(chain / "pairs" / name, out)
    return planned(chain, out)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_shard_altered_before_the_index_is_written_is_named(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    out = interrupted(chain, tmp_path)
    damage(out / SHARDS[1])
    before = artifacts(out)
    line = one_line(reflow(*command(chain, out)))
    assert f"{SHARDS[1]} is damaged: its contents do not match its digest" in line
    assert artifacts(out) == before
    (out / SHARDS[1]).unlink()
    assert reflow(*command(chain, out)).code == 0
    require_same_pairs(out, chain / "pairs")


def test_a_shard_altered_after_the_index_was_written_is_named(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    shutil.copytree(chain / "pairs", tmp_path, dirs_exist_ok=True)
    damage(tmp_path / SHARDS[1])
    before = digests(tmp_path)
    line = one_line(reflow(*command(chain, tmp_path)))
    assert f"{SHARDS[1]} is damaged: its contents do not match the index" in line
    assert digests(tmp_path) == before
    for name in (SHARDS[1], "pairs.json"):
        (tmp_path / name).unlink()
    assert reflow(*command(chain, tmp_path)).code == 0
    require_same_pairs(tmp_path, chain / "pairs")


def test_a_shard_of_another_model_is_refused(reflow: Command, chain: Path, tmp_path: Path) -> None:
    out = interrupted(chain, tmp_path)
    model = load_model(chain / "base")
    header = Header("pairs", "couple", 1, model.header.recipe, {"model": "another"}, {"event": [1, 8, 8]})
    write_artifact(out / SHARDS[1], {"noise": torch.zeros(20, 1, 8, 8)}, header)
    assert "it was made from other model" in one_line(reflow(*command(chain, out)))


def test_a_damaged_plan_is_refused_and_made_again_once_deleted(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    plan = interrupted(chain, tmp_path) / "plan.json"
    text = plan.read_text()
    for content in ("", "[]", "{}", "null", "no JSON", text[:-9], text.replace("0.25", "0.35")):
        plan.write_text(content)
        before = artifacts(tmp_path)
        assert str(plan) in one_line(reflow(*command(chain, tmp_path)))
        assert artifacts(tmp_path) == before
        assert plan.read_text() == content
    plan.unlink()
    assert reflow(*command(chain, tmp_path)).code == 0
    require_same_pairs(tmp_path, chain / "pairs")


def test_a_plan_of_other_settings_is_refused_by_name(reflow: Command, chain: Path, tmp_path: Path) -> None:
    planned(chain, tmp_path)
    line = one_line(reflow(*command(chain, tmp_path), "--steps", 5))
    assert "plan.json was made with other settings: couple.steps is 4 there and 5 now" in line
    assert visible(tmp_path) == {"plan.json"}
    assert reflow(*command(chain, tmp_path), "--steps", 5, "--fresh").code == 0


def test_an_index_or_a_plan_of_another_model_is_refused(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    assert reflow("train", TINY, "--out", tmp_path / "other", "--set", "train.steps=2").code == 0
    out = Path(shutil.copytree(chain / "pairs", tmp_path / "x"))
    other = ("couple", tmp_path / "other", "--out", out, "--set", "train.steps=30")
    before = digests(out)
    line = one_line(reflow(*other))
    assert "pairs.json was made with other settings: it was made from other model" in line
    assert digests(out) == before
    for path in out.glob("pairs*"):
        path.unlink()
    assert "plan.json was made with other settings: it was made from other" in one_line(reflow(*other))


def test_a_velocity_that_is_no_number_names_the_pair_and_the_time(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = [False]
    marked = noise(0, "couple", [37], (1, 8, 8))

    def still(model: Model, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        here = (x == marked).flatten(1).all(1) & (t >= 0.5) & poison[0]  # at rest, x stays the noise
        return torch.where(here[:, None, None, None], torch.nan, torch.zeros_like(x))

    monkeypatch.setattr(Model, "forward", still)
    assert reflow(*command(chain, tmp_path / "calm")).code == 0
    poison[0] = True
    out = tmp_path / "x"
    line = one_line(reflow(*command(chain, out)))
    assert "the velocity of sample 37 is not finite at t = 0.5" in line
    assert visible(out) == {"plan.json", SHARDS[0]}  # pairs 0 to 23 had arrived
    poison[0] = False
    assert reflow(*command(chain, out)).code == 0
    assert artifacts(out) == artifacts(tmp_path / "calm")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_keeps_the_complete_shards_and_names_the_command(
    reflow: Command,
    chain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    network, calls = Model.forward, 0

    def forward(model: Model, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 20:  # in the third batch of 24, each of 8 calls
            while not (tmp_path / SHARDS[0]).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), number)
        return network(model, x, t, label)

    planned(chain, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Model, "forward", forward)
        line = one_line(reflow(*command(chain, tmp_path)), 128 + number)
    assert "complete" in line
    assert "are kept" in line
    assert f"Resume with: reflow couple {chain / 'base'} --out" in line
    assert SHARDS[0] in visible(tmp_path)
    assert "pairs.json" not in visible(tmp_path)
    assert reflow(*command(chain, tmp_path)).code == 0
    require_same_pairs(tmp_path, chain / "pairs")
