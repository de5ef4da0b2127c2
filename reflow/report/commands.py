"""The commands that make a run again, from the headers of its artifacts.

A recipe travels in the headers, so a command names only what it changes of the recipe it starts from.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflow.objectives.lpips import PARENT
from reflow.recipes.read import built_in_recipes, differences, read_recipe
from reflow.recipes.recipe import Recipe
from reflow.report.run import EVALUATION, Entry, Run

FILES = "files"  # the source that headers name for data of the user's own
YOURS, OUTSIDE = "YOUR-DATA", "ELSEWHERE"  # what no header knows
CHAIN = ("base", "pairs", "reflow", "distill")  # the folders of `make all`


def commands(run: Run) -> list[str]:
    """Return the commands in order, the last two for evaluation and report."""
    place = Path("runs") / run.name
    said = [_command(run, entry, place) for entry in run.entries]
    models = [str(place / name) for name in run.evaluated()]
    if models:
        said.append(["reflow", "evaluate", *models, *_data(run), "--out", str(place / EVALUATION)])
    said.append(["reflow", "report", str(place), "--out", str(place / "report.html")])
    return [shlex.join(words) for words in said]


def make_line(run: Run) -> str | None:
    """Return the one command that does it all, where the run is the usual chain."""
    if tuple(entry.name for entry in run.entries) != CHAIN:
        return None
    later = [_changes(run, entry) for entry in run.entries[1:]]
    recipe = run.entries[0].recipe
    changes = _set_words(_from_built_in(recipe))
    if any(later) or recipe.data.source == FILES or any(" " in word for word in changes):
        return None
    words = ["make", "all", f"RECIPE={_recipe_word(recipe)}", f"RUN=runs/{run.name}"]
    chosen = changes[1::2]
    return shlex.join([*words, f"SET={' '.join(chosen)}"] if chosen else words)


def _command(run: Run, entry: Entry, place: Path) -> list[str]:
    out = ["--out", str(place / entry.name)]
    if entry.average:
        return [*_average(run, entry, place), *out]
    return [*STARTS[entry.header.stage](run, entry, place), *out, *_set_words(_changes(run, entry))]


def _train(run: Run, entry: Entry, _place: Path) -> list[str]:
    return ["reflow", "train", _recipe_word(entry.recipe), *_data(run)]


def _couple(run: Run, entry: Entry, place: Path) -> list[str]:
    first = _parent(run, entry, "first-pairs", place)
    against = ["--against", first] if "first-pairs" in entry.header.parents else []
    invert = ["--invert", *_data(run)] if entry.pair_facts.inverted else []
    return ["reflow", "couple", _parent(run, entry, "model", place), *invert, *against]


def _reflow(run: Run, entry: Entry, place: Path) -> list[str]:
    init = _parent(run, entry, "init", place)
    return ["reflow", "train", *_pairs(run, entry, place), "--init", init]


def _distill(run: Run, entry: Entry, place: Path) -> list[str]:
    return ["reflow", "distill", _parent(run, entry, "model", place), *_pairs(run, entry, place)]


STARTS = {"train": _train, "couple": _couple, "reflow": _reflow, "distill": _distill}


def _average(run: Run, entry: Entry, place: Path) -> list[str]:
    """Return how another average of a training run is made: from the model of the same parents."""
    average = entry.average
    assert average is not None
    same = (other for other in run.entries if other.header.parents == entry.header.parents)
    training = next((other.name for other in same if other.average is None), OUTSIDE)
    step, width = str(average.step), f"{average.width:g}"
    return ["reflow", "average", str(place / training), "--width", width, "--step", step]


def _pairs(run: Run, entry: Entry, place: Path) -> list[str]:
    """Return the options that name the pairs of a training run, their weights and the network of LPIPS."""
    roles = sorted(
        (role for role in entry.header.parents if role.split("-")[0] == "pairs"),
        key=lambda role: (len(role), role),
    )
    words = [word for role in roles for word in ("--pairs", _parent(run, entry, role, place))]
    if weights := entry.model_facts.weights:
        words += ["--weights", ",".join(f"{weight:.6g}" for weight in weights)]
    return [*words, "--perceptual", OUTSIDE] if PARENT in entry.header.parents else words


def _parent(run: Run, entry: Entry, role: str, place: Path) -> str:
    name = run.name_of(entry.header.parents.get(role, ""))
    return OUTSIDE if name is None else str(place / name)


def _data(run: Run) -> list[str]:
    """Return the option that names data of the user's own."""
    return ["--data", YOURS] if run.models()[0].recipe.data.source == FILES else []


def _recipe_word(recipe: Recipe) -> str:
    return recipe.name if recipe.name in built_in_recipes() else f"{recipe.name}.toml"


def _changes(run: Run, entry: Entry) -> dict[str, Any]:
    """Return the settings in which an artifact differs from what it was made from, by dotted name."""
    if entry.header.stage == "train":
        return _from_built_in(entry.recipe)
    digests = set(entry.header.parents.values())
    before = next((other for other in run.models() if other.digest in digests), None)
    return {} if before is None else differences(before.recipe, entry.recipe)


def _from_built_in(recipe: Recipe) -> dict[str, Any]:
    if recipe.name not in built_in_recipes():
        return {}
    changes = differences(read_recipe(recipe.name), recipe)
    if recipe.data.source == FILES:
        del changes["data.source"]
    return changes


def _set_words(changes: dict[str, Any]) -> list[str]:
    return [word for name, value in changes.items() for word in ("--set", f"{name}={_toml(value)}")]


def _toml(value: Any) -> str:
    """Return a value as --set reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(_toml(item) for item in value)}]"
    return str(value)
