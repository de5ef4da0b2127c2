"""Trajectories of a few samples as pictures: images (C, H, W) in [-1, 1] at successive times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reflow.models import Model
from reflow.pictures import png, sheet
from reflow.report.gallery import STREAM, fitting, source_of
from reflow.sampling.generate import source_of as noise_source
from reflow.solvers import trajectory

ROWS, TIMES = (6, 4, 3, 2, 1), 11  # samples and times
BYTES = 1_200_000  # of raw pixels, in all strips of a page
TOLERANCE = 1e-2  # RMS, in data units; what is seen is a few grey levels


@dataclass(frozen=True)
class Strip:
    """Trajectories of one model as a data URI: samples from top to bottom, times from left to right."""

    name: str
    source: str


def times() -> list[float]:
    """Return the times of a strip."""
    return [number / (TIMES - 1) for number in range(TIMES)]


def strips_of(models: Mapping[str, Model], *, runs: int, device: torch.device) -> list[Strip]:
    """Return the trajectories of images of every velocity field, from the same noise."""
    fields = _fields(models)
    strips = []
    for name, model in fields.items():
        fit = fitting(model.event, TIMES * len(fields) * runs, ROWS, BYTES)
        states = _followed(model, fit.count, torch.tensor(times()), device)
        tiles = states.transpose(0, 1).flatten(0, 1)  # (samples * times, C, H, W)
        strips.append(Strip(name, source_of(png(sheet(tiles, TIMES, fit.reduction)))))
    return strips


def _fields(models: Mapping[str, Model]) -> dict[str, Model]:
    return {name: model for name, model in models.items() if model.student_steps is None}


def _followed(model: Model, count: int, at: Tensor, device: torch.device) -> Tensor:
    """Return the states (times, count, *event), on the CPU."""
    source = noise_source(model, seed=model.recipe.seed, stream=STREAM, device=device)
    numbers: Sequence[int] = range(count)
    label = source.label(numbers)
    label = None if label is None else label.to(device)
    states, _ = trajectory(model, source.noise(numbers).to(device), at, tolerance=TOLERANCE, label=label)
    return states.cpu()
