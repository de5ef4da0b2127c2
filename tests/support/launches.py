"""Runs that report to a tracker, as the tests of trackers need them."""

from pathlib import Path
from typing import Any

import pytest
from files import RGB, png

from reflow.training.tracking import Launch, Tracker, open_tracker

SETTINGS = {
    "name": "tiny",
    "train.steps": 40,
    "train.lr": 2e-3,
    "model.multipliers": [1, 2],
    "data.size": None,
}
PICTURE = png(RGB[0])


def launch(out: Path, step: int = 0, **changed: Any) -> Launch:
    return Launch(out, "tiny train", SETTINGS | changed, step)


def opened(name: str, launch: Launch) -> Tracker:
    """Return a tracker whose failures fail the test."""
    return open_tracker(name, launch, pytest.fail)


def steps(tracker: Tracker, first: int, last: int) -> None:
    """Log every tenth step, with a picture at every twentieth."""
    for step in range(first, last + 1, 10):
        tracker.log(step, {"loss": 1 / step, "lr": step / 2})
        if step % 20 == 0:
            tracker.picture(step, "samples", PICTURE)


def losses(*taken: int) -> list[tuple[int, float]]:
    return [(step, pytest.approx(1 / step)) for step in taken]
