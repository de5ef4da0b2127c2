"""The report as HTML: figures into tables, plots and sentences, then into one template."""

import base64
from dataclasses import dataclass
from typing import Any

import jinja2

from reflow.reporting import plots
from reflow.reporting.run import Entry, Run, tell_average
from reflow.workspace import AVERAGE

DISTANCES = {  # in the order of preference
    "frechet_classifier": "Fréchet distance on classifier features",
    "sliced_wasserstein": "sliced Wasserstein distance",
}
STAGES = {
    "train": "base model",
    "couple": "pairs",
    "reflow": "reflowed model",
    "distill": "distilled model",
}


@dataclass(frozen=True)
class Panel:
    """A picture (PNG bytes) of one model with its caption."""

    name: str
    caption: str
    png: bytes

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def render(
    run: Run,
    *,
    panels: list[Panel],
    flows: list[Panel],
    settings: list[tuple[str, Any, str]],
) -> str:
    """Return the page, complete in itself: no other file, no network."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reflow.reporting", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    evaluated = _by_digest(run)
    metrics = [name for name in DISTANCES if run.evaluation and name in run.evaluation["floor"]]
    logs = {entry.name: _loss_curve(entry) for entry in run.models() if entry.log}
    return environment.get_template("report.html.j2").render(
        title=run.folder.resolve().name,
        recipe=run.entries[0].header.recipe,
        summary=_summary(run, evaluated, metrics),
        panels=panels,
        flows=flows,
        evaluation=run.evaluation,
        metrics=[(name, DISTANCES[name]) for name in metrics],
        figures=_rows(evaluated),
        curves=[_curve_plot(run, evaluated, name) for name in metrics],
        straightness=_straightness(evaluated),
        losses=plots.losses(logs) if logs else None,
        lineage=[_lineage_row(run, entry) for entry in run.entries],
        costs=[_cost_row(entry) for entry in run.entries],
        settings=settings,
    )


def figure(value: float, digits: int = 3) -> str:
    """Return a number with this many significant digits, never in powers of ten above 1."""
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _by_digest(run: Run) -> dict[str, dict[str, Any]]:
    """Return what the evaluation says of the run's own models, by name; others are left out."""
    if run.evaluation is None:
        return {}
    found = {model["sha256"]: model for model in run.evaluation["models"]}
    return {entry.name: found[entry.digest] for entry in run.models() if entry.digest in found}


def _rows(evaluated: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "stage": STAGES[model["stage"]], **figure}
        for name, model in evaluated.items()
        for figure in model["figures"]
    ]


def _curve_plot(run: Run, evaluated: dict[str, dict[str, Any]], metric: str) -> str:
    assert run.evaluation is not None
    curves = {
        name: [(f["nfe"], f[metric]) for f in model["figures"] if f["tolerance"] is None]
        for name, model in evaluated.items()
    }
    floor = run.evaluation["floor"][metric]
    return plots.distance_per_nfe({n: c for n, c in curves.items() if c}, floor, DISTANCES[metric])


def _straightness(evaluated: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    values = [(n, m["straightness"]) for n, m in evaluated.items() if m["straightness"] is not None]
    return [{"name": n, "value": v, "ratio": values[0][1] / v if v > 0 else None} for n, v in values]


def _summary(run: Run, evaluated: dict[str, dict[str, Any]], metrics: list[str]) -> str | None:
    """Return what one evaluation gives, in a sentence with its figures."""
    assert run.evaluation is not None or not metrics
    if not metrics or run.evaluation is None:
        return None
    metric = metrics[0]
    best = {name: min(m["figures"], key=lambda f: f["nfe"]) for name, m in evaluated.items()}
    teacher = next((n for n, m in evaluated.items() if m["stage"] == "train"), None)
    student = next((n for n, m in evaluated.items() if m["student_steps"] is not None), None)
    if teacher is None or student is None:
        return None
    most = max(evaluated[teacher]["figures"], key=lambda f: f["nfe"])
    k = round(best[student]["nfe"])
    return (
        f"With {k} network evaluation{'s' * (k > 1)} per sample the {STAGES['distill']} reaches a "
        f"{DISTANCES[metric]} of {figure(best[student][metric])} to held-out data; the base model needs "
        f"{most['nfe']:.0f} evaluations for {figure(most[metric])} and gives "
        f"{figure(best[teacher][metric])} with {best[teacher]['nfe']:.0f}. "
        f"Real against real is {figure(run.evaluation['floor'][metric])}."
    )


def _loss_curve(entry: Entry) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in entry.log if line["loss"] is not None]


def _lineage_row(run: Run, entry: Entry) -> dict[str, Any]:
    parents = [
        {"role": role, "name": run.name_of(digest), "digest": digest[:12]}
        for role, digest in sorted(entry.header.parents.items())
    ]
    return {
        "name": entry.name,
        "what": STAGES[entry.header.stage] + (", another average" if AVERAGE in entry.header.facts else ""),
        "rectification": entry.header.rectification,
        "digest": entry.digest,
        "parents": parents,
    }


def _cost_row(entry: Entry) -> dict[str, Any]:
    facts = entry.header.facts
    if entry.header.kind == "pairs":
        work = f"{facts['count']} pairs, {facts['nfe_mean']:.1f} evaluations each"
    elif AVERAGE in facts:
        work = f"average of {tell_average(facts[AVERAGE])}"
    else:
        work = f"{facts['steps']} optimiser steps, {facts['parameters']:,} parameters"
    return {
        "name": entry.name,
        "work": work,
        "seconds": entry.seconds,
        "megabytes": entry.size / 1e6,
    }
