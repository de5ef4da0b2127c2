"""Write docs/recipes.md: every setting of a recipe with its meaning and built-in values."""

from pathlib import Path

from reflow.config import built_in_recipes, read_recipe, settings_table

HEAD = """# Recipes

A recipe is a TOML file with the settings of all stages; it travels in the header of every artifact.
Built in are {names}; `reflow inspect NAME` prints one. Write your own by copying
[one of them](../reflow/recipes), or change single settings with `--set section.key=value`, where the
value is TOML or a bare word, and `none` takes a setting back to its default. Unknown keys are refused.

"""


def page() -> str:
    """Return the page; a dash stands where a recipe has no such setting."""
    names = built_in_recipes()
    tables = {name: settings_table(read_recipe(name)) for name in names}
    meanings = {key: meaning for table in tables.values() for key, _, meaning in table}
    values = {name: {key: value for key, value, _ in table} for name, table in tables.items()}
    lines = ["| setting | " + " | ".join(names) + " | meaning |", "|---|" + "---|" * (len(names) + 1)]
    for key in meanings:
        shown = " | ".join(str(values[name].get(key, "-")) for name in names)
        lines.append(f"| `{key}` | {shown} | {meanings[key]} |")
    return HEAD.format(names=" and ".join(f"`{name}`" for name in names)) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("recipes.md").write_text(page(), "utf-8")
