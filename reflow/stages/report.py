"""report: one self-contained HTML page about a run, or about several beside each other."""

import collections
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from reflow.artifacts.files import output_file, write_atomically
from reflow.data import DataSet, open_data, split
from reflow.devices import choose_device
from reflow.errors import UsageError
from reflow.models import Model, load_model
from reflow.recipes.read import settings_table
from reflow.report.gallery import IMAGES, POINTS, gallery_of
from reflow.report.page import Chapter, render
from reflow.report.plane.section import physics_section
from reflow.report.run import Run, open_run
from reflow.report.trajectories import strips_of
from reflow.terminal import say


def run(folders: Sequence[Path], *, out: Path, device: str) -> None:
    """Write the page about the runs in `folders` to `out`."""
    where = choose_device(device)
    if out.suffix.lower() != ".html":
        raise UsageError(f"--out {out}: the report is a page; give a name that ends in .html")
    _require_different(folders)
    with output_file(out):
        runs = [open_run(folder) for folder in folders]
        chapters = [
            _chapter(name, found, len(runs), where) for name, found in zip(_names(runs), runs, strict=True)
        ]
        page = render(chapters)
        write_atomically(out, page.encode())
    count = sum(len(found.entries) for found in runs)
    say(f"{out}: {len(page) / 1e6:.1f} MB, {count} artifacts; open it in a browser")


def _require_different(folders: Sequence[Path]) -> None:
    counts = collections.Counter(folder.resolve() for folder in folders)
    for folder, count in counts.items():
        if count > 1:
            raise UsageError(f"{folder} is given {count} times; name each run once")


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the names of the runs: as short as they can be, and different."""
    counts = collections.Counter(found.name for found in runs)
    paths = [found.folder.resolve() for found in runs]
    return [path.name if counts[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths]


def _chapter(name: str, found: Run, runs: int, where: torch.device) -> Chapter:
    """Return a run with its pictures, which share the page with those of other runs."""
    models = {entry.name: load_model(entry.folder).to(where) for entry in found.models()}
    held_out = _held_out(found)
    images = len(next(iter(models.values())).event) == 3
    return Chapter(
        name,
        found,
        gallery_of(found, models, _real(held_out), runs=runs, device=where),
        strips_of(models, runs=runs, device=where) if images else [],
        _section(models, held_out, level=3 if runs == 1 else 4),
        settings_table(found.entries[-1].recipe),
    )


def _section(models: dict[str, Model], held_out: DataSet | None, *, level: int) -> Markup:
    """Return the section about the flow of points in the plane, as HTML; without one, nothing."""
    flows = any(model.student_steps is None for model in models.values())
    if held_out is None or held_out.event != (2,) or not flows:
        return Markup("")
    first = next(iter(models.values()))
    label = None if first.classes is None else 0
    rows = np.arange(len(held_out))
    if label is not None:
        assert held_out.labels is not None
        rows = rows[held_out.labels == label]
    data, _ = held_out.take(rows[:POINTS])
    return Markup(physics_section(models, data, first.recipe.seed, label=label, level=level))


def _held_out(found: Run) -> DataSet | None:
    """Return the held-out data, or None when the data was files of the user's own."""
    first = found.models()[0]
    how = first.model_facts.split
    if how is None or first.recipe.data.source == "files":
        return None
    _, held_out = split(open_data(first.recipe.data, how.seed), how.held_out, how.seed)
    return held_out


def _real(held_out: DataSet | None) -> Tensor | None:
    """Return held-out samples to show, if there are."""
    if held_out is None:
        return None
    count = min(len(held_out), IMAGES[0] if len(held_out.event) == 3 else POINTS)
    samples, _ = held_out.take(np.arange(count))
    return samples
