"""Several runs beside each other: their summary figures, their curves, and why they may not compare."""

from collections.abc import Mapping
from typing import Any

from reflow.report import tables
from reflow.report.numbers import tell, tell_zeros
from reflow.report.run import Run
from reflow.report.summary import base_model, last_model, times_straighter
from reflow.report.tables import Table

HEAD = (
    *("run", "recipe", "NFE", "distance", "of the base model", "with NFE", "floor"),
    *("times straighter", "recall", "training, s", "disk, MB"),
)


def comparison_of(runs: Mapping[str, Run]) -> dict[str, Any]:
    """Return what the template shows before the runs, which have names of their own."""
    table = Table("The runs side by side", HEAD, [_row(name, run) for name, run in runs.items()], words=2)
    curves = tables.curves([(f"{name}/", run) for name, run in runs.items()])
    return {"table": table, "curves": curves, "doubts": _doubts(runs)}


def _row(name: str, run: Run) -> list[str]:
    seconds = [entry.seconds for entry in run.models() if entry.seconds is not None]
    return [
        name,
        run.entries[0].recipe.name,
        *_evaluated(run),
        f"{sum(seconds):,.0f}" if seconds else "",
        tell(sum(entry.size for entry in run.entries) / 1e6),
    ]


def _evaluated(run: Run) -> list[str]:
    """Return the cells that come from the evaluation."""
    if (known := tables.judged(run)) is None:
        return [""] * 7
    evaluation, evaluated, metric = known
    base = base_model(evaluated)
    few = tables.fewest(evaluated[last_model(evaluated)])
    many = None if base is None else tables.most(evaluated[base])
    ratio = times_straighter(evaluated)
    return [
        tell(few["nfe"]),
        tell_zeros(few[metric]),
        "" if many is None else tell_zeros(many[metric]),
        "" if many is None else tell(many["nfe"]),
        tell_zeros(evaluation["floor"][metric]),
        "" if ratio is None else tell(ratio),
        f"{few['recall']:.3f}" if few.get("recall") is not None else "",
    ]


def _doubts(runs: Mapping[str, Run]) -> list[str]:
    """Return why figures of the runs cannot be compared."""
    found = {name: run.evaluation if run.evaluated() else None for name, run in runs.items()}
    doubts = [f"{name} has no evaluation of its models." for name, value in found.items() if value is None]
    known = [evaluation for evaluation in found.values() if evaluation is not None]
    if len({evaluation["data"] for evaluation in known}) > 1:
        doubts.append("The held-out data differ, so distances cannot be compared.")
    if len({(evaluation["features"] or {}).get("sha256") for evaluation in known}) > 1:
        doubts.append("Features come from different weights, so distances on them cannot be compared.")
    if len({evaluation["samples"] for evaluation in known}) > 1:
        doubts.append("The numbers of samples differ, on which distances depend.")
    return doubts
