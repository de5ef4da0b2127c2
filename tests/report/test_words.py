"""What the report says in words and numbers follows from the figures of an evaluation."""

from pathlib import Path
from typing import Any

import pytest

from reflow.artifacts import Header
from reflow.artifacts.facts import ModelFacts
from reflow.recipes.read import read_recipe
from reflow.report.lineage import lineage_graph
from reflow.report.numbers import tell, tell_error, tell_zeros
from reflow.report.run import Entry, Run
from reflow.report.side_by_side import comparison_of
from reflow.report.summary import facts, sentences
from reflow.report.tables import curves

NOISE = {"sliced_wasserstein": 0.006}
FLOOR = {"sliced_wasserstein": 0.03, "recall": 0.9, "spread": 1.0}
NEAR = {"median": 0.2, "fifth_percentile": 0.1}
RECIPE = read_recipe("gaussians").model_dump(mode="json")


def figures(nfe: int, distance: float, **others: Any) -> dict[str, Any]:
    return {
        "nfe": float(nfe),
        "solver": "euler",
        "tolerance": None,
        "sliced_wasserstein": distance,
        "seconds_per_image": nfe / 1000,
        **others,
    }


def run_of(*, recall: float = 0.9, spread: float = 1.0, near: float = 0.2, after: float = 0.01) -> Run:
    """Return a base model and a student, evaluated."""
    stages = {"base": ("train", None), "reflow": ("reflow", None), "distill": ("distill", 1)}
    entries = [
        Entry(
            Path(name),
            Header("model", stage, 1, RECIPE, {}, ModelFacts((2,), None, steps).to_json()),
            name,
            1,
            [],
        )
        for name, (stage, steps) in stages.items()
    ]
    measured = {
        "base": [figures(1, 0.7, recall=0.0, spread=0.0), figures(16, 0.04, recall=0.9, spread=1.0)],
        "reflow": [figures(1, 0.05, recall=0.9, spread=1.0)],
        "distill": [figures(1, 0.0312, recall=recall, spread=spread, noise=NOISE)],
    }
    straight = {"base": 0.5, "reflow": after, "distill": None}
    models = [
        {
            "sha256": name,
            "stage": stage,
            "student_steps": steps,
            "figures": measured[name],
            "straightness": straight[name],
            "nearest_training": {"median": near, "fifth_percentile": 0.1},
        }
        for name, (stage, steps) in stages.items()
    ]
    evaluation = {
        "data": "d",
        "samples": 10,
        "features": None,
        "floor": FLOOR,
        "nearest_training": {"held_out": NEAR},
        "models": models,
    }
    return Run(Path("run"), entries, evaluation)


@pytest.mark.parametrize(
    ("value", "short", "column"),
    [
        (0.0, "0", "0"),
        (0.027, "0.027", "0.0270"),
        (99.96, "100", "100"),
        (1234.5, "1,234", "1,234"),
        (-1.5, "\N{MINUS SIGN}1.5", "\N{MINUS SIGN}1.50"),
        (
            8.4e-5,
            "8.4\N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT FIVE}",
            "8.40\N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT FIVE}",
        ),
    ],
)
def test_numbers_are_written_for_people(value: float, short: str, column: str) -> None:
    assert (tell(value), tell_zeros(value)) == (short, column)


def test_an_error_of_nothing_is_not_written() -> None:
    assert tell_error(0.027, 0.006) == "0.0270 ± 0.0060"
    assert tell_error(0.5, 0.0) == tell_error(0.5, None) == "0.500"


def test_the_first_sentence_compares_one_evaluation_with_many() -> None:
    assert sentences(run_of())[0] == (
        "With 1 evaluation per sample the distilled model reaches a sliced Wasserstein distance of "
        "0.0312 ± 0.0060 to held-out data; the base model reaches 0.0400 with 16 evaluations and "
        "0.700 with 1. Training data themselves are 0.0300 away (the floor). A sample takes 1.00 ms "
        "instead of 16.0 ms."
    )
    assert [fact.value for fact in facts(run_of())] == ["0.0312", "0.0400", "0.0300", "50", "0.90"]


def test_flows_are_called_straighter_only_if_they_are() -> None:
    assert "falls from 0.5 to 0.01: the paths of reflow are 50 times straighter" in sentences(run_of())[1]
    assert "rises from 0.5 to 0.6" in (bent := sentences(run_of(after=0.6))[1])
    assert "1.2 times more curved than those of base" in bent


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"recall": 0.73, "spread": 0.81}, "no sign of collapse"),  # 0.8 of 0.9 is 0.72
        ({"recall": 0.71, "spread": 0.81}, "part of the data is lost: low recall."),
        ({"recall": 0.73, "spread": 0.79}, "part of the data is lost: low spread."),
    ],
)
def test_lost_data_are_told(found: dict[str, float], words: str) -> None:
    assert words in sentences(run_of(**found))[2]


@pytest.mark.parametrize(("near", "words"), [(0.181, "no sign of memorising"), (0.179, "look for copies")])
def test_copies_are_told(near: float, words: str) -> None:
    assert words in sentences(run_of(near=near))[3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "e"}, "The held-out data differ"),
        ({"features": {"sha256": "5"}}, "Features come from different weights"),
        ({"samples": 11}, "The numbers of samples differ"),
        ({}, None),
    ],
)
def test_runs_that_do_not_compare_are_told(change: dict[str, Any], words: str | None) -> None:
    first, second = run_of(), run_of()
    assert second.evaluation is not None
    second.evaluation.update(change)
    doubts = comparison_of({"one": first, "two": second})["doubts"]
    assert [error_quantile.startswith(words or "?") for error_quantile in doubts] == [True] * (
        words is not None
    )


def test_a_curve_keeps_to_one_solver_and_goes_on_to_the_right() -> None:
    run = run_of()
    assert run.evaluation is not None
    measured = run.evaluation["models"][0]["figures"]
    measured += [figures(4, 0.2), figures(12, 0.9) | {"solver": "heun"}]
    (drawn,) = curves([("", run)])
    (base, *_) = drawn.series
    assert base.points == [(1, 0.7), (4, 0.2), (16, 0.04)]


def test_a_long_name_is_cut_in_the_graph_and_kept_in_its_title() -> None:
    run = run_of()
    long = "reflow-with-a-name-beyond-all-bounds"
    entry = run.entries[1]
    entries = [Entry(Path(long), entry.header, long, 1, [])]
    drawn = lineage_graph(Run(Path("run"), entries, None))
    assert f"<title>{long}</title>" in drawn
    assert ">reflow-wit…-bounds</text>" in drawn
