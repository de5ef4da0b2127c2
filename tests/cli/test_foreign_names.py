"""What names and headers of others hold never steers a terminal: neither escapes nor lines of their own."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import TINY, Command, one_line
from files import RGB, folder, load
from rich.console import Console

from reflow import terminal
from reflow.artifacts import Header, read_artifact, write_artifact
from reflow.terminal import Meter, aligned, answer, say, visible

EVIL = "a\x1b[2J\x9b31m\u202e\x07\rb\nreflow: complete"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def test_what_steers_a_terminal_is_shown_as_text() -> None:
    shown = visible("a\x1b[2J\tb\nc\x9b\u202e\udc80").encode(errors="surrogatepass")
    assert shown == rb"a\x1b[2J\tb\nc\x9b\u202e\udc80"
    assert visible("Zürich 東京 ± café 👩‍🔬") == "Zürich 東京 ± café 👩‍🔬"


def test_lines_results_and_tables_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    answer("one\n" + "two\x1b[2J")
    for line in aligned([(EVIL, 1)]):
        answer(line)
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert out.splitlines()[:2] == ["one", r"two\x1b[2J"]
    assert len(out.splitlines()) == 3
    assert not CONTROL.search(out + err)


def test_a_bar_takes_names_for_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also such as rich would read as markup."""
    shown = io.StringIO()
    monkeypatch.setattr(
        terminal, "Console", lambda **_: Console(file=shown, force_terminal=True, width=200)
    )
    with Meter("decode [/bold] photos[red]\x07\x1b[2J", 2, "images") as meter:
        meter.update(2)
    assert r"decode [/bold] photos[red]\x07\x1b[2J" in re.sub(
        r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue()
    )
    assert "\x07" not in shown.getvalue()


def test_errors_name_foreign_files_harmlessly(reflow: Command, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\x9b.safetensors"
    path.write_text("not ours")
    for arguments in (("inspect", path), ("train", TINY, "--out", tmp_path / "x", "--data", path)):
        answer = reflow(*arguments)
        line = one_line(answer)
        assert r"a\x1b[2J\x9b" in line
        assert not CONTROL.search(answer.err)


@pytest.mark.parametrize("as_json", [False, True])
def test_inspect_shows_foreign_headers_in_lines_of_its_own(
    reflow: Command, tmp_path: Path, as_json: bool
) -> None:
    header = Header(
        *("model", EVIL, 1, {"name": EVIL, "seed": 0}),
        parents={EVIL: EVIL},
        facts={EVIL: 1, "class_names": [EVIL, "b"], "nfe_histogram": {EVIL: 2}},
    )
    write_artifact(tmp_path / "m", {"a": torch.zeros(1)}, header)
    found = reflow("inspect", tmp_path / "m", *(["--json"] if as_json else []))
    assert found.code == 0, found.err
    assert not CONTROL.search(found.out + found.err)
    assert "\nreflow: complete" not in found.out
    if as_json:
        assert json.loads(found.out)["artifacts"][0]["stage"] == EVIL
    else:
        assert found.out.count("\n") == 7


def test_compare_and_evaluate_show_foreign_names_harmlessly(
    reflow: Command, evaluated: Path, tmp_path: Path
) -> None:
    content = json.loads((evaluated / "evaluation.json").read_text())
    content["models"][0]["path"] = f"runs/{EVIL}/base"
    (tmp_path / "e.json").write_text(json.dumps(content))
    usual = reflow("compare", evaluated / "evaluation.json", evaluated / "evaluation.json").out
    found = reflow("compare", tmp_path / "e.json", tmp_path / "e.json")
    assert found.code == 0, found.err
    assert not CONTROL.search(found.out)
    assert len(found.out.splitlines()) == len(usual.splitlines())


def test_labels_with_foreign_names_are_refused_in_one_line(
    reflow: Command, labelled: Path, tmp_path: Path
) -> None:
    header, tensors = read_artifact(labelled / "model.safetensors", "model")
    names = [f"{EVIL}{number}" for number in range(10)]
    header = replace(header, facts=header.facts | {"class_names": names})
    write_artifact(tmp_path / "model.safetensors", tensors, header)
    found = reflow("sample", tmp_path, "--label", "x", "--out", tmp_path / "x.png")
    assert r"a\x1b[2J" in one_line(found)
    assert not CONTROL.search(found.err)


@pytest.mark.usefixtures("place")
def test_the_list_of_skipped_images_has_a_line_for_each(tmp_path: Path, place: Path) -> None:
    source = folder(tmp_path / "f", RGB)
    (source / "a\x1b[2J\tb\nc.png").write_bytes(b"no picture")
    load(source, skip_corrupt=True)
    (listed,) = place.glob("*.skipped.txt")
    assert listed.read_text().startswith("a\\x1b[2J\\tb\\nc.png\t")
    assert listed.read_text().count("\n") == 1
