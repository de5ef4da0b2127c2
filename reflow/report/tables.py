"""What an evaluation holds, as tables and charts; a figure that it lacks leaves no trace.

`evaluated` are a run's models as the evaluation describes them, by name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflow.evaluation.results import FLOOR, SPREAD
from reflow.report.charts import Axis, Chart, Series, chart
from reflow.report.numbers import milliseconds, tell, tell_error, tell_zeros
from reflow.report.run import Run

Evaluated = Mapping[str, dict[str, Any]]

STAGES = {
    "train": "base model",
    "couple": "pairs",
    "reflow": "reflowed model",
    "distill": "distilled model",
}
FEATURES = {"frechet_": "Fréchet distance", "kernel_": "kernel distance"}  # by what their names begin with
OTHERS = {  # fid and kid are those on the Inception network alone
    "fid": "FID",
    "kid": "KID",
    "sliced_wasserstein": "sliced Wasserstein distance",
}
SECONDS = "seconds_per_image"
COVERAGE = {
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "spread": "spread",
}
FLOW = ("curvature", "crossing")
COSTS = {
    "model": "transport cost",
    "independent": "cost of independent pairs",
    "optimal": "least possible cost",
}
ALONG = {
    "straightness_over_t": "Distance from straight lines along the way",
    "divergence_over_t": "Divergence of the velocity along the way",
}
NFE = "network evaluations per sample"


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; the first `words` columns are words, the others numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


def words_of(distance: str) -> str:
    """Return what a distance is called."""
    for start, words in FEATURES.items():
        if distance.startswith(start):
            return f"{words} on {distance.removeprefix(start)} features"
    return OTHERS[distance]


def distances_of(evaluation: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the distances in an evaluation, the first one the one to look at."""
    if evaluation is None:
        return []
    known = [name for name in evaluation["floor"] if not name.endswith(SPREAD)]
    on_features = [name for start in FEATURES for name in known if name.startswith(start)]
    return [*on_features, *(name for name in OTHERS if name in known)]


def judged(run: Run) -> tuple[dict[str, Any], Evaluated, str] | None:
    """Return the evaluation, the run's models in it and the distance to look at; None if it lacks any."""
    evaluated, names = run.evaluated(), distances_of(run.evaluation)
    if run.evaluation is None or not evaluated or not names:
        return None
    return run.evaluation, evaluated, names[0]


