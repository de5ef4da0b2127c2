"""What tells of a training run never ends it, and tells later what it could not."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from commands import Command, artifacts
from sessions import steps_taken, train

from reflow.artifacts import LOG
from reflow.training import session
from reflow.training.log import Log


def lines(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, which must be JSON as others read it."""
    text = (out / LOG).read_text().splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in text]


def failing(*given: object, **more: object) -> None:
    del given, more
    raise RuntimeError("out of\nmemory")


@pytest.mark.parametrize("what", ["preview", "validate"])
def test_whatever_fails_in_telling_the_run_is_the_same(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(session, what, failing)
    said = train(reflow, tmp_path / "base")
    assert "failed (RuntimeError: out of memory). Training continues without it" in said
    assert artifacts(tmp_path / "base") == artifacts(chain / "base")


def test_a_log_that_can_never_be_written_ends_no_run(reflow: Command, chain: Path, tmp_path: Path) -> None:
    (tmp_path / "base" / LOG).mkdir(parents=True)
    (tmp_path / "base" / ".lock").touch()
    said = train(reflow, tmp_path / "base")
    assert "log.jsonl cannot be written: Is a directory. Training continues without it" in said
    assert artifacts(tmp_path / "base") == artifacts(chain / "base")


def test_a_log_that_can_be_written_again_at_the_end_has_all_lines(
    reflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "base"
    taken, write = steps_taken(monkeypatch), Log.catch_up

    def unlucky(self: Log) -> None:
        if len(taken) == 30 and not (out / "model.safetensors").exists():
            self.path = out / "missing" / LOG
        else:
            self.path = out / LOG
        write(self)

    monkeypatch.setattr(Log, "catch_up", unlucky)
    said = train(reflow, out)
    assert said.count("log.jsonl cannot be written: No such file or directory. Training continues") == 1
    assert [line["step"] for line in lines(out)] == [10, 20, 30]


def test_a_log_that_could_not_be_cut_back_is_so_before_its_next_line(tmp_path: Path) -> None:
    path = tmp_path / LOG
    path.mkdir()
    log = Log(path, 10)
    path.rmdir()
    path.write_text("".join(json.dumps({"step": step, "seconds": step / 2}) + "\n" for step in (10, 20)))
    log.write({"step": 15})
    assert [line["step"] for line in lines(tmp_path)] == [10, 15]
    assert 5 <= log.seconds() < 100


def test_figures_that_are_no_numbers_are_null(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"held_out_loss": math.nan, "training_loss": math.inf}
    monkeypatch.setattr(session, "validate", lambda *_, **__: nothing)
    said = train(reflow, tmp_path / "base")
    assert "nan" not in said
    last = lines(tmp_path / "base")[-1]
    assert (last["held_out_loss"], last["training_loss"]) == (None, None)
    assert artifacts(tmp_path / "base") == artifacts(chain / "base")
