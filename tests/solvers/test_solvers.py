"""Solving: which solvers there are, that evaluations are counted, trajectories, and refusals."""

import math
from typing import get_args

import pytest
import torch
from fields import Counted, draws, gaussian, gaussian_state, rms, six_blobs
from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.recipes import choices
from reflow.recipes.recipe import EvaluateSettings
from reflow.solvers import integrate, trajectory
from reflow.solvers.fixed_grid import METHODS
from reflow.solvers.grids import GRIDS
from reflow.solvers.plan import PER_SAMPLE, Plan, fixed_plan, per_sample_plan, steps_for
from reflow.solvers.solution import Solution, follow

MEAN = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
STD = torch.tensor([0.6, 0.3, 1.5], dtype=torch.float64)
NARROW = torch.tensor([0.05, 0.1, 0.02], dtype=torch.float64)  # steep near the data
BOTH_WAYS = [*((name, True) for name in METHODS), *((name, False) for name in PER_SAMPLE)]


def solved(
    solver: str, fixed: bool, field: VelocityField, x0: Tensor, label: Tensor | None = None
) -> Solution:
    """Solve with either five steps or a tolerance of 1e-3."""
    plan = fixed_plan(solver, 5) if fixed else per_sample_plan(solver, 1e-3)
    return follow(plan, field, x0, label=label)


def test_the_recipe_knows_exactly_the_solvers_and_grids_there_are() -> None:
    assert set(choices.FIXED_SOLVERS) == set(get_args(choices.FixedSolver)) == set(METHODS)
    assert set(choices.TOLERANT_SOLVERS) == {*PER_SAMPLE, "adams"}
    assert set(get_args(choices.SolverName)) == {*METHODS, *PER_SAMPLE, "adams"}
    assert set(get_args(choices.GridName)) == {*GRIDS, "calibrated"}
    assert set(get_args(EvaluateSettings.model_fields["solver"].annotation)) == set(METHODS)


def test_without_a_name_steps_are_heuns_and_a_tolerance_is_for_adams_of_order_four() -> None:
    field, x0 = gaussian(MEAN, STD), draws(4)
    heun, adams = integrate(field, x0, steps=6), integrate(field, x0, tolerance=1e-3)
    assert torch.equal(heun.x1, integrate(field, x0, solver="heun", steps=6).x1)
    assert torch.equal(adams.x1, integrate(field, x0, solver="adams4", tolerance=1e-3).x1)


@pytest.mark.parametrize(("solver", "fixed"), BOTH_WAYS)
def test_nfe_is_the_number_of_times_the_field_saw_each_sample(solver: str, fixed: bool) -> None:
    """Alone, since among others the place of a sample that has arrived is evaluated on, idly."""
    samples = 24
    counted, x0, label = Counted(six_blobs(0.1), samples), draws(samples, 2), torch.arange(samples)
    nfe = solved(solver, fixed, six_blobs(0.1), x0).nfe
    for row in range(samples):
        one = slice(row, row + 1)
        alone = solved(solver, fixed, counted, x0[one], label[one]).nfe
        assert alone == nfe[row] == counted.evaluations[row]
    assert len(nfe.unique()) > 1 or fixed  # else every sample has steps of its own


@pytest.mark.parametrize(
    ("solver", "nfe", "steps"),
    [
        ("euler", 7, 7),
        ("midpoint", 8, 4),
        ("heun", 8, 4),
        ("rk4", 8, 2),
        ("adams2", 2, 1),
        ("adams3", 9, 8),
        ("adams4", 9, 8),
        ("dpm2m", 7, 7),
    ],
)
def test_steps_for_spends_the_evaluations_asked_for(solver: str, nfe: int, steps: int) -> None:
    assert steps_for(solver, nfe) == steps
    assert int(integrate(gaussian(MEAN, STD), draws(1), solver=solver, steps=steps).nfe) == nfe


