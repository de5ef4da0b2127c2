"""The physics of a run on points in the plane: a section of the report, complete in itself.

It shows the density that the continuity equation carries from the noise to the data beside particles
carried by the ODE, straight lines through one point beside their mean velocity, the flow before and
after reflow, and what one step makes of noise. The fragment brings its own style and script, which
moves all of it through t; without script and in print it stands still.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflow.errors import ReflowError
from reflow.metrics.continuity import STEPS, carried
from reflow.metrics.marginal import beginnings, marginal_velocity, shares
from reflow.metrics.straightness import straightness
from reflow.models import Model
from reflow.noise import draw_seed, noise
from reflow.reporting.environment import template
from reflow.reporting.fluid import BINS, Fluid, compare
from reflow.reporting.planar import SIZE, Window
from reflow.solvers import integrate, trajectory

STREAM = "physics"
SHOWN = np.arange(0, STEPS + 1, 2)  # of the times of the density: t = 0, 0.05, ..., 1
STILL = (0, 5, 10, 15, 20)  # of those shown: what stands still in print
FIRST = 10  # of those shown: where the page begins
PARTICLES = 2500
PATHS, MEASURED = 80, 200  # trajectories drawn; how many tell the straightness
TOLERANCE, MEASURING = 1e-2, 1e-3  # of what is drawn, a hundredth of a picture's side; of the straightness
ARROWS = 13  # a side
MAPPED, BEHIND = 400, 500  # points of a one-step map; of the data behind
LINES, CROSSING, ASIDE = 7, 13, 0.35  # lines through a point; when; its distance from the middle
FULL = 127  # of a byte: an arrow of full length


@dataclass(frozen=True)
class Flow:
    """One model's trajectories (M, PATHS, 2), velocities (M, ARROWS^2, 2) and straightness."""

    name: str
    states: Tensor
    velocities: Tensor
    straightness: float


@dataclass(frozen=True)
class Crossing:
    """Lines that meet in a point (2,): where they begin and end (LINES, 2), and who else is there.

    through: the model's trajectory (M, 2) through the point; mean, learnt: the marginal velocity there and
    the model's.
    """

    point: Tensor
    begin: Tensor
    end: Tensor
    through: Tensor
    mean: Tensor
    learnt: Tensor


def physics_section(
    models: Mapping[str, Model], data: Tensor, seed: int, *, label: int | None = None, level: int = 3
) -> str:
    """Return the section as HTML, without network, of the run's models by name in the order of stages.

    data: points (N, 2) of the plane, those of one class if `label` names it. The density is that of the
    first velocity field. `level` is that of the section's headings.

    Raises ReflowError if a model is not for points in the plane, or has classes and no label is given.
    """
    _require(models, data, label)
    fields = {name: model for name, model in models.items() if model.student_steps is None}
    device = next(next(iter(models.values())).parameters()).device
    scene = _Scene(models, fields, data.float().to(device), seed, label)
    return template("physics.html.j2").render(scene.view(), level=level)


def _require(models: Mapping[str, Model], data: Tensor, label: int | None) -> None:
    if data.shape[1:] != (2,):
        raise ReflowError(f"the physics is for points in the plane, not for data {tuple(data.shape[1:])}")
    if all(model.student_steps is not None for model in models.values()):
        raise ReflowError("the physics needs a velocity field among the models; students have none")
    for name, model in models.items():
        if model.event != (2,):
            raise ReflowError(f"{name} works on {model.event}, not on points in the plane")
        if (model.classes is None) != (label is None):
            raise ReflowError(f"{name} has {model.classes or 'no'} classes; the label given is {label}")


