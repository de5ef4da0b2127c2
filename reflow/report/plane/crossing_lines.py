"""Straight lines that meet in a point of the plane, their mean velocity there, and who else passes.

Points are (2,), lines (LINES, 2), trajectories (M, 2) at the times of the density.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.models import Model
from reflow.randomness import draw_seed
from reflow.report.plane.marginal import beginnings, marginal_velocity, shares
from reflow.report.plane.svg import Window
from reflow.solvers import integrate, trajectory

STREAM = "physics"
TOLERANCE = 1e-2  # of what is drawn: a hundredth of a picture's side
LINES, ASIDE = 7, 0.35  # lines through the point; its distance from the middle
WHEN = 13  # of the times shown: where the lines meet


@dataclass(frozen=True)
class Meeting:
    """Lines from `begin` to `end` that meet in `point` at t.

    through: the model's trajectory through the point. mean, learned: the marginal velocity there and the
    model's.
    """

    t: float
    point: Tensor
    begin: Tensor
    end: Tensor
    through: Tensor
    mean: Tensor
    learned: Tensor


def meeting_in(
    field: Model, data: Tensor, times: NDArray[np.float64], seed: int, label: int | None
) -> Meeting:
    """Return lines to the data (N, 2) that meet aside of its middle, drawn as probable as they are."""
    t = float(times[WHEN])
    point = (t * data.mean(0) + data.std(0) * data.new_tensor([0.8, 0.6]) * ASIDE)[None]
    weights = shares(point, t, data)[0].double().cpu().numpy()
    rng = np.random.default_rng(draw_seed(seed, STREAM))
    lines = min(LINES, int((weights > 0).sum()))
    chosen = rng.choice(len(weights), lines, replace=False, p=weights / weights.sum())
    ends = data[torch.from_numpy(chosen).to(data.device)]
    labels = labels_of(label, point)
    with torch.no_grad():
        learned = field(point, point.new_full((1,), t), labels)[0]
    x0 = integrate(field, point, tolerance=TOLERANCE, t0=t, t1=0, label=labels).x1
    through = followed(field, x0, times, label)[:, 0]
    mean = marginal_velocity(point, t, data)[0]
    return Meeting(t, point[0], beginnings(point[0], t, ends), ends, through, mean, learned)


def followed(field: Model, x0: Tensor, times: NDArray[np.float64], label: int | None) -> Tensor:
    """Return the states (M, B, 2) of x0 (B, 2) at the times."""
    at = torch.from_numpy(times)
    return trajectory(field, x0, at, tolerance=TOLERANCE, label=labels_of(label, x0))[0]


def labels_of(label: int | None, x: Tensor) -> Tensor | None:
    """Return the label for each row of x, or None without one."""
    return None if label is None else torch.full((len(x),), label, device=x.device)


def drawn(meeting: Meeting, window: Window) -> dict[str, Any]:
    """Return the lines as paths, and what is told of them."""
    point, left = meeting.point[None], 1 - meeting.t
    each = (meeting.end - meeting.begin) * left  # by t = 1, if nothing turned
    return {
        "lines": window.lines(torch.stack([meeting.begin, meeting.end])),
        "conditional": window.arrows(point.expand_as(each), each),
        "marginal": window.arrows(point, meeting.mean[None] * left),
        "through": window.lines(meeting.through[:, None]),
        "dots": window.dots(point),
        "begin": window.dots(meeting.begin),
        "point": meeting.point.tolist(),
        "mean": meeting.mean.tolist(),
        "learned": meeting.learned.tolist(),
        "t": meeting.t,
        "count": len(each),
    }


def moving(meeting: Meeting, window: Window) -> dict[str, Any]:
    """Return what the script moves, in units of the picture."""
    return {
        "begin": window.place(meeting.begin).tolist(),
        "end": window.place(meeting.end).tolist(),
        "through": window.place(meeting.through).tolist(),
    }