@pytest.mark.parametrize(
    ("solver", "nfe", "words"),
    [
        ("heun", 7, "multiple of 2"),
        ("rk4", 2, "multiple of 4"),
        ("euler", 0, "at least 1"),
        ("adams3", 1, "at least 2"),
        ("dopri5", 7, "dopri5 takes a tolerance"),
        ("adams", 7, "adams takes a tolerance"),
        ("simpson", 7, "there is no solver 'simpson'"),
    ],
)
def test_steps_for_refuses_what_cannot_be_spent(solver: str, nfe: int, words: str) -> None:
    with pytest.raises(ReflowError, match=words):
        steps_for(solver, nfe)


@pytest.mark.parametrize("solver", sorted(set(METHODS) - {"dpm2m"}))
def test_fixed_solvers_go_back_and_over_parts_of_the_interval(solver: str) -> None:
    field, x0 = gaussian(MEAN, STD), draws(16)
    start, end = gaussian_state(x0, 0.2, MEAN, STD), gaussian_state(x0, 0.7, MEAN, STD)
    forth = integrate(field, start, solver=solver, steps=200, t0=0.2, t1=0.7).x1
    back = integrate(field, MEAN + STD * x0, solver=solver, steps=200, t0=1.0, t1=0.0).x1
    # 200 steps of order two leave about (1 / 200)^2 = 2.5e-5, of order one 5e-3; flows stretch it.
    bound = 2e-2 if solver == "euler" else 1e-4
    assert rms(forth - end) <= bound and rms(back - x0) <= bound


