"""Trackers are told every step, a resumed run stays the same run, no failure reaches the training run."""

import importlib.util
import io
import random
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from files import RGB
from launches import PICTURE, launch, losses, opened, steps
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.record_writer import RecordWriter

from reflow.artifacts import TRACKING
from reflow.errors import ReflowError, UsageError
from reflow.training.tracking import PATIENCE, TRACKERS, Launch, Tracker, open_tracker, require_tracker


@pytest.fixture(autouse=True)
def first_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Number event files from 0: two of one second are read by name, and 10 comes before 9 there."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def events(out: Path) -> EventAccumulator:
    found = EventAccumulator(str(out / TRACKING / "tensorboard"))
    found.Reload()
    return found


def scalars(out: Path, name: str = "loss") -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(out).Scalars(name)]


def test_tensorboard_reads_back_figures_pictures_and_settings(tmp_path: Path) -> None:
    tracker = opened("tensorboard", launch(tmp_path))
    steps(tracker, 10, 40)
    tracker.close()
    found = events(tmp_path)
    assert sorted(found.Tags()["scalars"]) == ["loss", "lr"]
    assert scalars(tmp_path) == losses(10, 20, 30, 40)
    assert scalars(tmp_path, "lr") == [(10, 5), (20, 10), (30, 15), (40, 20)]
    images = found.Images("samples")
    assert [image.step for image in images] == [20, 40]
    assert np.array_equal(Image.open(io.BytesIO(images[0].encoded_image_string)), RGB[0])
    (text,) = found.Tensors("settings/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert {"| train.lr | 0.002 |", "| model.multipliers | [1, 2] |"} <= set(table.splitlines())
    content = found.PluginTagToContent(hparams.PLUGIN_NAME)[hparams.SESSION_START_INFO_TAG]
    values = hparams.parse_session_start_info_plugin_data(content).hparams
    assert values["train.steps"].number_value == 40
    assert values["name"].string_value == "tiny"


def test_what_a_killed_run_logged_is_in_its_event_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RecordWriter.write

    def slowly(writer: RecordWriter, record: bytes) -> None:
        time.sleep(0.02)
        write(writer, record)

    monkeypatch.setattr(RecordWriter, "write", slowly)
    tracker = opened("tensorboard", launch(tmp_path))
    for taken in ((10,), (10, 20), (10, 20, 30)):
        tracker.log(taken[-1], {"loss": 1 / taken[-1]})
        assert scalars(tmp_path) == losses(*taken)
    tracker.picture(30, "samples", PICTURE)
    assert len(events(tmp_path).Images("samples")) == 1


def test_in_tensorboard_a_resumed_run_replaces_the_steps_that_it_takes_again(tmp_path: Path) -> None:
    killed = opened("tensorboard", launch(tmp_path))
    steps(killed, 10, 40)
    killed.log(35, {"loss": -1.0})  # what the resumed run never says must go, too
    resumed = opened("tensorboard", launch(tmp_path, step=20, **{"train.steps": 60}))
    steps(resumed, 30, 60)
    resumed.close()
    assert scalars(tmp_path) == losses(10, 20, 30, 40, 50, 60)
    found = events(tmp_path)
    assert [image.step for image in found.Images("samples")] == [20, 40, 60]
    first, second = (
        text.tensor_proto.string_val[0].decode() for text in found.Tensors("settings/text_summary")
    )
    assert "| train.steps | 40 |" in first
    assert "| train.steps | 60 |" in second


def test_a_run_killed_before_its_first_state_begins_again_in_tensorboard(tmp_path: Path) -> None:
    steps(opened("tensorboard", launch(tmp_path)), 10, 30)
    steps(opened("tensorboard", launch(tmp_path)), 10, 20)
    assert scalars(tmp_path) == losses(10, 20)


def test_figures_wait_for_a_tracker_that_cannot_be_opened(tmp_path: Path) -> None:
    obstacle = tmp_path / TRACKING / "tensorboard"
    obstacle.parent.mkdir()
    obstacle.touch()
    said: list[str] = []
    tracker = open_tracker("tensorboard", launch(tmp_path), said.append)
    steps(tracker, 10, 50)
    obstacle.unlink()
    steps(tracker, 60, 100)
    tracker.close()
    assert scalars(tmp_path) == losses(*range(10, 101, 10))
    (line,) = said
    assert "FileExistsError" in line
    assert "will be retried" in line


def test_a_tracker_that_breaks_is_opened_anew_and_loses_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    tracker: Any = open_tracker("tensorboard", launch(tmp_path), said.append)
    steps(tracker, 10, 20)
    tracker.tracker.writer.file_writer.event_writer.close()  # a full disk leaves it like this
    steps(tracker, 30, 50)
    tracker.close()
    assert scalars(tmp_path) == losses(10, 20, 30, 40, 50)
    assert [image.step for image in events(tmp_path).Images("samples")] == [20, 40]
    assert len(said) == 1
    assert "Writer is closed" in said[0]


def test_a_tracker_that_never_works_is_seldom_tried_and_said_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def refuse(launch: Launch) -> Tracker:
        tries.append(launch.step)
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(TRACKERS, "tensorboard", refuse)
    said: list[str] = []
    tracker = open_tracker("tensorboard", launch(tmp_path), said.append)
    for step in range(1000):
        tracker.log(step, {"loss": 0.0})
        tracker.picture(step, "samples", PICTURE)
    tracker.close()
    doublings = PATIENCE.bit_length() - 1  # tries until the pauses are at their longest
    assert len(tries) <= doublings + 2000 / PATIENCE + 2
    assert said[0].startswith("tensorboard is unavailable (ConnectionError: no route to host)")
    assert said[1:] == ["1000 lines of figures never reached tensorboard; log.jsonl has them"]


def test_after_an_outage_a_tracker_is_not_left_alone_for_longer_than_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorboard, down = TRACKERS["tensorboard"], False

    def shaky(launch: Launch) -> Tracker:
        if down:
            raise ConnectionError
        return tensorboard(launch)

    monkeypatch.setitem(TRACKERS, "tensorboard", shaky)
    tracker: Any = open_tracker("tensorboard", launch(tmp_path), list[str]().append)
    for first in (0, 200):
        tracker.tracker.writer.file_writer.event_writer.close()
        for step in range(first, first + 200):
            down = step < first + 12
            tracker.log(step, {"loss": 1.0})  # tries at 0, 1, 3, 7 and 15
            assert bool(tracker.waiting) == (step < first + 15), step
    assert [step for step, _ in scalars(tmp_path)] == list(range(400))


def test_a_picture_that_is_refused_holds_no_figures_up(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = open_tracker("tensorboard", launch(tmp_path), said.append)
    for step in (10, 20, 30):
        tracker.log(step, {"loss": 1 / step})
        tracker.picture(step, "samples", b"no picture")
    tracker.close()
    assert scalars(tmp_path) == losses(10, 20, 30)
    assert len(said) == 1


def test_what_trackers_print_leaves_standard_output_to_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorboard = TRACKERS["tensorboard"]

    def talkative(launch: Launch) -> Tracker:
        sys.stdout.write("see it at http://localhost")
        return tensorboard(launch)

    monkeypatch.setitem(TRACKERS, "tensorboard", talkative)
    opened("tensorboard", launch(tmp_path)).close()
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "see it at" in answer.err


def test_tracking_leaves_all_generators_alone(tmp_path: Path) -> None:
    def states() -> list[bytes]:
        numpy = np.random.get_state(legacy=False)  # noqa: NPY002 (the global one is the claim)
        return [
            torch.get_rng_state().numpy().tobytes(),
            repr(random.getstate()).encode(),
            repr(numpy).encode(),
        ]

    before = states()
    tracker = opened("tensorboard", launch(tmp_path))
    steps(tracker, 10, 40)
    tracker.close()
    assert states() == before


def test_a_run_keeps_its_identifier_until_its_folder_goes(tmp_path: Path) -> None:
    first = launch(tmp_path / "a").identifier()
    assert launch(tmp_path / "a", step=20).identifier() == first
    assert launch(tmp_path / "b").identifier() != first
    assert {path.name for path in (tmp_path / "a").iterdir()} == {TRACKING}


def test_an_unknown_or_missing_tracker_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UsageError, match="--track excel: unknown; choose from tensorboard, wandb, trackio, mlflow"
    ):
        open_tracker("excel", launch(tmp_path), pytest.fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for name in TRACKERS:
        with pytest.raises(ReflowError, match=rf"--track {name}: .* pip install 'reflow\[track\]'"):
            require_tracker(name)
    assert not any(tmp_path.iterdir())


def test_the_extra_brings_every_tracker() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    found = [requirement.partition(">=")[0] for requirement in project["optional-dependencies"]["track"]]
    assert found == list(TRACKERS)
