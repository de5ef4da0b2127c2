"""A single output file: held by one process, which removes what killed ones left and nothing else."""

import os
from pathlib import Path

import pytest
from commands import Command, one_line

from reflow.artifacts.files import held, output_file, write_atomically
from reflow.errors import ReflowError
from reflow.evaluation.results import times_beside

LEFT = ".x.json.0123456789abcdef.part"  # by a killed process


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_held_by_one_process_and_the_lock_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    with output_file(path):
        assert names(path.parent) == {".x.json.lock"}
        (path.parent / LEFT).touch()  # of the living writer
        told = r"x.json is being written by another reflow; wait for it, or give another --out"
        with pytest.raises(ReflowError, match=told), output_file(path):
            pass
        assert (path.parent / LEFT).exists()
        with output_file(path.with_name("y.json")):
            pass
    assert names(path.parent) == {LEFT}
    with output_file(path):
        assert not (path.parent / LEFT).exists()
        write_atomically(path, b"whole")
    assert names(path.parent) == {"x.json"}


def test_a_lock_that_a_killed_process_left_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".x.json.lock").touch()
    with output_file(tmp_path / "x.json"):
        pass
    assert names(tmp_path) == set()


def test_files_of_others_stay_and_links_are_not_followed(tmp_path: Path) -> None:
    """Neither a lock's content nor what a link leads to is touched."""
    mine = {".x.json.backup.part", ".x.json.lock", ".x.jsonx.0123456789abcdef.part", "notes"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    with output_file(tmp_path / "x.json"):
        pass
    (tmp_path / ".lock").symlink_to(tmp_path / "notes")
    with pytest.raises(ReflowError, match="cannot be written"), held(tmp_path / ".lock"):
        pass
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}
    assert names(tmp_path) == {*mine, ".lock"}


def test_who_waits_for_a_lock_that_is_removed_takes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening a lock and locking it, its holder may have removed it, and a third made another."""
    lock, real, opened = tmp_path / ".lock", os.open, []

    def late(path: Path, *options: int) -> int:
        opened.append(path)
        handle = real(path, *options)
        if len(opened) == 1:
            lock.unlink()
        return handle

    monkeypatch.setattr(os, "open", late)
    with held(lock, "busy"):
        monkeypatch.undo()
        assert len(opened) == 2
        with pytest.raises(ReflowError, match="busy"), held(lock, "busy"):
            pass


@pytest.mark.parametrize("command", ["sample", "evaluate", "report"])
def test_two_commands_do_not_write_one_file(
    reflow: Command, chain: Path, tmp_path: Path, command: str
) -> None:
    name = {"sample": "x.npz", "evaluate": "x.json", "report": "x.html"}[command]
    arguments = {
        "sample": ("sample", chain / "distill", "--count", 1),
        "evaluate": ("evaluate", chain / "distill"),
        "report": ("report", chain),
    }
    out = tmp_path / name
    for path in (out, times_beside(out)) if command == "evaluate" else (out,):
        living = tmp_path / f".{path.name}.0123456789abcdef.part"
        living.touch()
        with held(tmp_path / f".{path.name}.lock"):
            line = one_line(reflow(*arguments[command], "--out", out))
        assert f"{path} is being written by another reflow" in line
        assert living.exists()
        assert not out.exists()


def test_endings_of_evaluations_and_pages_count_regardless_of_case(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    assert times_beside(tmp_path / "a.b.JSON") == tmp_path / "a.b.times.json"
    for arguments in (
        ("evaluate", tmp_path / "x", "--out", "e.JSON"),
        ("report", chain / "x", "--out", "r.HTML"),
    ):
        assert "give a name that ends" not in one_line(reflow(*arguments[:-1], tmp_path / arguments[-1]))
