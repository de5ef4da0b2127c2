"""An evaluation: as it is written, read again and printed."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reflow.artifacts import finite
from reflow.errors import ReflowError
from reflow.terminal import aligned, visible

FLOOR = "real (floor)"  # training data against held-out data
HIDDEN = ("samples", "draws", "noise")  # of an entry: no figures
SPREAD = "_spread"  # ends the names of figures that say how another one scatters
TIMES = ".times.json"
SCHEMA = 2


def to_json(result: Mapping[str, Any]) -> str:
    """Return the result as it is written."""
    return json.dumps(finite(result), indent=1, allow_nan=False)


def times_beside(out: Path) -> Path:
    """Return where the times of an evaluation go, which differ from run to run."""
    return out.with_name(out.stem + TIMES)


def figures_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the names of the figures in an entry that are shown, in order."""
    known = [name for name in entry if name not in (*HIDDEN, "nfe", "solver", "tolerance")]
    return [name for name in known if not name.endswith(SPREAD)]


def method_of(figure: Mapping[str, Any]) -> str:
    """Return how samples were drawn, in words."""
    tolerance = figure["tolerance"]
    return figure["solver"] if tolerance is None else f"{figure['solver']} {tolerance:g}"


def to_table(result: Mapping[str, Any]) -> str:
    """Return the figures as lines for a terminal."""
    floor, models = result["floor"], result["models"]
    names = figures_of(floor)
    rows = [["model", "NFE", "solver", *names]]
    for model in models:
        for found in model["figures"]:
            rows.append([model["path"], f"{found['nfe']:.4g}", method_of(found), *_cells(found, names)])
    rows.append([FLOOR, "", "", *_cells(floor, names)])
    lines = aligned(rows, left=(0, 2))
    for model in models:
        if model["straightness"] is not None:
            lines.append(f"straightness of {model['path']}: {number(model['straightness'])}")
        if (known := model.get("likelihood")) is not None:
            lines.append(f"likelihood of held-out data by {model['path']}: {_likelihood(known)}")
    for name, near in (
        *((model["path"], model["nearest_training"]) for model in models),
        ("held-out data", result["nearest_training"]["held_out"]),
    ):
        lines.append(
            f"nearest training sample of {name}: RMS {number(near['median'])} (median), "
            f"{number(near['fifth_percentile'])} (5th percentile)"
        )
    return "\n".join(map(visible, lines))


def _likelihood(known: Mapping[str, Any]) -> str:
    """Return the likelihood in words, with its standard error over samples."""
    bits = known["bits_per_dimension"]
    value, unit = (known["nats"], "nats") if bits is None else (bits, "bits per dimension")
    error = number(value["error"], ".2g")
    return f"{number(value['mean'])} ± {error} {unit} ({known['samples']} samples)"


def _cells(entry: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [number(entry[name]) for name in names]


def number(value: float | None, form: str = ".4g") -> str:
    """Return a figure in few digits, or that there is none."""
    return "n/a" if value is None else format(value, form)


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return what reflow evaluate wrote."""
    try:
        content: dict[str, Any] = finite(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise ReflowError(
            f"{path} cannot be read ({error.strerror or error}); give a file that reflow evaluate wrote"
        ) from error
    except ValueError as error:
        raise ReflowError(f"{path} is not JSON; run reflow evaluate again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ReflowError(f"{path} is not an evaluation of schema {SCHEMA}; make it with reflow evaluate")
    return content


def with_times(evaluation: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return an evaluation whose figures have the seconds per image that were measured with them."""
    try:
        found = json.loads(path.read_text("utf-8"))
        seconds = {
            (model["sha256"], _method(figures)): figures["seconds_per_image"]
            for model in found["models"]
            for figures in model["figures"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ReflowError(f"{path} holds no times of an evaluation; remove it") from error
    for model in evaluation["models"]:
        for figures in model["figures"]:
            if (key := (model["sha256"], _method(figures))) in seconds:
                figures["seconds_per_image"] = seconds[key]
    return evaluation


def _method(figures: dict[str, Any]) -> tuple[Any, ...]:
    return figures["nfe"], figures["solver"], figures["tolerance"]
