"""Damaged, foreign and unfinished artifacts: one line names the file, and none is taken for a sound one."""

import json
from pathlib import Path

import pytest
from commands import Answer, Command, one_line


@pytest.mark.parametrize("content", [b"", b"\x00" * 4, b"PK\x03\x04 some zip or other", b'{"a": 1}'])
def test_empty_and_foreign_files_are_not_models(reflow: Command, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    line = one_line(reflow("sample", path, "--out", tmp_path / "x.png"))
    assert "is not a reflow artifact" in line
    assert str(path) in line


def test_truncated_model(reflow: Command, run: Path) -> None:
    path = run / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "is damaged" in one_line(reflow("sample", path, "--out", run / "x.png"))


def test_altered_model(reflow: Command, run: Path) -> None:
    path = run / "base" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "do not match its digest" in one_line(reflow("sample", path, "--out", run / "x.png"))


def test_a_model_of_another_format_asks_for_another_version(reflow: Command, run: Path) -> None:
    path = run / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'\\"format\\":1', b'\\"format\\":9'))
    assert "artifact format 9" in one_line(reflow("sample", path, "--out", run / "x.png"))


def test_a_state_is_not_a_model(reflow: Command, run: Path) -> None:
    line = one_line(reflow("sample", run / "base" / "state.safetensors", "--out", run / "x.png"))
    assert "holds a state, not a model" in line
    (run / "base" / "model.safetensors").unlink()
    line = one_line(reflow("sample", run / "base", "--out", run / "x.png"))
    assert "unfinished model" in line


def again(reflow: Command, run: Path, out: str = "again") -> Answer:
    return reflow("train", "--pairs", run / "pairs", "--init", run / "base", "--out", run / out)


def test_missing_shard(reflow: Command, run: Path) -> None:
    (run / "pairs" / "pairs-00001-of-00003.safetensors").unlink()
    line = one_line(again(reflow, run))
    assert "pairs-00001-of-00003.safetensors is missing" in line


def test_altered_shard(reflow: Command, run: Path) -> None:
    shard = run / "pairs" / "pairs-00001-of-00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    line = one_line(again(reflow, run))
    assert str(shard) in line
    assert "do not match the index" in line


def test_unfinished_pairs(reflow: Command, run: Path) -> None:
    (run / "pairs" / "pairs.json").unlink()
    assert "unfinished" in one_line(again(reflow, run))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": 3}', "not json"])
def test_a_foreign_index_is_refused(reflow: Command, run: Path, content: str) -> None:
    (run / "pairs" / "pairs.json").write_text(content)
    assert "pairs.json" in one_line(again(reflow, run))


@pytest.mark.parametrize("facts", ['{"classes": null}', '{"event": null, "classes": null}', "[]"])
def test_an_incomplete_index_is_damaged(reflow: Command, run: Path, facts: str) -> None:
    path = run / "pairs" / "pairs.json"
    content = json.loads(path.read_text()) | {"facts": json.loads(facts)}
    path.write_text(json.dumps(content))
    assert "is damaged" in one_line(again(reflow, run))


def test_a_foreign_evaluation_is_not_reported(reflow: Command, run: Path) -> None:
    for text in ("{}", "[]", "x"):
        (run / "evaluation.json").write_text(text)
        assert "evaluation.json" in one_line(reflow("report", run, "--out", run / "r.html"))


def test_an_evaluation_of_other_models_is_not_reported_as_ours(reflow: Command, run: Path) -> None:
    assert reflow("evaluate", run / "distill", "--out", run / "evaluation.json").code == 0
    content = json.loads((run / "evaluation.json").read_text())
    content["models"][0]["sha256"] = "0" * 64
    (run / "evaluation.json").write_text(json.dumps(content))
    assert reflow("report", run, "--out", run / "report.html").code == 0
    assert "There is no evaluation of these models yet" in (run / "report.html").read_text()