def fixed(model: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the figures of a model on fixed grids; none of a model that was not evaluated."""
    return [found for found in (model or {"figures": []})["figures"] if found["tolerance"] is None]


def ladder(model: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the figures of one solver, the first, on fixed grids, by rising evaluations."""
    grids = fixed(model)
    return sorted((f for f in grids if f["solver"] == grids[0]["solver"]), key=lambda f: f["nfe"])


def fewest(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the fewest evaluations."""
    found: dict[str, Any] = min(model["figures"], key=lambda figures: figures["nfe"])
    return found


def most(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the most evaluations."""
    found: dict[str, Any] = max(model["figures"], key=lambda figures: figures["nfe"])
    return found


def distance_table(run: Run, evaluated: Evaluated) -> Table | None:
    """Return all distances per number of evaluations."""
    names = distances_of(run.evaluation)
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        (name, words_of(name), tell_zeros) for name in names
    ]
    if any(SECONDS in found for model in evaluated.values() for found in model["figures"]):
        columns.append((SECONDS, "ms per sample", milliseconds))
    return _per_evaluation(run, evaluated, "Distances to held-out data", columns)


def coverage_table(run: Run, evaluated: Evaluated) -> Table | None:
    """Return precision, recall and what else says which part of the data is covered."""
    if run.evaluation is None:
        return None
    columns = [(name, words, _share) for name, words in COVERAGE.items() if name in run.evaluation["floor"]]
    return _per_evaluation(run, evaluated, "How samples cover the held-out data", columns)


def curves(runs: Sequence[tuple[str, Run]]) -> list[Chart]:
    """Return a chart of distance per evaluation for each distance that all the runs have.

    A run has a name to stand before those of its models, or "".
    """
    found = [(name, run) for name, run in runs if run.evaluated()]
    common = [
        name
        for name in distances_of(found[0][1].evaluation if found else None)
        if all(name in distances_of(run.evaluation) for _, run in found)
    ]
    return [
        _curve(name, found)
        for name in common
        if any(_curve_of(m, name) for _, run in found for m in run.evaluated().values())
    ]


def straightness_table(evaluated: Evaluated) -> Table | None:
    """Return how straight the flows are, and what else is known of them."""
    known = {name: model for name, model in evaluated.items() if model["straightness"] is not None}
    if not known:
        return None
    first = next(iter(known.values()))["straightness"]
    flows = [model.get("flow") or {} for model in known.values()]
    extra = [key for key in FLOW if any(key in flow for flow in flows)]
    costs = [key for key in COSTS if any(key in (flow.get("transport_cost") or {}) for flow in flows)]
    rows = []
    for number, ((name, model), flow) in enumerate(zip(known.items(), flows, strict=True)):
        value, errors = model["straightness"], flow.get("errors") or {}
        ratio = tell_zeros(first / value) if number and value > 0 else ""
        told = [_measured({"mean": flow.get(key), "error": errors.get(key)}) for key in extra]
        told += [_measured((flow.get("transport_cost") or {}).get(key)) for key in costs]
        rows.append([name, tell_zeros(value), ratio, *told])
    head = ["model", "straightness", "times straighter", *extra, *(COSTS[key] for key in costs)]
    return Table("Straightness of the flows", head, rows)


def along(evaluated: Evaluated) -> list[Chart]:
    """Return what is known of the flows over t."""
    flows = {name: model["flow"] for name, model in evaluated.items() if model.get("flow")}
    charts = []
    for key, title in ALONG.items():
        lines = [
            Series(name, points, number)
            for number, (name, flow) in enumerate(flows.items())
            if (points := _known(zip(flow["times"], flow.get(key) or [], strict=False)))
        ]
        if lines:
            axis = Axis("t, from noise (0) to data (1)", ticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
            charts.append(chart(title, lines, axis, Axis(title), tell=tell))
    return charts


def nearest_table(run: Run, evaluated: Evaluated) -> Table | None:
    """Return how far samples are from the nearest training samples, beside held-out data."""
    if run.evaluation is None or "nearest_training" not in run.evaluation:
        return None
    found = {name: model.get("nearest_training") for name, model in evaluated.items()}
    found["held-out data"] = run.evaluation["nearest_training"]["held_out"]
    rows = [
        [name, tell_zeros(near["median"]), tell_zeros(near["fifth_percentile"])]
        for name, near in found.items()
        if near
    ]
    return Table("RMS distance to the nearest training sample", ["", "median", "5th percentile"], rows)


def class_table(run: Run, evaluated: Evaluated) -> Table | None:
    """Return the share of each class among the samples, as a classifier sees them."""
    found = {name: shares for name, model in evaluated.items() if (shares := _shares(model.get("classes")))}
    real = _shares((run.evaluation or {}).get("classes"))
    if real:
        found["held-out data"] = real
    if not found:
        return None
    names = list(next(iter(found.values())))
    rows = [[name, *(f"{100 * shares.get(name, 0):.1f} %" for shares in found.values())] for name in names]
    return Table("Share of each class", ["class", *found], rows)


def likelihood_table(evaluated: Evaluated) -> Table | None:
    """Return likelihoods of held-out data, with their errors."""
    found = {name: model["likelihood"] for name, model in evaluated.items() if model.get("likelihood")}
    if not found:
        return None
    keys = [
        key
        for key in next(iter(found.values()))
        if any(_measured(each.get(key)) for each in found.values())
    ]
    rows = [[name, *(_measured(each.get(key)) for key in keys)] for name, each in found.items()]
    return Table("Likelihood of held-out data", ["model", *(key.replace("_", " ") for key in keys)], rows)


def _per_evaluation(
    run: Run, evaluated: Evaluated, caption: str, columns: Sequence[tuple[str, str, Callable[[float], str]]]
) -> Table | None:
    """Return a row per model and number of evaluations, and one of real data."""
    if run.evaluation is None or not evaluated or not columns:
        return None

    def cells(found: Mapping[str, Any]) -> list[str]:
        return [_with_error(found, name, told) for name, _, told in columns]

    rows = []
    for name, model in evaluated.items():
        for found in model["figures"]:
            how = f", tolerance {found['tolerance']:g}" if found["tolerance"] else ""
            rows.append([name, f"{found['solver']}{how}", tell(found["nfe"]), *cells(found)])
    rows.append([FLOOR, "", "", *cells(run.evaluation["floor"])])
    return Table(caption, ["model", "solver", "NFE", *(head for _, head, _ in columns)], rows, words=2)


def error_of(found: Mapping[str, Any], name: str) -> float | None:
    """Return the standard error of a figure, where it is known."""
    error: float | None = (found.get("noise") or {}).get(name)
    return error


def _with_error(found: Mapping[str, Any], name: str, told: Callable[[float], str]) -> str:
    if found.get(name) is None:
        return ""
    error = error_of(found, name)
    return f"{told(found[name])} ± {tell_zeros(error, 2)}" if error else told(found[name])


def _known(points: Iterable[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """Return the points whose figure is known."""
    return [(x, y) for x, y in points if y is not None]


def _curve_of(model: Mapping[str, Any], metric: str) -> list[tuple[float, float]]:
    """Return a distance of a model per number of evaluations."""
    return _known((f["nfe"], f.get(metric)) for f in ladder(model))


def _curve(metric: str, runs: Sequence[tuple[str, Run]]) -> Chart:
    lines, floors = [], []
    for number, (prefix, run) in enumerate(runs):
        assert run.evaluation is not None
        floors.append(run.evaluation["floor"][metric])
        for place, (name, model) in enumerate(run.evaluated().items()):
            if points := _curve_of(model, metric):
                style = number if prefix else place
                dashed = bool(prefix) and place > 0
                lines.append(Series(f"{prefix}{name}", points, style, mark=place, dashed=dashed))
    x = Axis(NFE, log=True, ticks=sorted({nfe for line in lines for nfe, _ in line.points}))
    values = [value for line in lines for _, value in line.points]
    words = words_of(metric)
    y = Axis(words, log=min(values) > 0)  # an unbiased estimate may be below zero
    same = len(set(floors)) == 1 and floors[0] is not None and (floors[0] > 0 or not y.log)
    title = words[0].upper() + words[1:]
    return chart(title, lines, x, y, rule=(FLOOR, floors[0]) if same else None, tell=tell)


def _measured(value: Any) -> str:
    """Return a number, or a mean with its error."""
    if isinstance(value, Mapping) and isinstance(value.get("mean"), int | float):
        return tell_error(value["mean"], value.get("error"), 4)
    if isinstance(value, str):
        return value
    return tell(value, 4) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _shares(classes: Mapping[str, float] | None) -> dict[str, float]:
    return dict(classes or {})


def _share(value: float) -> str:
    return f"{value:.3f}"
