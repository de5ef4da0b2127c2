"""sample: a folder goes on where it was left and holds one request; names tell the format."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from commands import Command, digests, one_line
from PIL import Image

from reflow.artifacts.files import held
from reflow.sampling.folder import LOCK, RECORD

COUNT = ("--count", 11, "--batch", 4)


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.fixture
def whole(reflow: Command, chain: Path, tmp_path: Path) -> dict[str, bytes]:
    """Return the files of an undisturbed command."""
    out = tmp_path / "undisturbed"
    assert reflow("sample", chain / "distill", *COUNT, "--out", out).code == 0
    assert sorted(pictures(out)) == [f"{number:05d}.png" for number in range(11)]
    assert {path.name for path in out.iterdir()} == {RECORD, *pictures(out)}
    return pictures(out)


def test_an_interrupted_folder_goes_on_and_ends_with_the_same_bytes(
    reflow: Command,
    chain: Path,
    tmp_path: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, command = tmp_path / "x", ("sample", chain / "distill", *COUNT, "--out", tmp_path / "x")
    real = os.fsync
    for files in (1, 3, 6):  # in all, the record among them: the next one is half written
        with monkeypatch.context() as patch:
            left = [files - len(pictures(out)) - (out / RECORD).exists()]

            def dying(handle: int, left: list[int] = left) -> None:
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    if not left[0]:
                        raise SystemExit(143)
                    left[0] -= 1
                real(handle)

            patch.setattr(os, "fsync", dying)
            assert reflow(*command).code == 143
        assert len(pictures(out)) == files - 1
        assert list(out.glob(".*.part"))
    kept = (out / "00002.png").stat().st_mtime_ns
    answer = reflow(*command)
    assert answer.code == 0, answer.err
    assert "11 samples (6 drawn now), NFE 1" in answer.err
    assert pictures(out) == whole
    assert (out / "00002.png").stat().st_mtime_ns == kept
    assert {path.name for path in out.iterdir()} == {RECORD, *whole}


def test_a_complete_folder_says_so_and_a_lost_file_comes_back(
    reflow: Command, chain: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "undisturbed"
    command = ("sample", chain / "distill", *COUNT, "--out", out)
    before = digests(out)
    answer = reflow(*command)
    assert (answer.code, digests(out)) == (0, before)
    assert "is complete: 11 samples; nothing to do" in answer.err
    (out / "00007.png").unlink()
    assert reflow(*command).code == 0
    assert pictures(out) == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--seed", 1), "seed is 0 there and 1 now"),
        (("--count", 12), "count is 11 there and 12 now"),
        (("--nfe", 2), "method is solver"),
        (("other model",), "model is"),
    ],
)
@pytest.mark.usefixtures("whole")
def test_another_request_is_refused_by_what_differs(
    reflow: Command, chain: Path, tmp_path: Path, change: tuple[object, ...], message: str
) -> None:
    out = tmp_path / "undisturbed"
    base = reflow("sample", chain / "base", "--nfe", 1, *COUNT, "--out", tmp_path / "b")
    assert base.code == 0, base.err
    before = digests(tmp_path)
    if change == ("other model",):
        line = one_line(reflow("sample", chain / "reflow", "--nfe", 1, *COUNT, "--out", tmp_path / "b"))
    elif change[0] == "--nfe":
        line = one_line(reflow("sample", chain / "base", *COUNT, *change, "--out", tmp_path / "b"))
    else:
        line = one_line(reflow("sample", chain / "distill", *COUNT, *change, "--out", out))
    assert message in line
    assert digests(tmp_path) == before


def test_another_label_is_refused(reflow: Command, labelled: Path, tmp_path: Path) -> None:
    command = ("sample", labelled, "--nfe", 1, "--count", 2, "--out", tmp_path / "x", "--label")
    assert reflow(*command, 3).code == 0
    assert reflow(*command, 3).code == 0
    assert "label is 3 there and 4 now" in one_line(reflow(*command, 4))


@pytest.mark.parametrize("content", ["", "[]", "x", "3"])
def test_a_damaged_record_is_refused(reflow: Command, chain: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD).write_text(content)
    line = one_line(reflow("sample", chain / "distill", *COUNT, "--out", tmp_path))
    assert f"{RECORD} is damaged" in line


def test_folders_of_others_and_of_a_living_writer_are_refused(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    command = ("sample", chain / "distill", "--count", 2, "--out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "00000.png").write_text("mine")
    assert "(00000.png) that no reflow sample began" in one_line(reflow(*command, tmp_path / "mine"))
    (tmp_path / "x").mkdir()
    with held(tmp_path / "x" / LOCK):
        assert "is being written by another reflow" in one_line(reflow(*command, tmp_path / "x"))
    assert reflow(*command, tmp_path / "x").code == 0


@pytest.mark.parametrize("name", ["my samples v1.5", "run.final", "v2.", "a/b"])
def test_a_name_with_a_dot_is_a_folder(reflow: Command, chain: Path, tmp_path: Path, name: str) -> None:
    answer = reflow("sample", chain / "distill", "--count", 2, "--out", tmp_path / name)
    assert answer.code == 0, answer.err
    assert sorted(pictures(tmp_path / name)) == ["00000.png", "00001.png"]


def test_a_folder_that_is_there_is_one_whatever_its_name(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    for name in ("x.png", "x.jpeg"):
        (tmp_path / name).mkdir()
        assert reflow("sample", chain / "distill", "--count", 1, "--out", tmp_path / name).code == 0
        assert sorted(pictures(tmp_path / name)) == ["00000.png"]


def test_endings_count_regardless_of_case(reflow: Command, chain: Path, tmp_path: Path) -> None:
    for name in ("a.PNG", "b.Npz", "c.SAFETENSORS"):
        assert reflow("sample", chain / "distill", "--count", 2, "--out", tmp_path / name).code == 0
        assert (tmp_path / name).is_file()
    with Image.open(tmp_path / "a.PNG") as picture, np.load(tmp_path / "b.Npz") as arrays:
        assert picture.format == "PNG"
        assert arrays["images"].shape[:3] == (2, 8, 8)
    one_line(reflow("sample", chain / "distill", "--out", tmp_path / "x.JPEG"), code=2)
    line = one_line(reflow("sample", chain / "distill", "--out", chain / "base" / "model.safetensors"))
    assert "is an artifact of another stage" in line
    (tmp_path / "model.Safetensors").write_bytes((chain / "base" / "model.safetensors").read_bytes())
    line = one_line(reflow("sample", chain / "distill", "--out", tmp_path / "model.Safetensors"))
    assert "is an artifact of another stage" in line
