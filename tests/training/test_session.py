"""Driving a training run: what fails on the way, what is written when, and how it is left."""

import json
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import TINY, Command, artifacts
from sessions import steps_saved, steps_taken, train

from reflow.artifacts import PREVIEW, read_header
from reflow.artifacts.files import write_atomically
from reflow.distributed import Vote, World
from reflow.errors import ReflowError
from reflow.flow import Losses, Objective, Pair, VelocityField
from reflow.randomness import Draws
from reflow.training import log, session
from reflow.training.fit import Fit


def logged(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_line_of_the_log_that_could_not_be_written_comes_with_the_next(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def unlucky(handle: int) -> None:
        calls.append(handle)
        if len(calls) < 3:  # after the bytes have reached the file
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "os", SimpleNamespace(fsync=unlucky, fstat=os.fstat))
    said = train(reflow, tmp_path / "base")
    assert said.count("log.jsonl cannot be written: No space left on device. Training continues") == 2
    assert logged(tmp_path / "base") == [10, 20, 30]
    assert artifacts(tmp_path / "base") == artifacts(chain / "base")


def test_a_preview_that_cannot_be_written_ends_no_training(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, content: bytes) -> bool:
        if path.name == PREVIEW:
            raise ReflowError(f"{path} cannot be written: no; free or choose another place")
        return write_atomically(path, content)

    monkeypatch.setattr(log, "write_atomically", refused)
    said = train(reflow, tmp_path / "base")
    assert said.count("samples.png cannot be written: no. Training continues without it") == 2
    assert artifacts(tmp_path / "base") == artifacts(chain / "base")


def test_a_snapshot_due_at_the_step_of_an_interruption_is_taken(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Fit.advance

    def interrupted(self: Fit) -> None:
        advance(self)
        if self.step == 15:  # half of the training run: the fourth of eight snapshots
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "advance", interrupted)
        said = train(reflow, tmp_path / "base", code=130)
    assert "at step 15; the state is saved" in said
    train(reflow, tmp_path / "base")
    for path in (chain / "base").glob("averages-*"):
        assert (tmp_path / "base" / path.name).read_bytes() == path.read_bytes()


def test_each_state_is_written_once(
    reflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_saved(monkeypatch)
    train(reflow, tmp_path / "base")
    assert steps == [10, 20, 30]


def test_the_clock_asks_for_one_state_where_votes_are_known_a_step_later(
    reflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(Vote):
        """As among several processes."""

        def __init__(self, world: World) -> None:
            super().__init__(world)
            self.last = [0, 0]

        def cast(self, *wishes: int) -> list[int]:
            before, self.last = self.last, list(wishes)
            return before

    saved, taken = steps_saved(monkeypatch), steps_taken(monkeypatch)
    clock = SimpleNamespace(monotonic=lambda: 60.0 * len(taken))  # a minute for each step
    monkeypatch.setattr(session, "time", clock)
    monkeypatch.setattr(session, "Vote", Late)
    train(reflow, tmp_path / "base", save_every=1000, save_minutes=9.5)
    assert saved == [11, 22, 30]


def test_noise_and_times_follow_the_seed_of_the_recipe_and_the_stage(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, str]] = []
    advance = Fit.advance

    def noted(self: Fit) -> None:
        begun.append((self.seed, self.stream))
        advance(self)

    monkeypatch.setattr(Fit, "advance", noted)
    train(reflow, tmp_path / "base", "--seed", "5", steps=1)
    task = ("--pairs", chain / "pairs", "--set", "reflow.steps=1", "--set", "distill.steps=1")
    reflow("train", "--init", chain / "base", *task, "--out", tmp_path / "reflow")
    reflow("distill", chain / "base", *task, "--out", tmp_path / "distill")
    assert begun == [(5, "train 1"), (0, "reflow 2"), (0, "distill 1")]


def stopping(self: Fit, step: int) -> None:
    """Ask to stop after this step."""
    if self.step == step:
        signal.raise_signal(signal.SIGINT)


def test_the_log_tells_rates_and_times_over_all_sessions(
    reflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, out = steps_taken(monkeypatch), tmp_path / "base"
    clock = SimpleNamespace(monotonic=lambda: 2.0 * len(taken))  # two seconds for each step
    monkeypatch.setattr(log, "time", clock)
    advance = Fit.advance
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "advance", lambda self: (advance(self), stopping(self, 12)))
        train(reflow, out, code=130)
    train(reflow, out)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["images_per_s"] for line in lines] == [8, 8, 8]  # of 16 in a step
    assert [line["seconds_left"] for line in lines] == [40, 20, 0]
    assert [line["seconds"] for line in lines] == [20, 36, 56]  # those of steps 11 and 12 had no line


def test_a_skipped_step_is_said_once(
    reflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, out = Fit.advance, tmp_path / "base"

    def unlucky(self: Fit) -> None:
        objective = self.objective
        if self.step == 4:
            self.objective = lambda *given: not_finite(*given, inner=objective)
        advance(self)
        self.objective = objective
        stopping(self, 12)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "advance", unlucky)
        answer = reflow("train", TINY, "--out", out, "--set", "train.log_every=3")
    assert answer.err.count("the step was skipped (1 of 6 steps so far)") == 1
    said = train(reflow, out, log_every=3)
    assert "not finite" not in said
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0] + [1] * 9


def not_finite(net: VelocityField, pair: Pair, draws: Draws, *, inner: Objective) -> Losses:
    each, t = inner(net, pair, draws)
    return Losses(each * math.nan, t)


@pytest.mark.parametrize("left_by", ["failure", "signal"])
def test_the_state_from_before_a_failure_is_kept(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_by: str
) -> None:
    """Though more of them were due, or asked for by a signal, before the next line of the log."""
    advance = Fit.advance

    def failing(self: Fit) -> None:
        objective = self.objective
        if self.step >= 10:
            self.objective = lambda *given: not_finite(*given, inner=objective)
        advance(self)
        self.objective = objective
        if left_by == "signal" and self.step == 18:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "advance", failing)
        said = train(reflow, tmp_path / "base", code=1, log_every=29)
    assert "not finite in 5 steps in a row" in said
    assert "last good state is kept" in said
    state = read_header(tmp_path / "base" / "state.safetensors", "state")
    assert state.facts["step"] == 10
    train(reflow, tmp_path / "base")  # it was a passing trouble
    assert artifacts(tmp_path / "base") == artifacts(chain / "base")


def test_weights_that_are_not_finite_overwrite_no_state(
    reflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Fit.advance

    def growing(self: Fit) -> None:
        advance(self)
        if self.step == 19:
            next(iter(self.weights.values())).detach().fill_(math.inf)

    monkeypatch.setattr(Fit, "advance", growing)
    answer = reflow("train", TINY, "--out", tmp_path / "base")
    assert answer.code == 1
    assert "is not finite after step 20" in answer.err
    state = read_header(tmp_path / "base" / "state.safetensors", "state")
    assert state.facts["step"] == 10