@dataclass(frozen=True)
class _Scene:
    models: Mapping[str, Model]
    fields: Mapping[str, Model]
    data: Tensor
    seed: int
    label: int | None

    def view(self) -> dict[str, Any]:
        """Return what the template shows."""
        name, first = next(iter(self.fields.items()))
        x0 = noise(self.seed, STREAM, range(PARTICLES), (2,)).to(self.data)
        particles = self._carry(first, x0)
        ends = torch.cat([self.data, particles[-1]])
        reach = 1.3 * float(ends.abs().max())  # the density of a blob goes on beyond its last particle
        density = carried(first, reach=reach, like=self.data, label=self.label).at(SHOWN)
        window = Window(max(3.0, 1.1 * float(self.data.abs().max())))
        close = Window(1.2 * float(self.data.abs().max()))
        flows = [
            self._flow(
                name, field, self._carry(field, x0[:PATHS]) if number else particles[:, :PATHS], window
            )
            for number, (name, field) in enumerate(self.fields.items())
        ]
        crossing = self._crossing(first)
        meeting = Window(1.1 * float(torch.cat([crossing.begin, self.data]).abs().max()))
        fluid = compare(density, particles, window)
        return {
            "name": name,
            "label": self.label,
            "size": SIZE,
            "reach": window.reach,
            "particles": PARTICLES,
            "behind": window.dots(self.data[:BEHIND]),
            "stills": [fluid.still(moment) for moment in STILL],
            "worst": fluid.worst,
            "flows": [_drawn(flow, window, _longest(flows)) for flow in flows],
            "crossing": _crossed(crossing, meeting),
            "meeting": {"reach": meeting.reach, "behind": meeting.dots(self.data[:BEHIND])},
            "maps": [
                self._one_step(name, model, x0[:MAPPED], close) for name, model in self.models.items()
            ],
            "close": {"reach": close.reach, "behind": close.dots(self.data[:BEHIND])},
            "payload": _payload(fluid, flows, window) | {"crossing": _moving(crossing, meeting)},
        }

    def _labels(self, count: int) -> Tensor | None:
        return None if self.label is None else torch.full((count,), self.label, device=self.data.device)

    def _carry(self, field: Model, x0: Tensor) -> Tensor:
        times = torch.from_numpy(SHOWN / STEPS)
        return trajectory(field, x0, times, tolerance=TOLERANCE, label=self._labels(len(x0)))[0]

    def _flow(self, name: str, field: Model, states: Tensor, window: Window) -> Flow:
        cells = _arrow_origins(window).to(self.data)
        velocities = []
        for t in SHOWN / STEPS:
            with torch.no_grad():
                times = torch.full((len(cells),), float(t)).to(self.data)
                velocities.append(field(cells, times, self._labels(len(cells))))
        measured = noise(self.seed, STREAM, range(MEASURED), (2,)).to(self.data)
        straight = straightness(field, measured, tolerance=MEASURING, label=self._labels(MEASURED))
        return Flow(name, states, torch.stack(velocities), float(straight.mean()))

    def _crossing(self, field: Model) -> Crossing:
        t = float(SHOWN[CROSSING] / STEPS)
        aside = self.data.std(0) * self.data.new_tensor([0.8, 0.6]) * ASIDE
        point = (t * self.data.mean(0) + aside)[None]
        weights = shares(point, t, self.data)[0].double().cpu().numpy()
        rng = np.random.default_rng(draw_seed(self.seed, STREAM))
        lines = min(LINES, int((weights > 0).sum()))
        chosen = rng.choice(len(weights), lines, replace=False, p=weights / weights.sum())
        ends = self.data[torch.from_numpy(chosen).to(self.data.device)]
        with torch.no_grad():
            learnt = field(point, point.new_full((1,), t), self._labels(1))[0]
        x0 = integrate(field, point, tolerance=TOLERANCE, t0=t, t1=0, label=self._labels(1)).x1
        through = self._carry(field, x0)[:, 0]
        mean = marginal_velocity(point, t, self.data)[0]
        return Crossing(point[0], beginnings(point[0], t, ends), ends, through, mean, learnt)

    def _one_step(self, name: str, model: Model, x0: Tensor, window: Window) -> dict[str, Any]:
        steps = model.student_steps or 1
        end = integrate(model, x0, solver="euler", steps=steps, label=self._labels(len(x0))).x1
        return {"name": name, "steps": steps, "dots": window.dots(end)}


def _arrow_origins(window: Window) -> Tensor:
    axis = (torch.arange(ARROWS) + 0.5) / ARROWS * 2 - 1
    return window.reach * torch.cartesian_prod(axis, axis)


def _longest(flows: list[Flow]) -> float:
    return max(float(flow.velocities.norm(dim=-1).max()) for flow in flows)


def _arrow_scale(window: Window, longest: float) -> float:
    """Return by how much velocities are multiplied for the longest arrow to be 1.4 cells long."""
    return 1.4 * 2 * window.reach / ARROWS / longest


def _drawn(flow: Flow, window: Window, longest: float) -> dict[str, Any]:
    vectors = flow.velocities[FIRST] * _arrow_scale(window, longest)
    return {
        "name": flow.name,
        "straightness": flow.straightness,
        "trails": window.lines(flow.states),
        "arrows": window.arrows(_arrow_origins(window).to(vectors), vectors),
        "dots": window.dots(flow.states[FIRST]),
    }


def _crossed(crossing: Crossing, window: Window) -> dict[str, Any]:
    point, left = crossing.point[None], 1 - float(SHOWN[CROSSING] / STEPS)
    each = (crossing.end - crossing.begin) * left  # by t = 1, if nothing turned
    return {
        "lines": window.lines(torch.stack([crossing.begin, crossing.end])),
        "conditional": window.arrows(point.expand_as(each), each),
        "marginal": window.arrows(point, crossing.mean[None] * left),
        "through": window.lines(crossing.through[:, None]),
        "dots": window.dots(point),
        "begin": window.dots(crossing.begin),
        "end": window.dots(crossing.end),
        "point": crossing.point.tolist(),
        "mean": crossing.mean.tolist(),
        "learnt": crossing.learnt.tolist(),
        "t": float(SHOWN[CROSSING] / STEPS),
        "count": len(each),
    }


def _payload(fluid: Fluid, flows: list[Flow], window: Window) -> dict[str, Any]:
    """Return what the script needs, in units of the picture and as bytes."""
    longest = _longest(flows)
    return {
        "times": fluid.times,
        "first": FIRST,
        "masses": [round(mass, 6) for mass in fluid.masses],
        "differences": [round(value, 5) for value in fluid.differences],
        "expected": [round(value, 5) for value in fluid.expected],
        "halves": fluid.half_sides,
        "density": {"side": fluid.shades.shape[1], "shades": _base64(fluid.shades)},
        "histogram": {"side": BINS, "shades": _base64(fluid.histogram)},
        "arrows": {
            "origins": window.place(_arrow_origins(window)).tolist(),
            "unit": _arrow_scale(window, longest) * longest / window.reach * SIZE / 2 / FULL,
        },
        "flows": [
            {"states": window.place(flow.states).tolist(), "velocities": _velocities(flow, longest)}
            for flow in flows
        ],
    }


def _moving(crossing: Crossing, window: Window) -> dict[str, Any]:
    return {
        "begin": window.place(crossing.begin).tolist(),
        "end": window.place(crossing.end).tolist(),
        "through": window.place(crossing.through).tolist(),
    }


def _velocities(flow: Flow, longest: float) -> str:
    scaled = flow.velocities.double().cpu().numpy() / longest * [1, -1]
    return _base64(np.rint(FULL * scaled + FULL + 1).astype(np.uint8))


def _base64(array: NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