def test_a_grid_is_met_in_the_same_times_backwards() -> None:
    seen: list[float] = []

    def watched(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        seen.append(float(t[0]))
        return gaussian(MEAN, STD)(x, t, label)

    follow(fixed_plan("adams3", 6, "shifted").reversed(), watched, draws(2), t0=1.0, t1=0.0)
    u = [1 - k / 6 for k in range(7)]
    assert seen == pytest.approx([step / (step + 0.5 * (1 - step)) for step in u], abs=1e-14)  # rounding


@pytest.mark.parametrize(("t0", "t1"), [(1.0, 0.0), (0.1, 1.0), (0.0, 0.9)])
def test_dpm_solver_refuses_what_is_not_the_whole_way(t0: float, t1: float) -> None:
    with pytest.raises(ReflowError, match="dpm2m goes from t = 0 to t = 1 only"):
        integrate(gaussian(MEAN, STD), draws(2), solver="dpm2m", steps=4, t0=t0, t1=t1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("solver", "fixed"), BOTH_WAYS)
def test_the_answer_has_the_type_and_shape_of_the_noise(
    solver: str, fixed: bool, dtype: torch.dtype
) -> None:
    x0 = torch.zeros(2, 1, 4, 6, dtype=dtype)

    def ones(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        assert t.shape == (len(x),) and t.dtype == x.dtype == dtype and x.shape == (2, 1, 4, 6)
        return torch.ones_like(x)

    x1 = solved(solver, fixed, ones, x0).x1
    assert x1.dtype == dtype
    # In float32 a dozen steps leave as many roundings of numbers of order one.
    torch.testing.assert_close(x1, x0 + 1, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize(("solver", "fixed"), BOTH_WAYS)
def test_no_samples_take_no_evaluations(solver: str, fixed: bool) -> None:
    solution = solved(solver, fixed, gaussian(MEAN, STD), draws(0))
    assert solution.x1.shape == (0, 3) and solution.nfe.shape == (0,)


def test_a_trajectory_costs_what_its_end_point_costs() -> None:
    samples = 24
    counted = Counted(six_blobs(0.1), samples)
    x0, label = draws(samples, 2), torch.arange(samples)
    times = torch.linspace(0, 1, 50, dtype=torch.float64)
    _, solution = trajectory(counted, x0, times, tolerance=1e-3, label=label)
    alone = integrate(six_blobs(0.1), x0, solver="dopri5", tolerance=1e-3)
    assert torch.equal(solution.nfe, alone.nfe)
    assert int(counted.evaluations.max()) == int(alone.nfe.max())
    assert torch.equal(solution.x1, alone.x1)


def test_a_trajectory_passes_through_the_closed_form_states() -> None:
    x0 = draws(32)
    times = torch.tensor([0.5, 0.0, 0.013, 0.3, 0.987, 1.0], dtype=torch.float64)  # in any order
    states, solution = trajectory(gaussian(MEAN, STD), x0, times, tolerance=1e-6)
    assert states.shape == (6, 32, 3)
    truth = torch.stack([gaussian_state(x0, float(t), MEAN, STD) for t in times])
    assert rms(states - truth) <= 1e-6  # between steps, too
    assert torch.equal(states[1], x0)
    torch.testing.assert_close(states[-1], solution.x1, rtol=0, atol=1e-14)  # rounding


def test_a_trajectory_is_of_order_four_between_its_steps() -> None:
    """So polynomial paths of degree four are exact."""

    def quartic(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return (4 * t**3 - 6 * t**2 + t)[:, None].expand_as(x)

    times = torch.linspace(0, 1, 33, dtype=torch.float64)
    states, _ = trajectory(quartic, torch.zeros(1, 2, dtype=torch.float64), times, tolerance=1.0)
    truth = times**4 - 2 * times**3 + times**2 / 2
    torch.testing.assert_close(states[:, 0, 0], truth, rtol=0, atol=1e-13)  # rounding


def test_a_trajectory_has_a_state_at_every_time_on_which_a_step_ends() -> None:
    """In float32 the end of a step, t + h, is rounded; no time may fall between two steps."""
    mean, std, x0 = MEAN.float(), NARROW.float(), draws(50).float()
    field = gaussian(mean, std)
    evaluated: list[Tensor] = []

    def watched(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        evaluated.append(t.clone())
        return field(x, t)

    integrate(watched, x0, solver="dopri5", tolerance=1e-5)
    ends = torch.cat(evaluated[6::6]).unique()  # the last of the six evaluations of every step
    states, _ = trajectory(field, x0, ends, tolerance=1e-5)
    truth = torch.stack([gaussian_state(x0, float(t), mean, std) for t in ends])
    # float32 in a thin layer keeps about 1e-4; a missing state is wrong by order one.
    assert float((states - truth).abs().max()) < 1e-2


@pytest.mark.parametrize(
    ("solver", "steps", "tolerance", "words"),
    [
        ("simpson", 4, None, "there is no solver 'simpson'; those with steps are euler, midpoint, heun"),
        ("simpson", None, 1e-3, "there is no solver 'simpson'; those with a tolerance are bosh3, dopri5"),
        ("euler", None, None, "euler takes steps and no tolerance"),
        ("euler", 0, None, "euler takes steps >= 1"),
        ("rk4", None, 1e-3, "rk4 takes steps and no tolerance"),
        ("rk4", 4, 1e-3, "steps .* or a tolerance, not both"),
        ("dopri5", 4, None, "dopri5 takes a tolerance and no steps"),
        ("adams", 4, None, "adams takes a tolerance and no steps"),
        ("adams", None, 1e-3, "adams needs a pilot"),
        ("dopri5", None, None, "tolerance must be a positive number, not None"),
        (None, None, None, "tolerance must be a positive number, not None"),
        ("dopri5", None, 0.0, r"tolerance must be a positive number, not 0\.0"),
        ("adams4", None, math.nan, "tolerance must be a positive number, not nan"),
    ],
)
def test_wrong_arguments_are_refused_in_words(
    solver: str | None, steps: int | None, tolerance: float | None, words: str
) -> None:
    with pytest.raises(ReflowError, match=words):
        integrate(gaussian(MEAN, STD), draws(1), solver=solver, steps=steps, tolerance=tolerance)


def test_a_grid_that_does_not_exist_is_refused_in_words() -> None:
    with pytest.raises(ReflowError, match="there is no grid 'calibrated'; choose from uniform, cosine"):
        fixed_plan("euler", 4, "calibrated")


def test_a_plan_is_a_value() -> None:
    assert (
        fixed_plan("heun", 4)
        == fixed_plan("heun", 4, "uniform")
        == Plan("heun", (0.0, 0.25, 0.5, 0.75, 1.0))
    )
    assert (
        fixed_plan("adams3", 4) == fixed_plan("adams3", 4, "cosine") != fixed_plan("adams3", 4, "uniform")
    )
