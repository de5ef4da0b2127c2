"""Adapters to experiment trackers: figures and PNG pictures by step, each library imported where used.

What a tracker keeps of a stage stands in `tracking/` of its directory, and no artifact depends on it.
A resumed run goes on as the same run there. Steps that it takes again replace those of before in
TensorBoard, are left out where the library has them already (W&B, MLflow), and stand twice in Trackio.
"""

import io
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from reflow.artifacts import TRACKING
from reflow.artifacts.files import write_atomically, writing

PROJECT = "reflow"  # where runs go unless the library's own environment variables say otherwise


@dataclass(frozen=True)
class Launch:
    """A run to track: its directory and title, its settings by dotted name, the step it goes on from."""

    out: Path
    run: str
    settings: Mapping[str, Any]
    step: int

    @property
    def folder(self) -> Path:
        """Where trackers keep what is theirs."""
        return self.out / TRACKING

    def identifier(self) -> str:
        """Return the name under which trackers know this run: drawn once, then kept in the folder."""
        path = self.folder / "run"
        if not path.exists():
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, secrets.token_hex(4).encode())
        return path.read_text("utf-8")


class Tracker(Protocol):
    """What takes figures and pictures, in the order of their steps."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of a step."""

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Take a picture at a step."""

    def close(self) -> None:
        """Write out what is pending."""


class TensorBoard:
    """Event files, flushed at every call: a killed run has what it logged."""

    def __init__(self, launch: Launch) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.writer = SummaryWriter(str(launch.folder / "tensorboard"), purge_step=launch.step + 1)
        rows = [f"| {name} | {value} |" for name, value in launch.settings.items()]
        table = "\n".join(["| setting | value |", "| --- | --- |", *rows])
        self.writer.add_text("settings", table, launch.step)
        assert self.writer.file_writer is not None
        for summary in hparams({name: _scalar(value) for name, value in launch.settings.items()}, {}):
            self.writer.file_writer.add_summary(summary, launch.step)
        self.writer.flush()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write a scalar per figure."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Write an image."""
        pixels = np.asarray(_image(png).convert("RGB"))
        self.writer.add_image(name, pixels, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()


class WandB:
    """A run of Weights & Biases; with WANDB_MODE=offline a folder per session, for `wandb sync`.

    Offline it cannot know what earlier sessions told, and what a killed one told last may be lost.
    """

    def __init__(self, launch: Launch) -> None:
        _unless_set(WANDB_PROJECT=PROJECT, WANDB_CONSOLE="off")  # standard error stays ours
        _unless_set(WANDB_INIT_TIMEOUT="30", WANDB_FINISH_TIMEOUT="60")  # seconds; its own are 90 and none
        run = launch.identifier()
        import wandb

        self.image = wandb.Image
        self.run = wandb.init(
            dir=str(launch.folder),
            id=run,
            name=launch.run,
            config=_nested(launch.settings),
            resume="allow",
            allow_val_change=True,  # `steps` may grow
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Hand the figures to the library's own process."""
        if step >= self.run.step:  # it takes no step back
            self.run.log(dict(figures), step=step)

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Hand over an image."""
        if step >= self.run.step:
            self.run.log({name: self.image(_image(png))}, step=step)

    def close(self) -> None:
        """Upload what is left."""
        self.run.finish()


class Trackio:
    """A run of Trackio, in its local database or the Space that TRACKIO_SPACE_ID names."""

    def __init__(self, launch: Launch) -> None:
        import trackio

        self.library = trackio
        trackio.init(
            project=PROJECT,
            name=f"{launch.run} {launch.identifier()}",  # runs go on by name
            config=dict(launch.settings),
            resume="allow",
            embed=False,
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Hand the figures to the library's thread, which writes twice a second."""
        self.library.log(dict(figures), step=step)

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Hand over an image."""
        self.library.log({name: self.library.Image(_image(png))}, step=step)

    def close(self) -> None:
        """Wait for the library's thread."""
        self.library.finish()


class MLflow:
    """A run of MLflow, where MLFLOW_TRACKING_URI says; parameters are those of the first launch."""

    def __init__(self, launch: Launch) -> None:
        # Seconds; its own 8 tries of 120 each would hold the training run up.
        _unless_set(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="10")
        name = launch.identifier()
        import mlflow

        self.library, self.client = mlflow, mlflow.MlflowClient()
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)).experiment_id
        found = self.client.search_runs([experiment], f"tags.reflow_run = '{name}'")
        tags = {"reflow_run": name}
        tracked = found[0] if found else self.client.create_run(experiment, run_name=launch.run, tags=tags)
        self.run = tracked.info.run_id
        self.told = {key: self._last(key) for key in tracked.data.metrics}
        self.client.update_run(self.run, status="RUNNING")
        if not tracked.data.params:  # they cannot be changed
            mlflow.log_params(dict(launch.settings), run_id=self.run)

    def _last(self, key: str) -> int:
        """Return the last step of a metric there."""
        return int(max(metric.step for metric in self.client.get_metric_history(self.run, key)))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log a batch of metrics."""
        new = {key: value for key, value in figures.items() if step > self.told.get(key, -1)}
        self.library.log_metrics(new, step=step, run_id=self.run)

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Log an image."""
        self.client.log_image(self.run, _image(png), key=name, step=step, synchronous=True)

    def close(self) -> None:
        """Say that nothing more comes."""
        self.client.set_terminated(self.run)


TRACKERS: dict[str, Callable[[Launch], Tracker]] = {  # by the name of the library
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
    "mlflow": MLflow,
}


def _image(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def _scalar(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as objects in objects; W&B wants no dots in names."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *path, last = name.split(".")
        branch = tree
        for step in path:
            branch = branch.setdefault(step, {})
        branch[last] = value
    return tree


def _unless_set(**variables: str) -> None:
    """Set environment variables that the user has not."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
