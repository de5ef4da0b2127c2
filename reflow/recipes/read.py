"""Recipes: reading them, changing single settings, and saying what is wrong in one line.

Unknown keys are refused with the nearest known one. This module does not import torch.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pydantic import ValidationError

from reflow.errors import ReflowError, UsageError
from reflow.recipes.fields import Settings
from reflow.recipes.recipe import MODEL_KINDS, GuidanceSettings, ModelSettings, Recipe, SolverSettings
from reflow.recipes.training import OF_AN_OBJECTIVE

Overrides = Mapping[str, Any]  # values by dotted name; None takes a setting back to its default
NONE: Overrides = MappingProxyType({})


def built_in_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    files = resources.files("reflow.recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_recipe(name_or_path: str, overrides: Overrides = NONE) -> Recipe:
    """Return the recipe of a built-in name or a .toml path, with some settings changed.

    What the recipe chose for its objective of [distill] is left behind by another objective, unless the
    overrides say otherwise.
    """
    if name_or_path in built_in_recipes():
        text = (resources.files("reflow.recipes") / f"{name_or_path}.toml").read_text("utf-8")
    elif name_or_path.endswith(".toml"):
        try:
            text = Path(name_or_path).read_text("utf-8")
        except OSError as error:
            why = error.strerror or error
            raise ReflowError(f"recipe {name_or_path} cannot be read ({why}); give another path") from error
        except UnicodeDecodeError as error:
            why = f"is not text in UTF-8 ({error.reason}); save it as such"
            raise ReflowError(f"recipe {name_or_path} {why}") from error
    else:
        raise UsageError(
            f"{name_or_path!r}: there is no recipe of that name; "
            f"give one of {', '.join(built_in_recipes())} or the path of a .toml file"
        )
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ReflowError(f"recipe {name_or_path} is not TOML: {error}") from error
    content.setdefault("name", Path(name_or_path).stem)
    return parse_recipe(content, overrides, f"recipe {name_or_path}")


def parse_recipe(content: dict[str, Any], overrides: Overrides = NONE, origin: str = "recipe") -> Recipe:
    """Return the validated recipe of a nested dict; `origin` names it in messages."""
    content = json.loads(json.dumps(content, default=str))
    for name, value in _objective_first(overrides):
        _apply(content, name, value)
    try:
        return Recipe.model_validate_json(json.dumps(content))
    except ValidationError as error:
        if overrides:
            raise UsageError(f"{origin} with --set: {_explain(error)}") from error
        raise ReflowError(f"{origin}: {_explain(error)}") from error


def override(recipe: Recipe, overrides: Overrides) -> Recipe:
    """Return the recipe with some settings changed."""
    return parse_recipe(recipe.model_dump(mode="json"), overrides, f"recipe {recipe.name}")


def differences(before: Recipe, after: Recipe) -> dict[str, Any]:
    """Return by dotted name the settings that make one recipe the other; None takes one back."""
    content = before.model_dump(mode="json")
    _change_objective(content["distill"], after.distill.objective)
    old, new = flat(content), flat(after.model_dump(mode="json"))
    names = sorted(old.keys() | new.keys())
    return {name: new.get(name) for name in names if old.get(name) != new.get(name)}


def with_source(recipe: Recipe, source: str) -> Recipe:
    """Return the recipe with other data: a built-in name or a path."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})})


def solver_settings(
    solver: str, *, steps: int | None, tolerance: float | None, grid: str | None = None
) -> SolverSettings:
    """Return the settings of a solver, checked."""
    content = {"solver": solver, "steps": steps, "tolerance": tolerance, "grid": grid}
    try:
        return SolverSettings.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"--solver: {_explain(error)}") from error


