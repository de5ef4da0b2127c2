"""[distill] has the learning rate and the distance of its objective unless it states its own."""

import json
from pathlib import Path

import pytest
from commands import Command

from reflow import load_model
from reflow.recipes.read import differences, override, parse_overrides, read_recipe
from reflow.recipes.recipe import Recipe
from reflow.recipes.training import LEARNS_WITH

DIGITS = read_recipe("digits")


def learns_with(recipe: Recipe) -> tuple[str, float, str]:
    return recipe.distill.objective, recipe.distill.lr, recipe.distill.distance


@pytest.mark.parametrize("objective", LEARNS_WITH)
def test_an_objective_brings_what_it_was_measured_with(objective: str) -> None:
    brought = override(DIGITS, parse_overrides([f"distill.objective={objective}"]))
    assert learns_with(brought) == (objective, *(LEARNS_WITH[objective][key] for key in ("lr", "distance")))


def test_what_is_set_wins_whichever_comes_first() -> None:
    changes = ["distill.lr=5e-4", "distill.objective=regress"]
    assert learns_with(override(DIGITS, parse_overrides(changes))) == ("regress", 5e-4, "squared")
    assert override(DIGITS, parse_overrides(changes)) == override(DIGITS, parse_overrides(changes[::-1]))


def test_a_recipe_that_states_its_own_has_them() -> None:
    own = read_recipe("cifar10")
    assert learns_with(own) == ("regress", 1e-4, "pseudo-huber")
    assert (
        override(own, parse_overrides(["distill.objective=regress"]))
        == override(own, parse_overrides(["distill.objective=none"]))
        == own
    )
    assert learns_with(override(own, parse_overrides(["distill.lr=none"]))) == (
        "regress",
        1e-3,
        "pseudo-huber",
    )


def test_another_objective_leaves_behind_what_was_chosen_for_the_first() -> None:
    own = override(
        DIGITS,
        parse_overrides(["distill.lr=7e-4", "distill.distance=squared", "distill.instant=0.5"]),
    )
    assert learns_with(override(own, parse_overrides(["distill.objective=consistency"]))) == learns_with(
        override(DIGITS, parse_overrides(["distill.objective=consistency"]))
    )
    there_and_back = ["distill.objective=regress", "distill.objective=meanflow"]
    assert override(own, parse_overrides(there_and_back)) == own  # only the last one counts
    assert override(own, parse_overrides(there_and_back[:1])).distill.batch == DIGITS.distill.batch


@pytest.mark.parametrize(
    "changes",
    [
        ("distill.objective=regress", "distill.lr=3e-4", "distill.distance=pseudo-huber"),
        ("distill.objective=consistency", "distill.lr=1e-3"),
        ("distill.objective=consistency", "distill.intervals=8"),
        ("distill.lr=2e-3",),
        ("train.steps=3", "model.dropout=0.1"),
        (),
    ],
)
def test_differences_make_one_recipe_the_other(changes: tuple[str, ...]) -> None:
    """Also where another objective has the learning rate that the first one had."""
    for first in (DIGITS, override(DIGITS, parse_overrides(["distill.instant=0.5"]))):
        after = override(first, parse_overrides(changes))
        found = differences(first, after)
        words = [f"{key}={'none' if value is None else json.dumps(value)}" for key, value in found.items()]
        assert override(first, parse_overrides(words)) == after
        if first.distill.objective == after.distill.objective:
            assert list(found) == sorted(change.partition("=")[0] for change in changes)


def test_a_student_says_what_its_objective_brought(reflow: Command, chain: Path, tmp_path: Path) -> None:
    def said(*words: object) -> tuple[str, Recipe]:
        out = tmp_path / "-".join(map(str, words))
        command = ("distill", chain / "reflow", "--pairs", chain / "pairs", "--out", out)
        answer = reflow(*command, *words, "--set", "distill.steps=1")
        assert answer.code == 0, answer.err
        return answer.err, load_model(out).recipe

    told, made = said("--objective", "meanflow", "--set", "distill.lr=5e-4")
    assert learns_with(made) == ("meanflow", 5e-4, "pseudo-huber")
    assert "for objective = regress; meanflow is fitted with lr = 0.0005 and distance = pseudo" in told
    told, made = said("--objective", "regress")
    assert learns_with(made) == ("regress", 1e-3, "pseudo-huber")  # the recipe's own
    assert "is fitted with" not in told
