"""Recipes are strict, complete and documented; messages name the nearest key."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Command, one_line
from files import folder

from reflow.cost import samples_of
from reflow.errors import ReflowError
from reflow.models import build, load_model
from reflow.recipes.read import (
    built_in_recipes,
    override,
    parse_overrides,
    read_recipe,
    settings_table,
    unread,
)

ROOT = Path(__file__).parents[2]


OWN = [name for name in built_in_recipes() if read_recipe(name).data.source == "files"]


@pytest.mark.parametrize("name", built_in_recipes())
def test_built_in_recipes_build_for_their_data(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    event, classes, assumed = samples_of(recipe.data, recipe.model)
    assert not assumed  # size and mode are set where the data is the user's own
    with torch.device("meta"):
        net = build(recipe.model, event, classes, unconditional=recipe.train.label_dropout > 0)
    assert sum(weight.numel() for weight in net.parameters()) > 1000


# The rest of a recipe for GPUs stays as it is.
SMALL = (
    *("model.channels=4", "model.blocks=1", "couple.count=8", "couple.shard=4", "reflow.held_out=0.25"),
    *("couple.solver=heun", "couple.steps=2"),
    *(
        f"{stage}.{key}={value}"
        for stage in ("train", "reflow", "distill")
        for key, value in (("steps", 2), ("batch", 4), ("micro_batch", 2), ("precision", "float32"))
    ),
)


@pytest.mark.parametrize("name", OWN)
def test_every_stage_of_a_recipe_for_gpus_takes_two_steps(
    name: str, tmp_path: Path, reflow: Command
) -> None:
    model = read_recipe(name).model
    assert model.kind == "unet"
    size = 16 * model.patch  # at which its attention is
    images = np.random.default_rng(0).integers(0, 256, (12, size, size + 4, 3), dtype=np.uint8)
    base, pairs, flow, student = (tmp_path / stage for stage in ("base", "pairs", "reflow", "distill"))
    data = folder(tmp_path / "images", images)
    changes = [word for change in (*SMALL, f"data.size={size}") for word in ("--set", change)]
    for command in (
        ("train", name, "--data", data, "--out", base, *changes),
        ("couple", base, "--out", pairs),
        ("train", "--pairs", pairs, "--init", base, "--out", flow),
        ("distill", flow, "--pairs", pairs, "--out", student),
    ):
        assert reflow(*command).code == 0, command
    made = load_model(student)
    assert (made.event, made.header.facts["steps"]) == ((3, size, size), 2)
    assert one_line(reflow("train", name, "--out", tmp_path / "x")).endswith("hub:NAME with --data")


def test_every_setting_has_a_meaning() -> None:
    for name in built_in_recipes():
        for key, _, meaning in settings_table(read_recipe(name)):
            assert len(meaning) > 10, key


def test_values_are_toml_or_bare_words_and_none_restores_the_default() -> None:
    recipe = override(
        read_recipe("digits"),
        parse_overrides(
            ["model.multipliers=[1, 1]", "train.times=u-shaped", "data.flip=true", "train.clip=none"]
        ),
    )
    assert recipe.model.kind == "unet"
    assert recipe.model.multipliers == (1, 1)
    assert recipe.train.times == "u-shaped"
    assert recipe.data.flip is True
    assert recipe.train.clip == 1.0


def test_recipes_do_not_coerce() -> None:
    for wrong in ("train.steps=3.5", 'train.steps="3"', "data.flip=1", "train.lr=nan", "seed=-1"):
        with pytest.raises(ReflowError, match=wrong.split("=")[0]):
            override(read_recipe("digits"), parse_overrides([wrong]))


def test_a_recipe_of_the_users_own_takes_its_name_from_the_file(tmp_path: Path) -> None:
    text = (ROOT / "reflow" / "recipes" / "digits.toml").read_text().replace('name = "digits"', "")
    (tmp_path / "mine.toml").write_text(text)
    assert read_recipe(str(tmp_path / "mine.toml")).name == "mine"


def test_docs_list_every_setting_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    page = importlib.import_module("make_recipes").page
    assert page() == (ROOT / "docs" / "recipes.md").read_text("utf-8")  # docs/make_recipes.py


def test_readme_shows_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in (
        "train",
        "average",
        "couple",
        "distill",
        "sample",
        "evaluate",
        "compare",
        "report",
        "inspect",
    ):
        assert f"reflow {command}" in readme


def test_another_kind_of_network_leaves_the_settings_of_the_last_behind() -> None:
    recipe = read_recipe("digits", parse_overrides(["model.kind=dit", "model.size=S", "model.patch=4"]))
    assert recipe.model.kind == "dit"
    assert recipe.model.sigma_data == read_recipe("digits").model.sigma_data  # which all kinds have
    with pytest.raises(ReflowError, match=r"unknown key model\.channels"):
        read_recipe("digits", parse_overrides(["model.kind=dit", "model.size=S", "model.channels=8"]))


def test_choices_are_shown_as_they_are_written() -> None:
    with pytest.raises(ReflowError, match="'S', 'B', 'L' or 'XL'"):
        read_recipe("digits", parse_overrides(["model.kind=dit", "model.size=s"]))


def test_training_settings_of_other_stages_are_told_apart() -> None:
    changes = ["train.steps=3", "reflow.lr=1", "couple.count=9", "seed=3", "model.dropout=0.1"]
    assert unread(parse_overrides(changes), "reflow") == ["train.steps"]
    assert unread(parse_overrides(changes), "couple") == ["train.steps", "reflow.lr"]
