"""Every way to solve for pairs: with steps, on a grid, to a tolerance; contradictions are refused."""

from pathlib import Path

import pytest
import torch
from commands import Command, Exact, one_line
from coupled import ROUNDING, facts_of, pairs_of, rms

from reflow import integrate, load_model
from reflow.recipes.choices import FIXED_SOLVERS, TOLERANT_SOLVERS
from reflow.solvers.plan import Plan, fixed_plan
from reflow.solvers.solution import follow


@pytest.mark.parametrize("solver", FIXED_SOLVERS)
def test_every_solver_with_steps_makes_the_pairs_it_is_asked_for(
    reflow: Command, chain: Path, tmp_path: Path, exact: Exact, solver: str
) -> None:
    options = ("--solver", solver, "--steps", 6, "--grid", "shifted")
    answer = reflow("couple", chain / "base", "--out", tmp_path / "x", *options)
    assert answer.code == 0, answer.err
    pair, facts = pairs_of(tmp_path / "x"), facts_of(tmp_path / "x")
    solved = follow(fixed_plan(solver, 6, "shifted"), exact.velocity, pair.x0)
    torch.testing.assert_close(pair.x1, solved.x1, rtol=0, atol=ROUNDING)
    assert facts["nfe_histogram"] == {str(int(solved.nfe[0])): 50}
    errors = rms(pair.x1 - exact.end(pair.x0))
    assert facts["pilot"]["rms"] == pytest.approx(errors, rel=0.2)  # 24 samples stand for 50


def test_a_calibrated_grid_is_kept_and_better_than_a_uniform_one(
    reflow: Command, chain: Path, tmp_path: Path, exact: Exact
) -> None:
    errors = {}
    for grid in ("uniform", "calibrated"):
        options = ("--steps", 6, "--grid", grid)
        assert reflow("couple", chain / "base", "--out", tmp_path / grid, *options).code == 0
        pair, facts = pairs_of(tmp_path / grid), facts_of(tmp_path / grid)
        nodes = tuple(facts["plan"]["nodes"])
        assert len(nodes) == 7
        solved = follow(Plan("heun", nodes), exact.velocity, pair.x0).x1
        torch.testing.assert_close(pair.x1, solved, rtol=0, atol=ROUNDING)
        errors[grid] = rms(pair.x1 - exact.end(pair.x0))
    assert errors["calibrated"] < errors["uniform"]


@pytest.mark.parametrize(
    ("solver", "tolerance"), [*((name, 5e-4) for name in TOLERANT_SOLVERS), ("adams", 1e-2)]
)
def test_every_solver_with_a_tolerance_keeps_it(
    reflow: Command, chain: Path, tmp_path: Path, exact: Exact, solver: str, tolerance: float
) -> None:
    options = ("--solver", solver, "--tolerance", tolerance, "--set", "couple.steps=none", "--count", 100)
    answer = reflow("couple", chain / "base", "--out", tmp_path / "x", *options)
    assert answer.code == 0, answer.err
    pair, facts = pairs_of(tmp_path / "x"), facts_of(tmp_path / "x")
    assert rms(pair.x1 - exact.end(pair.x0)) <= 2 * tolerance  # the pilot is a sample of 24
    assert facts["pilot"]["rms"] <= tolerance
    assert facts["pilot"]["samples"] == 24
    assert facts["plan"]["solver"].startswith("adams" if solver == "adams" else solver)


def test_pairs_of_a_trained_network_meet_the_tolerance(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    assert reflow("couple", chain / "base", "--out", tmp_path / "x", "--tolerance", 0.01).code == 0
    pair = pairs_of(tmp_path / "x")
    truth = integrate(load_model(chain / "base"), pair.x0, solver="dopri5", tolerance=1e-5).x1
    assert rms(pair.x1 - truth) <= 2 * 0.01


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--steps", 3, "--tolerance", 0.1), 2, "not both"),
        (("--steps", 0), 2, ""),
        (("--tolerance", 0), 2, "--tolerance must be above 0"),
        (("--solver", "dopri5"), 2, "takes a tolerance and no steps"),
        (("--solver", "adams", "--steps", 3), 2, "takes a tolerance and no steps"),
        (("--solver", "heun", "--tolerance", 0.1), 2, "takes steps and no tolerance"),
        (("--grid", "edm", "--tolerance", 0.1), 2, "--grid goes with --steps N"),
        (("--grid", "square"), 2, "'--grid': 'square' is not one of 'uniform'"),
        (("--solver", "magic"), 2, "'--solver': 'magic' is not one of 'euler'"),
        (("--set", "couple.guidance_interval=[0.1,0.5]"), 2, "does nothing without guidance"),
        (("--set", "couple.precision=float16"), 1, "precision"),
        (("--data", "digits"), 2, "--data is for --invert"),
        (("--invert", "--part", "1/2"), 2, "leave out --part"),
        (("--invert", "--labels", "0"), 2, "--labels"),
        (("--part", "1/2", "--fresh"), 2, "--fresh"),
        (("--part", "0/2"), 2, "I from 1 to N"),
        (("--part", "3/2"), 2, "I from 1 to N"),
        (("--part", "half"), 2, "write it as I/N"),
        (("--tolerance", 1e-9, "--solver", "adams3"), 1, "ask for a larger --tolerance"),
    ],
)
def test_contradictory_settings_are_refused_before_any_pair(
    reflow: Command,
    chain: Path,
    tmp_path: Path,
    exact: Exact,  # noqa: ARG001
    options: tuple[object, ...],
    code: int,
    message: str,
) -> None:
    answer = reflow("couple", chain / "base", "--out", tmp_path / "x", *options)
    if message:
        assert message in one_line(answer, code)
    assert answer.code == code
    assert not [path for path in tmp_path.glob("x/*") if not path.name.startswith(".")]