def guidance_settings(scale: float | None, interval: Sequence[float] | None = None) -> GuidanceSettings:
    """Return the settings of guidance, at every t or in an interval of it, checked."""
    content = {"guidance": scale} | ({} if interval is None else {"guidance_interval": tuple(interval)})
    try:
        return GuidanceSettings.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"--guidance: {_explain(error)}") from error


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested dict by dotted name."""
    named: dict[str, Any] = {}
    for key, value in content.items():
        named |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return named


def settings_table(recipe: Recipe) -> list[tuple[str, Any, str]]:
    """Return (dotted key, value, meaning) of every setting of a recipe."""
    rows: list[tuple[str, Any, str]] = []
    for name, field in Recipe.model_fields.items():
        value = getattr(recipe, name)
        if isinstance(value, Settings):
            rows += [
                (f"{name}.{key}", getattr(value, key), inner.description or "what the model is")
                for key, inner in type(value).model_fields.items()
            ]
        else:
            rows.append((name, value, field.description or ""))
    return rows


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Return the values of `section.key=value` texts by name; of several for one name the last counts.

    A value is TOML, or a bare word; `none` takes the setting back to its default.
    """
    overrides: dict[str, Any] = {}
    for text in texts:
        name, equals, written = text.partition("=")
        *sections, key = name.strip().split(".")
        if not equals or not key or len(sections) > 1:
            raise UsageError(f"--set {text}: write it as section.key=value")
        try:
            value = tomllib.loads(f"value = {written}")["value"]
        except tomllib.TOMLDecodeError:
            value = written.strip()
        overrides[name.strip()] = None if value == "none" else value
    return overrides


def known_settings() -> list[str]:
    """Return the settings of all sections by dotted name."""
    return [key for section in Recipe.model_fields for key in _known_keys((section, ""))]


def unread(overrides: Overrides, section: str) -> list[str]:
    """Return which overrides are of training sections other than the one that a stage reads."""
    others = {"train", "reflow", "distill"} - {section}
    return [name for name in overrides if name.partition(".")[0] in others]


def _apply(content: dict[str, Any], name: str, value: Any) -> None:
    """Change one setting; None takes it back to its default."""
    section, _, key = name.rpartition(".")
    value = json.loads(json.dumps(value, default=str))
    if section:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise UsageError(f"--set {name}: {section} is a value, not a section")
    if name == "model.kind" and value in MODEL_KINDS:
        _keep_common(content, str(value))
    if name == "distill.objective":
        _change_objective(content, "regress" if value is None else value)
    if value is None:
        content.pop(key, None)
    else:
        content[key] = value


def _objective_first(overrides: Overrides) -> list[tuple[str, Any]]:
    """Return overrides, the objective of [distill] first: what they say of its settings wins."""
    return sorted(overrides.items(), key=lambda item: item[0] != "distill.objective")


def _change_objective(distill: dict[str, Any], objective: object) -> None:
    """Take away what the recipe chose for its own objective if another one is asked for."""
    if objective != distill.get("objective", "regress"):
        for name in OF_AN_OBJECTIVE:
            distill.pop(name, None)


def _keep_common(model: dict[str, Any], kind: str) -> None:
    """Leave of the settings of a network those that another kind has, too."""
    fields = get_args(ModelSettings)[MODEL_KINDS.index(kind)].model_fields
    for key in model.keys() - fields.keys():
        del model[key]


def _explain(error: ValidationError) -> str:
    """Return the first problem in one line, with the nearest key for an unknown one."""
    problem = error.errors()[0]
    location = [part for part in problem["loc"] if part not in MODEL_KINDS]
    place = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        owners = [key for key in known_settings() if key.partition(".")[2] == place]
        if owners:
            return f"unknown key {place}; write {' or '.join(owners)}"
        near = difflib.get_close_matches(place, _known_keys(problem["loc"]), n=1, cutoff=0)
        return f"unknown key {place}; the nearest known key is {near[0]}"
    if problem["type"] == "missing":
        return f"{place} is missing"
    if problem["type"] == "value_error":
        return f"{place}: {problem['ctx']['error']}".removeprefix(": ")
    return f"{place} = {json.dumps(problem['input'])}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that could stand at the location of an unknown one."""
    section, *rest = location
    if not rest:
        return list(Recipe.model_fields)
    annotation = Recipe.model_fields[str(section)].annotation
    choices = [c for c in (annotation, *get_args(annotation)) if isinstance(c, type)]
    tag = rest[0]
    models = [c for c in choices if issubclass(c, Settings) and _accepts(c, tag, len(rest))]
    return [f"{section}.{key}" for model in models for key in model.model_fields]


def _accepts(model: type[Settings], tag: int | str, depth: int) -> bool:
    kind = model.model_fields.get("kind")
    return kind is None or depth == 1 or get_args(kind.annotation) == (tag,)
