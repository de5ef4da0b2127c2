"""The report as HTML: one run, or several beside each other, from templates into one file.

The templates, the style and the script are in templates/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reflow.cost import training_cost
from reflow.recipes.read import flat
from reflow.report import tables
from reflow.report.charts import Axis, Chart, Series, chart
from reflow.report.commands import commands, make_line
from reflow.report.gallery import Gallery
from reflow.report.lineage import SHORT, lineage_graph
from reflow.report.numbers import tell, tell_zeros
from reflow.report.rendering import template
from reflow.report.run import Entry, Run
from reflow.report.side_by_side import comparison_of
from reflow.report.summary import facts, sentences
from reflow.report.tables import STAGES, Table
from reflow.report.trajectories import Strip, times

LOSSES = {  # lines of a loss chart: key in the log, name, dashed
    "loss": ("training batches", False),
    "training_loss": ("training examples, averaged weights", True),
    "held_out_loss": ("held-out examples, averaged weights", True),
}
QUARTERS = ("batches: t up to ¼", "¼ to ½", "½ to ¾", "¾ to 1")


@dataclass(frozen=True)
class Chapter:
    """A run with what was drawn for the page: pictures, trajectories of images, a section of its own.

    section: HTML about the flow of points in the plane, or "".
    """

    name: str
    run: Run
    gallery: Gallery
    strips: Sequence[Strip]
    section: Markup
    settings: Sequence[tuple[str, Any, str]]


def render(chapters: Sequence[Chapter]) -> str:
    """Return the page, complete in itself: no other file, no network."""
    views = [
        _view(chapter, f"r{number}-" if len(chapters) > 1 else "")
        for number, chapter in enumerate(chapters)
    ]
    return template("page.html.j2").render(
        title=chapters[0].name
        if len(chapters) == 1
        else "Comparison of " + ", ".join(c.name for c in chapters),
        views=views,
        comparison=comparison_of({c.name: c.run for c in chapters}) if len(chapters) > 1 else None,
    )


def _view(chapter: Chapter, prefix: str) -> dict[str, Any]:
    """Return what the template of a run shows; `prefix` stands before its anchors."""
    run, evaluated = chapter.run, chapter.run.evaluated()
    scores = (tables.distance_table(run, evaluated), tables.coverage_table(run, evaluated))
    diagnostics = (
        tables.straightness_table(evaluated),
        tables.nearest_table(run, evaluated),
        tables.likelihood_table(evaluated),
        tables.class_table(run, evaluated),
    )
    return {
        "prefix": prefix,
        "chapter": chapter,
        "run": run,
        "recipe": run.entries[0].header.recipe,
        "summary": sentences(run),
        "facts": facts(run),
        "times": times(),
        "evaluation": run.evaluation if evaluated else None,
        "protocol": flat((run.evaluation or {}).get("protocol") or {}),
        "curves": tables.curves([("", run)]),
        "tables": [table for table in scores if table],
        "diagnostics": [table for table in diagnostics if table],
        "along": tables.along(evaluated),
        "losses": [_loss_chart(entry) for entry in run.models() if _loss_lines(entry)],
        "last_losses": _last_losses(run),
        "ancestry": lineage_graph(run, prefix),
        "lineage": [_lineage_row(run, entry) for entry in run.entries],
        "costs": _cost_table(run),
        "make": make_line(run),
        "commands": commands(run),
    }


def _loss_lines(entry: Entry) -> list[Series]:
    lines = []
    for style, (key, (name, dashed)) in enumerate(LOSSES.items()):
        points = [(line["step"], line[key]) for line in entry.log if line.get(key) is not None]
        if points:
            lines.append(Series(name, points, style, mark=style if dashed else None, dashed=dashed))
    return lines


def _loss_chart(entry: Entry) -> Chart:
    lines = _loss_lines(entry)
    positive = all(value > 0 for line in lines for _, value in line.points)
    return chart(
        f"Loss of {entry.name}", lines, Axis("optimiser steps"), Axis("loss", log=positive), tell=tell
    )


def _last_losses(run: Run) -> Table | None:
    """Return the losses at the end of every training run, by quarter of t where the log has them."""
    last = {entry.name: entry.log[-1] for entry in run.models() if entry.log}
    keys = [key for key in LOSSES if any(line.get(key) is not None for line in last.values())]
    if not keys:
        return None
    quarters = any(line.get("loss_by_quarter") for line in last.values())
    rows = [
        [
            name,
            f"{line['step']:,}",
            *(_told(line.get(key)) for key in keys),
            *(map(_told, line.get("loss_by_quarter") or [None] * 4) if quarters else ()),
        ]
        for name, line in last.items()
    ]
    head = ["model", "step", *(LOSSES[key][0] for key in keys), *(QUARTERS if quarters else ())]
    return Table("Last losses", head, rows)


def _told(value: float | None) -> str:
    return "" if value is None else tell_zeros(value)


def _lineage_row(run: Run, entry: Entry) -> dict[str, Any]:
    parents = [
        {"role": role, "name": run.name_of(digest), "digest": digest[:SHORT]}
        for role, digest in sorted(entry.header.parents.items())
    ]
    return {
        "name": entry.name,
        "what": STAGES[entry.header.stage] + (", another average" if entry.average else ""),
        "rectification": entry.header.rectification,
        "digest": entry.digest,
        "parents": parents,
    }


def _cost_table(run: Run) -> Table:
    rows = []
    for entry in run.entries:
        work, evaluations = _work(entry)
        seconds = "" if entry.seconds is None else f"{entry.seconds:,.0f}"
        rows.append([entry.name, work, f"{evaluations:,}", seconds, tell(entry.size / 1e6)])
    spent = sum(_work(entry)[1] for entry in run.entries)
    known = [entry.seconds for entry in run.entries if entry.seconds is not None]
    disk = sum(entry.size for entry in run.entries) / 1e6
    rows.append(["in all", "", f"{spent:,}", f"{sum(known):,.0f}" if known else "", tell(disk)])
    head = ["folder", "work", "evaluations", "training, s", "disk, MB"]
    return Table("What each stage cost", head, rows, words=2)


def _work(entry: Entry) -> tuple[str, int]:
    """Return what a stage did, in words, and its network evaluations."""
    if entry.header.kind == "pairs":
        pairs = entry.pair_facts
        count, nfe = pairs.count or 0, pairs.nfe_mean or 0.0
        pilot = int((pairs.pilot or {}).get("evaluations", 0))
        return f"{count:,} pairs, {nfe:.1f} evaluations each", round(count * nfe) + pilot
    if entry.average:
        return f"average of {entry.average}", 0
    spent = training_cost(entry.recipe, entry.header.stage).evaluations
    model = entry.model_facts
    return f"{model.steps:,} optimiser steps, {model.parameters:,} parameters", spent
