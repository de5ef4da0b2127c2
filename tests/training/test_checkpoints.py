"""States: what is kept, what is refused, and how a training run goes on from them."""

import json
import re
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import pytest
from commands import TINY, Command, artifacts, run_all
from sessions import steps_saved, steps_taken, train
from shared import built

from reflow.artifacts import read_artifact, read_header
from reflow.errors import ReflowError
from reflow.training.checkpoints import SPARE, Checkpoints
from reflow.training.fit import Fit

Usage = namedtuple("Usage", "total used free")


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Make training fail once this many states have been written in full."""
    save, written = Checkpoints.save, []

    def save_or_fail(self: Checkpoints, fit: object) -> None:
        if len(written) == after:
            raise KeyboardInterrupt
        save(self, fit)  # type: ignore[arg-type]
        written.append(1)

    monkeypatch.setattr(Checkpoints, "save", save_or_fail)


@pytest.fixture
def stopped(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    """Return a directory with the states of steps 10 and 20 of 30."""

    def build(out: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, after=2)
            with pytest.raises(AssertionError, match="train"):
                run_all([("train", TINY, "--out", out)])

    return Path(shutil.copytree(built(tmp_path_factory, "stopped", build), tmp_path / "stopped"))


def step_of(path: Path) -> int:
    return int(read_header(path, "state").facts["step"])


def test_the_previous_state_is_kept_beside_the_newest(stopped: Path) -> None:
    assert step_of(stopped / "state.safetensors") == 20
    assert step_of(stopped / "state-previous.safetensors") == 10
    assert len(list(stopped.glob("*state*"))) == 2


@pytest.mark.parametrize("damage", ["newest", "gone"])
def test_training_goes_on_from_the_previous_state_to_the_same_end(
    reflow: Command, chain: Path, stopped: Path, damage: str
) -> None:
    newest = stopped / "state.safetensors"
    if damage == "gone":
        newest.unlink()
    else:
        content = bytearray(newest.read_bytes())
        content[-7] ^= 1
        newest.write_bytes(content)
    said = train(reflow, stopped)
    if damage == "newest":
        assert "state.safetensors is damaged" in said
        assert "state-previous.safetensors of step 10 is whole" in said
    assert "resuming at step 10" in said
    assert artifacts(stopped) == artifacts(chain / "base")


def test_without_a_whole_state_nothing_is_trained(reflow: Command, stopped: Path) -> None:
    for name in ("state.safetensors", "state-previous.safetensors"):
        (stopped / name).write_bytes((stopped / name).read_bytes()[:-1])
    assert "state.safetensors is damaged" in train(reflow, stopped, code=1)
    assert not (stopped / "model.safetensors").exists()


def test_a_complete_model_keeps_one_state(chain: Path) -> None:
    assert [path.name for path in (chain / "base").glob("state*")] == ["state.safetensors"]


def test_states_are_written_by_the_clock_too(
    reflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_saved(monkeypatch)
    train(reflow, tmp_path / "base", save_every=1000, save_minutes=1e-9)
    assert steps[:3] == [1, 2, 3]


def test_a_longer_training_continues_a_finished_one(reflow: Command, tmp_path: Path) -> None:
    base = tmp_path / "base"
    train(reflow, base, steps=20)
    before = (base / "model.safetensors").read_bytes()
    said = train(reflow, base, steps=30)
    assert "resuming at step 20 of 30" in said
    assert (base / "model.safetensors").read_bytes() != before
    header = read_header(base / "model.safetensors", "model")
    assert (header.facts["steps"], header.recipe["train"]["steps"]) == (30, 30)
    steps = [json.loads(line)["step"] for line in (base / "log.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30]
    assert "nothing to do" in train(reflow, base, steps=30)
    assert "train.steps is 30 there and 25 now" in train(reflow, base, steps=25, code=1)


def test_a_constant_rate_continues_to_the_same_weights(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    """So that growing in two parts is as good as one."""
    base = tmp_path / "base"
    train(reflow, base, steps=20)
    train(reflow, base, steps=30)
    assert artifacts(base) == artifacts(chain / "base")


def test_without_its_state_a_finished_model_is_not_trained_further(reflow: Command, tmp_path: Path) -> None:
    base = tmp_path / "base"
    train(reflow, base, steps=20)
    (base / "state.safetensors").unlink()
    before = artifacts(base)
    assert "not the state to continue it from" in train(reflow, base, steps=30, code=1)
    assert artifacts(base) == before


def test_the_rhythm_may_change_on_the_way_and_changes_nothing(
    reflow: Command, chain: Path, stopped: Path
) -> None:
    train(reflow, stopped, log_every=7, save_every=3, preview_every=4, save_minutes=2)
    model = "model.safetensors"
    found, wanted = ((folder / model).read_bytes() for folder in (stopped, chain / "base"))
    assert found[-10_000:] == wanted[-10_000:]  # the weights; the header tells the rhythm
    assert "nothing to do" in train(reflow, stopped, log_every=5)


def test_other_settings_are_refused(reflow: Command, stopped: Path) -> None:
    before = (stopped / "state.safetensors").read_bytes()
    assert "train.lr is 0.002 there and 0.003 now" in train(reflow, stopped, lr=3e-3, code=1)
    assert (stopped / "state.safetensors").read_bytes() == before


def test_fresh_discards_what_stands_there_but_not_at_a_restart_by_torchrun(
    reflow: Command, chain: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_taken(monkeypatch)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    train(reflow, stopped, "--fresh")
    assert steps == list(range(21, 31))
    assert artifacts(stopped) == artifacts(chain / "base")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    train(reflow, stopped, "--fresh")
    assert steps[10:] == list(range(1, 31))


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Make every disk have this many bytes free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - count, count))  # noqa: ARG005


def test_a_state_that_does_not_fit_on_the_disk_is_not_begun_and_the_model_is_written(
    reflow: Command, chain: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (stopped / "state.safetensors").read_bytes()
    free(monkeypatch, 1000)
    said = train(reflow, stopped)
    assert "state.safetensors needs" in said
    assert "MB are free. The model is written without it" in said
    assert artifacts(stopped) == artifacts(chain / "base")
    assert (stopped / "state.safetensors").read_bytes() == before
    monkeypatch.undo()
    assert "resuming at step 20" in train(reflow, stopped, steps=31)


@pytest.mark.parametrize("less", [1, 600_000, SPARE])
def test_what_a_state_needs_is_said_to_be_more_than_what_is_free(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, less: int
) -> None:
    _, tensors = read_artifact(chain / "base" / "state.safetensors", "state")
    needed = sum(tensor.nbytes for tensor in tensors.values()) + SPARE
    free(monkeypatch, needed - less)
    said = train(reflow, tmp_path / "base")
    found = re.search(r"needs (\d+) MB and (\d+) MB are free", said)
    assert found is not None
    assert int(found[1]) > int(found[2])
    free(monkeypatch, needed)
    assert "MB are free" not in train(reflow, tmp_path / "other")


def test_a_state_that_is_not_written_leaves_a_signal_unanswered(
    reflow: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code says that the state is saved."""
    advance = Fit.advance

    def interrupted(self: Fit) -> None:
        advance(self)
        if self.step == 5:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(Fit, "advance", interrupted)
    free(monkeypatch, 1000)
    assert "MB are free; no state was saved. Free some" in train(reflow, tmp_path / "base", code=1)


def test_one_failed_write_does_not_end_a_training(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def unlucky(self: Checkpoints, fit: object) -> None:
        if fit.step == 10:  # type: ignore[attr-defined]
            raise ReflowError("state.safetensors cannot be written: Input/output error")
        save(self, fit)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoints, "save", unlucky)
    said = train(reflow, tmp_path / "base")
    assert "Input/output error. Training continues without it" in said
    assert artifacts(tmp_path / "base") == artifacts(chain / "base")
