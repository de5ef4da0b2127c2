"""report: one self-contained HTML page about a run."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reflow.artifacts import prepare, write_atomically
from reflow.config import parse_recipe, settings_table
from reflow.data import open_data, split
from reflow.devices import choose_device
from reflow.generation import fixed_method, generate, usual_method
from reflow.models import Model, load_model
from reflow.noise import noise
from reflow.reporting import plots
from reflow.reporting.page import Panel, render
from reflow.reporting.pictures import grid, png
from reflow.reporting.progress import say
from reflow.reporting.run import Entry, Run, open_run
from reflow.settings import SolverSettings
from reflow.solvers import trajectory

STREAM = "report"
IMAGES, POINTS = 36, 1500  # samples in a panel
PATHS, PATH_TIMES, PATH_TOLERANCE = 150, 60, 1e-3  # of the trajectories drawn


def run(folder: Path, *, out: Path, device: str) -> None:
    """Write the page about the run in `folder` to `out`."""
    where = choose_device(device)
    prepare(out)
    contents = open_run(folder)
    models = {entry.name: load_model(entry.folder).to(where) for entry in contents.models()}
    real = _real(contents)
    planar = real is not None and real.ndim == 2 and real.shape[1] == 2
    page = render(
        contents,
        panels=_panels(contents, models, real, where),
        flows=_flows(contents, models, real, where) if planar and real is not None else [],
        settings=settings_table(parse_recipe(contents.entries[-1].header.recipe)),
    )
    write_atomically(out, page.encode())
    say(f"{out}: {len(page) / 1e6:.1f} MB, {len(contents.entries)} artifacts; open it in a browser")


def _real(contents: Run) -> Tensor | None:
    """Return held-out samples to show, or None when the data was files of the user's own."""
    header = contents.models()[0].header
    recipe = parse_recipe(header.recipe)
    if recipe.data.source == "files":
        return None
    how = header.facts["split"]
    _, held_out = split(open_data(recipe.data, how["seed"]), how["held_out"], how["seed"])
    count = min(len(held_out), IMAGES if len(held_out.event) == 3 else POINTS)
    samples, _ = held_out.take(torch.arange(count).numpy())
    return samples


def _panels(
    contents: Run, models: dict[str, Model], real: Tensor | None, where: torch.device
) -> list[Panel]:
    """Return the sample grids: every velocity field at many evaluations and at one, students at k."""
    panels = []
    for entry in contents.models():
        model = models[entry.name]
        for method, nfe in _settings_shown(entry, model):
            count = IMAGES if len(model.event) == 3 else POINTS
            batches = generate(
                model,
                count,
                method=method,
                seed=int(model.recipe["seed"]),
                stream=STREAM,
                batch=count,
                device=where,
            )
            samples = torch.cat([batch.pair.x1 for batch in batches])
            panels.append(Panel(entry.name, f"{nfe} evaluation{'s' * (nfe > 1)}", _picture(samples)))
    if real is not None:
        panels.append(Panel("real", "held-out data", _picture(real, plots.DATA)))
    return panels


def _settings_shown(entry: Entry, model: Model) -> list[tuple[SolverSettings, int]]:
    if model.student_steps is not None:
        return [(usual_method(model), model.student_steps)]
    shown = (100, 1) if entry.header.stage == "train" else (1,)
    return [(fixed_method(model, nfe), nfe) for nfe in shown]


def _flows(contents: Run, models: dict[str, Model], real: Tensor, where: torch.device) -> list[Panel]:
    """Return the trajectories of every velocity field over the data, from the same noise."""
    times = torch.linspace(0, 1, PATH_TIMES)
    panels = []
    for entry in contents.models():
        model = models[entry.name]
        if model.student_steps is None:
            x0 = noise(int(model.recipe["seed"]), STREAM, range(PATHS), model.event).to(where)
            label: Any = None
            if model.classes is not None:
                label = torch.arange(PATHS, device=where) % model.classes
            states, _ = trajectory(model, x0, times, tolerance=PATH_TOLERANCE, label=label)
            panels.append(Panel(entry.name, "trajectories", plots.trajectories(states.cpu(), real)))
    return panels


def _picture(samples: Tensor, colour: str = plots.GENERATED) -> bytes:
    return png(grid(samples)) if samples.ndim == 4 else plots.scatter(samples, colour)
