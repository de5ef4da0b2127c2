"""Where a stage writes: never among files of others, and on where it left."""

from pathlib import Path
from typing import Literal, get_args

import pytest
from conftest import TINY, Command, digests, one_line

from reflow.errors import ReflowError
from reflow.workspace import claim

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
