"""Trainings of the tiny recipe through the command line, and what they do on the way."""

import json
from pathlib import Path

import pytest
from commands import TINY, Command, one_line

from reflow.training.checkpoints import Checkpoints
from reflow.training.fit import Fit


def settings(**chosen: object) -> tuple[str, ...]:
    words = (f"train.{key}={json.dumps(value)}" for key, value in chosen.items())
    return tuple(part for word in words for part in ("--set", word))


def train(reflow: Command, out: Path, *options: str, code: int = 0, **chosen: object) -> str:
    """Train the tiny base model and return what was said, or the last line of a refusal."""
    answer = reflow("train", TINY, "--out", out, *settings(**chosen), *options)
    if code:
        return one_line(answer, code)
    assert answer.code == 0, answer.err
    return answer.err


def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which training adds each step that it takes."""
    steps: list[int] = []
    advance = Fit.advance

    def counted(self: Fit) -> None:
        advance(self)
        steps.append(self.step)

    monkeypatch.setattr(Fit, "advance", counted)
    return steps


def steps_saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which training adds the step of each state that it writes."""
    steps: list[int] = []
    save = Checkpoints.save

    def counted(self: Checkpoints, fit: Fit) -> None:
        save(self, fit)
        steps.append(fit.step)

    monkeypatch.setattr(Checkpoints, "save", counted)
    return steps
