"""How two evaluations differ, beside what differs by chance.

The noise of a difference is the root of the sum of both squared standard errors, which come from the number
of samples. Both evaluations have the same noise and held-out data by number, so it is rather too large.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reflow.errors import ReflowError
from reflow.evaluation.results import figures_of, method_of, number
from reflow.recipes.read import flat
from reflow.terminal import aligned, visible

ERRORS = 2.0  # standard errors within which a difference is none
CHANCE = "≈"
LEGEND = f"second minus first ± standard error; {CHANCE}: less than {ERRORS:g} standard errors, hence noise"

Result = dict[str, Any]
Entry = Mapping[str, Any]


def compared(first: Entry, second: Entry, paths: tuple[Path, Path]) -> Result:
    """Return the differences of two evaluations, by model and by method.

    Raises ReflowError when they were made by different protocols, or have no model in common.
    """
    apart = _protocols_apart(first, second)
    if apart:
        raise ReflowError(
            f"{paths[0]} and {paths[1]} cannot be compared, for they differ in {', '.join(apart)}; "
            "evaluate both in the same way"
        )
    pairs = _pairs(first["models"], second["models"])
    if not pairs:
        raise ReflowError(f"{paths[0]} and {paths[1]} have no model in common, by digest or name of folder")
    return {
        "first": str(paths[0]),
        "second": str(paths[1]),
        "models": [
            {
                "first": a["path"],
                "second": b["path"],
                "same": a["sha256"] == b["sha256"],
                **_differences(a, b),
            }
            for a, b in pairs
        ],
        "only_first": _left(first["models"], [a for a, _ in pairs]),
        "only_second": _left(second["models"], [b for _, b in pairs]),
    }


def to_text(result: Entry) -> str:
    """Return the differences as lines for a terminal."""
    names = list(dict.fromkeys(n for model in result["models"] for f in model["figures"] for n in f["of"]))
    rows = [["model", "NFE", "solver", *names]]
    for model in result["models"]:
        for figure in model["figures"]:
            cells = [_cell(figure["of"][name]) if name in figure["of"] else "" for name in names]
            rows.append([_title(model), f"{figure['nfe']:.4g}", method_of(figure), *cells])
    lines = [f"first: {result['first']}", f"second: {result['second']}", *LEGEND.splitlines(), ""]
    lines += aligned(rows, left=(0, 2))
    for model in result["models"]:
        if (both := model["straightness"]) is not None:
            lines.append(f"straightness of {_title(model)}: {both[0]:.4g}, then {both[1]:.4g}")
    for which in ("first", "second"):
        lines += [f"only in the {which}: {path}" for path in result[f"only_{which}"]]
    return "\n".join(map(visible, lines))


def _protocols_apart(first: Entry, second: Entry) -> list[str]:
    """Return the names of what has to be equal and is not."""
    told = [flat({key: one[key] for key in ("protocol", "features")}) for one in (first, second)]
    return sorted(name for name in told[0] | told[1] if told[0].get(name) != told[1].get(name))


def _pairs(first: Sequence[Entry], second: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Return which models are compared: the same, else those of a folder's name, else the only ones."""
    pairs: list[tuple[Entry, Entry]] = []
    left = list(second)
    for key in ("sha256", "folder"):
        for a in first:
            b = next((b for b in left if _value(a, key) == _value(b, key)), None)
            if b is not None and not any(a is one for one, _ in pairs):
                pairs.append((a, b))
                left.remove(b)
    if not pairs and len(first) == len(second) == 1:
        return [(first[0], second[0])]
    return sorted(pairs, key=lambda pair: [a is pair[0] for a in first].index(True))


def _value(model: Entry, key: str) -> str:
    if key == "sha256":
        return str(model["sha256"])
    path = Path(model["path"])
    return path.parent.name if path.suffix else path.name


def _differences(a: Entry, b: Entry) -> Result:
    known = {_method(figure): figure for figure in a["figures"]}
    figures = [
        {
            "nfe": after["nfe"],
            "solver": after["solver"],
            "tolerance": after["tolerance"],
            "of": {name: _difference(before, after, name) for name in figures_of(after) if name in before},
        }
        for after in b["figures"]
        if (before := known.get(_method(after))) is not None
    ]
    straight = a["straightness"], b["straightness"]
    return {"figures": figures, "straightness": None if None in straight else list(straight)}


def _method(figure: Entry) -> tuple[Any, ...]:
    """Return what makes two figures of the same kind; at a tolerance evaluations are counted."""
    tolerance = figure["tolerance"]
    return figure["solver"], tolerance, round(figure["nfe"]) if tolerance is None else None


def _difference(before: Entry, after: Entry, name: str) -> Result:
    """Return both values, their difference and its noise: None where they cannot be told."""
    errors = [figure["noise"].get(name) for figure in (before, after)]
    noise = None if None in errors else math.hypot(*errors)
    if before[name] is None or after[name] is None:
        nothing = {"difference": None, "noise": noise, "within_noise": False}
        return {"first": before[name], "second": after[name], **nothing}
    difference = after[name] - before[name]
    within = difference == 0 or (noise is not None and abs(difference) < ERRORS * noise)
    return {
        "first": before[name],
        "second": after[name],
        "difference": difference,
        "noise": noise,
        "within_noise": within,
    }


def _cell(found: Entry) -> str:
    if found["difference"] is None:
        return number(None)
    noise = "" if found["noise"] is None else f" ± {found['noise']:.1g}"
    return f"{found['difference']:+.3g}{noise} {CHANCE if found['within_noise'] else ' '}"


def _title(model: Entry) -> str:
    if model["first"] == model["second"]:
        return str(model["first"])
    return f"{model['first']} > {model['second']}"


def _left(models: Sequence[Entry], paired: Sequence[Entry]) -> list[str]:
    return [model["path"] for model in models if not any(model is one for one in paired)]
