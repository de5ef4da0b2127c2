"""Where a stage writes: never among files of others, and on where it left."""

import resource
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from commands import TINY, Command, digests, one_line
from safetensors.torch import save_file

from reflow.artifacts.stage_directory import claim
from reflow.errors import ReflowError
from reflow.evaluation.resume import partial_results_of

Kind = Literal["model", "pairs"]


@pytest.mark.parametrize("name", ["log.jsonl", "samples.png", "notes", "photos/.keep"])
@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("fresh", [False, True])
def test_a_directory_of_strangers_is_refused_and_left_as_it_is(
    tmp_path: Path, name: str, kind: Kind, fresh: bool
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("not ours")
    with pytest.raises(ReflowError, match="new or an empty"), claim(tmp_path, kind, fresh=fresh):
        pass
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_a_stage_goes_on_among_what_came_later(tmp_path: Path) -> None:
    """And begins beside hidden files, and the empty ones that a shell opens for its log."""
    (tmp_path / ".gitignore").write_text("*")
    log = tmp_path / "log.txt"
    log.touch()
    for _ in range(2):
        with claim(tmp_path, "model", fresh=False):
            log.write_text("step 1")


@pytest.mark.parametrize("name", ["state.safetensors", "plan.json", "pairs-00003-of-00004.safetensors"])
def test_what_was_copied_without_its_lock_goes_on(tmp_path: Path, name: str) -> None:
    for other in (name, "notes"):
        (tmp_path / other).write_text("copied")
    with claim(tmp_path, "model" if name.startswith("state") else "pairs", fresh=False):
        pass
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("command", ["train", "couple", "invert", "reflow", "distill", "average"])
def test_no_stage_writes_among_strangers(
    reflow: Command, chain: Path, tmp_path: Path, command: str
) -> None:
    base, pairs, out = chain / "base", ("--pairs", chain / "pairs"), tmp_path / "mine"
    arguments: dict[str, tuple[object, ...]] = {
        "train": ("train", TINY),
        "couple": ("couple", base),
        "invert": ("couple", base, "--invert"),
        "reflow": ("train", *pairs, "--init", base),
        "distill": ("distill", base, *pairs),
        "average": ("average", base, "--width", 0.1),
    }
    out.mkdir()
    (out / "notes").write_text("not ours")
    before = digests(tmp_path)
    assert "holds notes, and no stage" in one_line(reflow(*arguments[command], "--out", out))
    assert digests(tmp_path) == before


def test_two_commands_do_not_write_one_directory(reflow: Command, tmp_path: Path) -> None:
    with claim(tmp_path / "base", "model", fresh=False):
        line = one_line(reflow("train", TINY, "--out", tmp_path / "base"))
    assert "being written by another reflow" in line


@pytest.mark.parametrize("command", ["train", "couple", "distill"])
def test_other_settings_are_refused_by_name_and_leave_everything(
    reflow: Command, run: Path, command: str
) -> None:
    before = digests(run)
    arguments: dict[str, tuple[object, ...]] = {
        "train": ("train", TINY, "--out", run / "base", "--set", "train.lr=0.5"),
        "couple": ("couple", run / "base", "--out", run / "pairs", "--count", 60),
        "distill": (
            *("distill", run / "reflow", "--pairs", run / "pairs", "--out", run / "distill"),
            *("--set", "distill.batch=8"),
        ),
    }
    line = one_line(reflow(*arguments[command]))
    name = {"train": "train.lr is 0.002", "couple": "couple.count is 50", "distill": "distill.batch is 16"}
    assert name[command] in line
    assert "--fresh" in line
    assert digests(run) == before
    assert reflow(*arguments[command], "--fresh").code == 0
    assert digests(run) != before


def test_a_directory_that_cannot_be_made(reflow: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = one_line(reflow("train", TINY, "--out", tmp_path / "file" / "base"))
    assert "cannot be written" in line


def test_a_full_disk_leaves_nothing_half_written(reflow: Command, run: Path) -> None:
    before = digests(run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # no file may grow past 2,000 bytes
    try:
        answer = reflow("couple", run / "base", "--out", run / "more")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in one_line(answer)
    assert {path.name for path in (run / "more").iterdir()} == {".lock", ".plan.lock", "plan.json"}
    assert {path: digest for path, digest in digests(run).items() if "/more/" not in path} == before
    assert reflow("couple", run / "base", "--out", run / "more").code == 0


def test_outputs_never_fall_on_inputs_or_other_artifacts(reflow: Command, run: Path) -> None:
    before = digests(run)
    pairs, base = run / "pairs", run / "base"
    for arguments in (
        ("couple", base, "--out", base, "--fresh"),
        ("couple", run / "reflow", "--out", base),
        ("train", "--pairs", pairs, "--init", base, "--out", pairs, "--fresh"),
        ("train", "--pairs", pairs, "--init", base, "--out", base, "--fresh"),
        ("train", TINY, "--out", pairs, "--fresh"),
        ("sample", base, "--out", base / "model.safetensors"),
        ("sample", base, "--out", base),
    ):
        one_line(reflow(*arguments))
    assert digests(run) == before


def test_files_of_others_survive(reflow: Command, tmp_path: Path) -> None:
    quick = ("train", TINY, "--out", tmp_path, "--set", "train.steps=1")
    assert reflow(*quick).code == 0
    (tmp_path / "movie.part").write_text("not ours")
    (tmp_path / "folder.part").mkdir()
    assert reflow(*quick, "--fresh").code == 0
    assert (tmp_path / "movie.part").read_text() == "not ours"


def test_fresh_removes_links_and_never_what_they_lead_to(tmp_path: Path) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    for folder in (mine, out, out / "tracking"):
        folder.mkdir()
    for name in ("events", "model", "averages"):
        (mine / name).write_text("mine")
    before = digests(mine)
    (out / "state.safetensors").touch()
    (out / "model.safetensors").symlink_to(mine / "model")
    (out / "averages-00000001.safetensors").symlink_to(mine / "averages")
    (out / "tracking" / "tensorboard").symlink_to(mine)
    (out / "tracking" / "run").touch()
    with claim(out, "model", fresh=True):
        pass
    assert {path.name for path in out.iterdir()} == {".lock"}
    (out / "tracking").symlink_to(mine)
    (out / "state.safetensors").touch()
    with claim(out, "model", fresh=True):
        pass
    assert {path.name for path in out.iterdir()} == {".lock"}
    assert digests(mine) == before


def test_fresh_leaves_what_others_put_beside_ours(tmp_path: Path) -> None:
    mine = ("averages-of-my-own.safetensors", "tracking/notes", ".model.safetensors.backup.part")
    ours = ("averages-00000001.safetensors", "tracking/wandb/x", "tracking/run", "state.safetensors")
    left = ".model.safetensors.0123456789abcdef.part"
    for name in (*mine, *ours, left):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with claim(tmp_path, "model", fresh=True):
        pass
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {*mine, ".lock"}


@pytest.mark.parametrize("kind", get_args(Kind))
def test_fresh_refuses_to_discard_files_of_others_under_our_names(tmp_path: Path, kind: Kind) -> None:
    """Such as the weights of another library, or a folder."""
    name = {"model": "model.safetensors", "pairs": "pairs-00000-of-00001.safetensors"}[kind]
    told = f"{name} was not written by reflow"
    save_file({"weight": torch.zeros(2)}, tmp_path / name)
    with pytest.raises(ReflowError, match=told), claim(tmp_path, kind, fresh=True):
        pass
    assert (tmp_path / name).exists()
    (tmp_path / name).unlink()
    (tmp_path / name / "photos").mkdir(parents=True)
    with pytest.raises(ReflowError, match=told), claim(tmp_path, kind, fresh=True):
        pass
    assert (tmp_path / name / "photos").exists()


@pytest.mark.parametrize("content", [b"", b"cut", b"\x10\0\0\0\0\0\0\0{"])
def test_fresh_discards_what_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with claim(tmp_path, "model", fresh=True):
        pass
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_evaluate_leaves_what_others_put_beside_its_unfinished_results(tmp_path: Path, kind: str) -> None:
    folder, mine = tmp_path / "e.json.unfinished", tmp_path / "mine"
    if kind == "link":
        mine.mkdir()
        folder.symlink_to(mine)
        with pytest.raises(ReflowError, match="is a link or a file"):
            partial_results_of(tmp_path / "e.json")
        return
    results = partial_results_of(tmp_path / "e.json")
    results.put("key", {"a": 1})
    assert results.get("key") == {"a": 1}
    (folder / "thesis.json").write_text("mine")
    results.clear()
    assert [path.name for path in folder.iterdir()] == ["thesis.json"]
    (folder / "thesis.json").unlink()
    results.clear()
    assert not folder.exists()


def test_shards_of_another_count_are_refused(reflow: Command, run: Path) -> None:
    (run / "pairs" / "pairs.json").unlink()
    line = one_line(reflow("couple", run / "base", "--out", run / "pairs", "--count", 100))
    assert "another --count" in line
