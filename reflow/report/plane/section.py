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
from reflow.metrics.trajectories import straightness
from reflow.models import Model
from reflow.randomness import noise
from reflow.report.plane import crossing_lines
from reflow.report.plane.continuity import STEPS, carried
from reflow.report.plane.crossing_lines import STREAM, followed, labels_of, meeting_in
from reflow.report.plane.densities import BINS, DensityFrames, density_frames
from reflow.report.plane.svg import SIZE, Window
from reflow.report.rendering import template
from reflow.report.tables import Table
from reflow.solvers import integrate

TIMES = np.arange(STEPS + 1) / STEPS  # of the density: t = 0, 0.05, ..., 1
STILL = (0, 5, 10, 15, 20)  # of those shown: what stands still in print
FIRST = 10  # of those shown: where the page begins
PARTICLES = 2500
PATHS, MEASURED = 80, 200  # trajectories drawn; how many tell the straightness
MEASURING = 1e-3  # tolerance of the straightness
ARROWS = 13  # a side
MAPPED, BEHIND = 400, 500  # points of a one-step map; of the data behind
FULL = 127  # of a byte: an arrow of full length


@dataclass(frozen=True)
class Flow:
    """One model's density and particles, trajectories (M, PATHS, 2), velocities (M, ARROWS^2, 2), S."""

    name: str
    fluid: DensityFrames
    states: Tensor
    velocities: Tensor
    straightness: float


def physics_section(
    models: Mapping[str, Model], data: Tensor, seed: int, *, label: int | None = None, level: int = 3
) -> str:
    """Return the section as HTML, without network, of the run's models by name in the order of stages.

    data: points (N, 2) of the plane, those of one class if `label` names it. `level` is that of the
    section's headings. Lines that cross are those of the first velocity field.

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
        window = Window(max(3.0, 1.1 * float(self.data.abs().max())))
        close = Window(1.2 * float(self.data.abs().max()))
        flows = [self._flow(called, field, x0, window) for called, field in self.fields.items()]
        found = meeting_in(first, self.data, TIMES, self.seed, self.label)
        around = Window(1.1 * float(torch.cat([found.begin, self.data]).abs().max()))
        return {
            "name": name,
            "label": self.label,
            "size": SIZE,
            "bins": BINS,
            "reach": window.reach,
            "particles": PARTICLES,
            "behind": window.dots(self.data[:BEHIND]),
            "stills": [{"name": flow.name, "at": [flow.fluid.still(m) for m in STILL]} for flow in flows],
            "masses": _mass_table(flows),
            "flows": [_drawn(flow, window, _longest(flows)) for flow in flows],
            "crossing": crossing_lines.drawn(found, around),
            "meeting": {"reach": around.reach, "behind": around.dots(self.data[:BEHIND])},
            "maps": [
                self._one_step(called, model, x0[:MAPPED], close) for called, model in self.models.items()
            ],
            "close": {"reach": close.reach, "behind": close.dots(self.data[:BEHIND])},
            "payload": _payload(flows, window) | {"crossing": crossing_lines.moving(found, around)},
        }

    def _flow(self, name: str, field: Model, x0: Tensor, window: Window) -> Flow:
        particles = followed(field, x0, TIMES, self.label)
        ends = torch.cat([self.data, particles[-1]])
        reach = 1.3 * float(ends.abs().max())  # the density of a blob goes on beyond its last particle
        density = carried(field, reach=reach, like=self.data, label=self.label)
        measured = noise(self.seed, STREAM, range(MEASURED), (2,)).to(self.data)
        straight = straightness(field, measured, tolerance=MEASURING, label=labels_of(self.label, measured))
        return Flow(
            name,
            density_frames(density, particles, window),
            particles[:, :PATHS],
            self._velocities(field, window),
            float(straight.mean()),
        )

    def _velocities(self, field: Model, window: Window) -> Tensor:
        cells = _arrow_origins(window).to(self.data)
        labels = labels_of(self.label, cells)
        with torch.no_grad():
            return torch.stack([field(cells, cells.new_full((len(cells),), t), labels) for t in TIMES])

    def _one_step(self, name: str, model: Model, x0: Tensor, window: Window) -> dict[str, Any]:
        steps = model.student_steps or 1
        end = integrate(model, x0, solver="euler", steps=steps, label=labels_of(self.label, x0)).x1
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
        "worst": flow.fluid.worst,
        "trails": window.lines(flow.states),
        "arrows": window.arrows(_arrow_origins(window).to(vectors), vectors),
        "dots": window.dots(flow.states[FIRST]),
    }


def _mass_table(flows: list[Flow]) -> Table:
    """Return the mass of every density at every time, and how the particles differ from it."""
    told = ("mass", "mass minus 1", "differ by", "expected")
    head = ["t", *(f"{flow.name}: {words}" for flow in flows for words in told)]
    rows = [
        [f"{time:.2f}", *(cell for flow in flows for cell in flow.fluid.told(moment))]
        for moment, time in enumerate(TIMES)
    ]
    return Table("Total mass of the densities, and how density and particles differ", head, rows)


def _payload(flows: list[Flow], window: Window) -> dict[str, Any]:
    """Return what the script needs, in units of the picture and as bytes."""
    longest = _longest(flows)
    return {
        "times": TIMES.tolist(),
        "first": FIRST,
        "arrows": {
            "origins": window.place(_arrow_origins(window)).tolist(),
            "unit": _arrow_scale(window, longest) * longest / window.reach * SIZE / 2 / FULL,
        },
        "flows": [_moving(flow, window, longest) for flow in flows],
    }


def _moving(flow: Flow, window: Window, longest: float) -> dict[str, Any]:
    fluid = flow.fluid
    return {
        "name": flow.name,
        "masses": [round(mass, 6) for mass in fluid.masses],
        "differences": [round(value, 5) for value in fluid.differences],
        "expected": [round(value, 5) for value in fluid.expected],
        "halves": fluid.half_sides,
        "density": {"side": fluid.shades.shape[1], "shades": _base64(fluid.shades)},
        "histogram": {"side": BINS, "shades": _base64(fluid.histogram)},
        "states": window.place(flow.states).tolist(),
        "velocities": _as_bytes(flow, longest),
    }


def _as_bytes(flow: Flow, longest: float) -> str:
    scaled = flow.velocities.double().cpu().numpy() / longest * [1, -1]
    return _base64(np.rint(FULL * scaled + FULL + 1).astype(np.uint8))


def _base64(array: NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
