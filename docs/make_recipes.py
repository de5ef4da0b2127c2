"""Write docs/recipes.md: every setting of a recipe with its meaning and built-in values."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from reflow.recipes.read import built_in_recipes, read_recipe, settings_table
from reflow.recipes.recipe import ModelSettings, Recipe

HEAD = """# Recipes

A recipe is a TOML file with the settings of all stages; it travels in the header of every artifact.
Built in are {names}. Their comments in
[reflow/recipes](../reflow/recipes) say what was measured and what was taken from which paper.

`reflow inspect NAME` prints the settings of one and estimates what it costs: parameters, multiply-adds,
evaluations and hours of each stage, bytes of pairs. `--rate` is what your hardware sustains, in TFLOP/s
(a training run that logs `images_per_s` sustains 6 times that times the multiply-adds per evaluation).
Without it, hours are those at 0.1 for recipes in float32, as two CPU cores on the digits, and at 50 for
the others. `--set` asks what other settings would cost.

Write your own by copying a built-in one, or change single settings with `--set section.key=value`, where
the value is TOML or a bare word, and `none` takes a setting back to its default. Unknown keys are refused.

What a recipe states in `[distill]` for its own objective (`distance`, `lr`, `intervals`, `instant`) is
dropped when `--objective` or `--set distill.objective=...` selects another one, which also selects its
tuned values; `reflow distill` says which. Settings given beside it win.

"""


NETWORKS = """
## Networks

What stands under `[model]` depends on `model.kind`.
"""


def page() -> str:
    """Return the page."""
    names = built_in_recipes()
    recipes = {name: read_recipe(name) for name in names}
    tables = {name: settings_table(recipe) for name, recipe in recipes.items()}
    values = {name: {key: value for key, value, _ in table} for name, table in tables.items()}
    meanings = {key: meaning for table in tables.values() for key, _, meaning in table}
    rows = [
        (key, *(values[name][key] for name in names), meaning)
        for key, meaning in meanings.items()
        if not key.startswith("model.")
    ]
    head = HEAD.format(names=listed([f"`{name}`" for name in names]))
    return head + table(("setting", *names, "meaning"), rows) + NETWORKS + networks(recipes)


def listed(names: Sequence[str]) -> str:
    """Return names with commas and a last "and"."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def networks(recipes: dict[str, Recipe]) -> str:
    """Return one table per kind of network: defaults, and values in the recipes that have it."""
    parts = []
    for settings in get_args(ModelSettings):
        fields = dict(settings.model_fields)
        (kind,) = get_args(fields.pop("kind").annotation)
        own = {name: recipe.model for name, recipe in recipes.items() if recipe.model.kind == kind}
        rows = [
            (
                f"model.{key}",
                field.default,
                *(getattr(model, key) for model in own.values()),
                field.description,
            )
            for key, field in fields.items()
        ]
        parts.append(
            f'\n### `model.kind = "{kind}"`\n\n' + table(("setting", "default", *own, "meaning"), rows)
        )
    return "".join(parts)


def table(head: Sequence[str], rows: Iterable[tuple[object, ...]]) -> str:
    """Return a table whose first column holds names of settings."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| `{key}` | {' | '.join(map(str, rest))} |" for key, *rest in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("recipes.md").write_text(page(), "utf-8")
