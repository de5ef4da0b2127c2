"""inspect: what an artifact, a stage's directory, a run or a recipe says, and whether it is sound."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reflow.artifacts import (
    MODEL,
    PAIRS,
    SHARDS,
    STATE,
    Header,
    file_digest,
    finite,
    read_artifact,
    read_header,
)
from reflow.artifacts.facts import Average
from reflow.cost import Cost, cost_of
from reflow.data.cache import verify
from reflow.errors import ReflowError, UsageError
from reflow.inputs import open_pairs_watched
from reflow.recipes.read import Overrides, built_in_recipes, read_recipe, settings_table
from reflow.recipes.recipe import Recipe
from reflow.report.run import open_run
from reflow.terminal import aligned, visible

SCHEMA = 1  # of the JSON
CPU_RATE = 0.1  # TFLOP/s: what two cores sustained in training on the digits
GPU_RATE = 50.0  # TFLOP/s, assumed: a sixth of the peak of an A100 in bfloat16
UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
DURATIONS = (("hours", 1.0), ("minutes", 1 / 60), ("seconds", 1 / 3600))  # in hours


def run(path: Path, overrides: Overrides, *, rate: float | None, as_json: bool) -> str:
    """Return the answer for people or, with `as_json`, for machines.

    Raises ReflowError when the path is none of ours or is damaged.
    """
    name = str(path)
    if name in built_in_recipes() or path.suffix == ".toml":
        return _recipe(read_recipe(name, overrides), rate, as_json=as_json)
    if overrides or rate is not None:
        raise UsageError(
            "--set and --rate are for recipes; an existing artifact's settings cannot be changed"
        )
    found = _inspect(path)
    return _json({"artifacts": found}) if as_json else "\n\n".join(_text(entry) for entry in found)


def _inspect(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        raise ReflowError(
            f"{path} does not exist, and there is no recipe of that name; "
            f"recipes are {', '.join(built_in_recipes())}"
        )
    if path.is_dir() and (path / PAIRS).exists():
        pairs = open_pairs_watched(path)
        return [_describe(path, pairs.header, pairs.digest)]
    if path.is_dir() and (path / MODEL).exists():
        return _inspect(path / MODEL)
    if path.is_dir() and (path / STATE).exists():
        return _inspect(path / STATE)
    shards = sorted(path.glob(SHARDS))
    if path.is_dir() and shards:
        return [_unfinished(path, shards)]
    if path.is_dir():
        return [entry for part in open_run(path).entries for entry in _inspect(part.folder)]
    if path.name == PAIRS:
        return _inspect(path.parent)
    header = read_header(path)
    if header.kind == "data":
        header = verify(path)
    else:
        header, _ = read_artifact(path, header.kind)
    return [_describe(path, header, file_digest(path))]


def _unfinished(path: Path, shards: list[Path]) -> dict[str, Any]:
    """Return what is known of pairs without an index, after checking the shards that are there."""
    headers = [read_artifact(shard, "pairs")[0] for shard in shards]
    facts = {"shards": f"{len(shards)} of {int(shards[0].stem.rpartition('-of-')[2])}"}
    known = {key: headers[0].facts[key] for key in ("event", "classes")}
    return _describe(path, replace(headers[0], facts=known | facts), "") | {"complete": False}


def _describe(path: Path, header: Header, digest: str) -> dict[str, Any]:
    return {
        "path": str(path),
        "kind": header.kind,
        "complete": header.kind != "state",
        "stage": header.stage,
        "rectification": header.rectification,
        "sha256": digest,
        "parents": header.parents,
        "facts": header.facts,
        "recipe": header.recipe,
    }


def _text(entry: dict[str, Any]) -> str:
    """Return one artifact in lines; everything was checked to get here."""
    unfinished = "unfinished, what is there is sound; run its command again to finish it"
    state = "complete and sound" if entry["complete"] else unfinished
    recipe, what = entry["recipe"], f"{entry['kind']} of stage {entry['stage']}"
    if entry["rectification"]:
        what += f", {entry['rectification']}-rectified flow"
    lines = [f"{entry['path']}: {what}, {state}", f"  sha256   {entry['sha256']}"]
    lines += [f"  from     {role} {digest}" for role, digest in sorted(entry["parents"].items())]
    lines += [f"  {key:<17} {_brief(key, value)}" for key, value in sorted(entry["facts"].items())]
    if entry["stage"] == "distill":
        lines.append(f"  objective         {recipe['distill'].get('objective', 'regress')}")
    if entry["kind"] == "pairs" and recipe["couple"].get("guidance") is not None:
        lines.append(f"  guidance          {recipe['couple']['guidance']:g}")
    made = f"{recipe['name']}, seed {recipe['seed']}" if "name" in recipe else str(recipe)
    lines.append(f"  recipe            {made}")
    return "\n".join(map(visible, lines))


def _brief(key: str, value: Any) -> str:
    """Return a fact for people: long lists as their lengths, figures of the pilot by name."""
    if key == "plan":
        grids = [value["nodes"], *value.get("finer", [])] if "nodes" in value else []
        steps = ", then ".join(str(len(nodes) - 1) for nodes in grids)
        return f"{value['solver']}, " + (
            f"{steps} steps" if grids else f"tolerance {value['local_tolerance']:.3g} per step"
        )
    if key == "pilot":
        return (
            f"RMS error {value['rms']:.2g} on {value['samples']} samples, max {value['worst']:.2g}, in "
            f"data units; {value['evaluations']} evaluations in all"
        )
    if key == "class_names":
        return f"{len(value)}: {', '.join(value[:10])}{', ...' * (len(value) > 10)}"
    if key == "average":
        return str(Average(**value))
    if key == "nfe_histogram":
        return ", ".join(f"{nfe}: {count}" for nfe, count in value.items())
    return str(value)


def _recipe(recipe: Recipe, given: float | None, *, as_json: bool) -> str:
    """Return the settings of a recipe and, where its data is known well enough, what it costs."""
    rate = given or _usual_rate(recipe)
    try:
        cost, unknown = cost_of(recipe), None
    except ReflowError as error:
        cost, unknown = None, str(error)
    if as_json:
        found = None if cost is None else cost_entry(cost, rate)
        content = {"kind": "recipe", "recipe": recipe.model_dump(mode="json"), "cost": found}
        return _json(content | ({} if unknown is None else {"cost_unknown": unknown}))
    estimate = f"cost: unknown; {unknown}" if cost is None else cost_text(cost, rate)
    if cost is not None and given is None:
        estimate += (
            f"\n(no --rate: {CPU_RATE:g} TFLOP/s, as two CPU cores on the digits, for recipes in float32; "
            f"{GPU_RATE:g},\na sixth of the peak of an A100, for the others)"
        )
    return f"{estimate}\n\n{_columns(settings_table(recipe))}"


def _usual_rate(recipe: Recipe) -> float:
    """Return the rate of what a recipe is for, in TFLOP/s: in float32 a CPU, else a GPU."""
    return CPU_RATE if recipe.train.precision == "float32" else GPU_RATE


def _json(content: dict[str, Any]) -> str:
    return json.dumps(finite({"schema": SCHEMA, **content}), indent=1, sort_keys=True, allow_nan=False)


def cost_text(cost: Cost, rate: float) -> str:
    """Return the estimate in lines, with what it takes for granted; rate: TFLOP/s, sustained."""
    event, classes, assumed = cost.samples
    what = f"{event}" + ("" if classes is None else f" in {classes} classes")
    facts = [
        ("samples", what + (f"; assumed: {', '.join(assumed)}" if assumed else "")),
        ("parameters", f"{cost.network.parameters:,}"),
        ("multiply-adds", f"{_short(cost.network.multiply_adds)} per evaluation, two FLOP each"),
        ("pairs", f"{_short(cost.pair_bytes)}B on disk, {cost.nfe} evaluations each{_if_assumed(cost)}"),
    ]
    rows = [("stage", "examples", "evaluations", "GFLOP", f"at {rate:g} TFLOP/s")]
    rows += [
        (name, f"{examples:,}", *_spent(cost, evaluations, rate))
        for name, examples, evaluations in cost.stages
    ]
    rows.append(("in all", "", *_spent(cost, cost.evaluations, rate)))
    return (
        f"{_columns(facts)}\n\n{_columns(rows)}\n"
        "(a training example costs three evaluations, four with recompute, six with a student that follows"
        "\nits teacher; the rate, --rate, is what the hardware sustains: assumed, not measured)"
    )


def cost_entry(cost: Cost, rate: float) -> dict[str, Any]:
    """Return the estimate as JSON's values; rate: TFLOP/s, sustained."""

    def spent(evaluations: int) -> dict[str, float]:
        gflop, hours = cost.gflop(evaluations), cost.hours(evaluations, rate)
        return {"evaluations": evaluations, "gflop": gflop, "hours": hours}

    return {
        "event": list(cost.samples.event),
        "classes": cost.samples.classes,
        "assumed": [*cost.samples.assumed, *(["nfe"] if cost.nfe_assumed else [])],
        "parameters": cost.network.parameters,
        "multiply_adds": cost.network.multiply_adds,
        "nfe": cost.nfe,
        "pair_bytes": cost.pair_bytes,
        "rate_tflops": rate,
        "stages": {
            stage.name: {"examples": stage.examples} | spent(stage.evaluations) for stage in cost.stages
        },
    } | spent(cost.evaluations)


def _columns(rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(aligned(rows))


def _spent(cost: Cost, evaluations: int, rate: float) -> tuple[str, str, str]:
    hours = cost.hours(evaluations, rate)
    return f"{evaluations:,}", f"{cost.gflop(evaluations):.3g}", _duration(hours)


def _duration(hours: float) -> str:
    """Return a time in the unit that suits it."""
    unit, size = next(((unit, size) for unit, size in DURATIONS if hours >= size), DURATIONS[-1])
    return f"{hours / size:.3g} {unit}"


def _if_assumed(cost: Cost) -> str:
    return " (assumed; with a tolerance the pilot decides)" if cost.nfe_assumed else ""


def _short(count: float) -> str:
    """Return a count with three digits and a unit's prefix."""
    size, prefix = next(((size, prefix) for size, prefix in UNITS if count >= size), (1, ""))
    return f"{count / size:.3g} {prefix}"
