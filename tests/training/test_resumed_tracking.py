"""In mlflow, trackio and W&B, too, a resumed run goes on as the same run."""

import sqlite3
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launches import launch, losses, opened, steps

from reflow.artifacts import TRACKING

THEIR_WARNINGS = pytest.mark.filterwarnings("default")  # of one dependency of theirs about another


@THEIR_WARNINGS
def test_a_resumed_run_goes_on_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    steps(opened("mlflow", launch(tmp_path)), 10, 40)  # killed
    client = mlflow.MlflowClient()
    experiments = [client.get_experiment_by_name("reflow").experiment_id]
    assert [run.info.status for run in client.search_runs(experiments)] == ["RUNNING"]
    resumed = opened("mlflow", launch(tmp_path, step=20, **{"train.steps": 60}))
    steps(resumed, 30, 60)
    resumed.close()
    other = opened("mlflow", launch(tmp_path / "other"))
    other.close()
    _, run = client.search_runs(experiments, order_by=["attributes.start_time DESC"])
    assert (run.info.run_name, run.info.status) == ("tiny train", "FINISHED")
    assert run.data.params["train.lr"] == "0.002"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == losses(10, 20, 30, 40, 50, 60)
    names = {item.path.split("+")[2] for item in client.list_artifacts(run.info.run_id, "images")}
    assert names == {"20", "40", "60"}


@THEIR_WARNINGS
def test_a_resumed_run_goes_on_in_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    assert "trackio" not in sys.modules, "it reads TRACKIO_DIR when it is imported"
    pytest.importorskip("trackio")
    stopped = opened("trackio", launch(tmp_path))
    steps(stopped, 10, 40)
    stopped.close()
    resumed = opened("trackio", launch(tmp_path, step=20))
    steps(resumed, 30, 60)
    resumed.close()
    with sqlite3.connect(tmp_path / "store" / "reflow.db") as store:
        rows = store.execute("SELECT DISTINCT run_name, run_id FROM metrics").fetchall()
        told = store.execute(
            "SELECT step FROM metrics WHERE CAST(metrics AS TEXT) LIKE '%loss%' ORDER BY step"
        ).fetchall()
        shown = store.execute(
            "SELECT step FROM metrics WHERE CAST(metrics AS TEXT) LIKE '%samples%'"
        ).fetchall()
    assert [name for name, _ in rows] == [f"tiny train {launch(tmp_path).identifier()}"]
    assert [step for (step,) in told] == [10, 20, 30, 30, 40, 40, 50, 60]
    assert {step for (step,) in shown} == {20, 40, 60}


def records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline run of W&B: a LevelDB log after seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


@THEIR_WARNINGS
def test_a_resumed_run_keeps_its_identifier_in_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    for step, last in ((0, 40), (20, 60)):
        tracker = opened("wandb", launch(tmp_path, step=step))
        steps(tracker, step + 10, last)
        tracker.close()
        time.sleep(1)  # it names the folders of sessions by the second
    sessions = sorted((tmp_path / TRACKING / "wandb").glob("offline-run-*/run-*.wandb"))
    told = []
    for session in sessions:
        found = list(records(session))
        (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
        assert (run.run_id, run.display_name, run.project) == (
            launch(tmp_path).identifier(),
            "tiny train",
            "reflow",
        )
        assert {item.key: item.value_json for item in run.config.update}[
            "train"
        ] == '{"steps":40,"lr":0.002}'
        told.append(
            [record.history.step.num for record in found if record.WhichOneof("record_type") == "history"]
        )
    assert told == [[10, 20, 30, 40], [30, 40, 50, 60]]
