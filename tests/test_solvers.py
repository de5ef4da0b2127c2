"""Solvers: closed-form flows and torchdiffeq are the truth, and every evaluation is counted."""

import itertools
import math
from typing import get_args

import pytest
import torch
from fields import data_set, gaussian, gaussian_state, mixture, reflowed_gaussian
from torch import Tensor
from torchdiffeq import odeint

from reflow import config
from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.solvers import SOLVERS, integrate, steps_for, trajectory
from reflow.solvers.fixed import solve_fixed

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "dopri5": 5}
MEAN = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
STD = torch.tensor([0.6, 0.3, 1.5], dtype=torch.float64)
NARROW = torch.tensor([0.05, 0.1, 0.02], dtype=torch.float64)  # steep near the data
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)


def draws(n: int, dimension: int = 3, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=rng, dtype=torch.float64)


def rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


def six_blobs(std: float) -> VelocityField:
    """Return the field of a mixture of six blobs of this standard deviation in the plane."""
    weights = torch.tensor([1, 2, 3, 1, 2, 3], dtype=torch.float64) / 12
    return mixture(weights, draws(6, 2, seed=1), torch.full((6,), std, dtype=torch.float64))


def independent_end(field: VelocityField, x0: Tensor) -> Tensor:
    """Return x1 as torchdiffeq solves for it."""

    def right_hand_side(t: Tensor, x: Tensor) -> Tensor:
        return field(x, t.expand(len(x)))

    ends = torch.tensor([0.0, 1.0], dtype=x0.dtype)
    states: Tensor = odeint(right_hand_side, x0, ends, method="dopri5", rtol=1e-10, atol=1e-10)
    return states[-1]


class Counted:
    """A field that counts the evaluations of every sample, told apart by its label."""

    def __init__(self, field: VelocityField, samples: int) -> None:
        self.field = field
        self.evaluations = torch.zeros(samples, dtype=torch.int64)

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        self.evaluations.index_add_(0, label, torch.ones_like(label))
        return self.field(x, t)


def stiff_if_labelled(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    """Evaluate the field of data N(0, 0.6^2) for label 0 and of N(0, 0.005^2) for label 1."""
    assert label is not None
    mild = gaussian(torch.zeros(1, dtype=x.dtype), torch.full((1,), 0.6, dtype=x.dtype))
    stiff = gaussian(torch.zeros(1, dtype=x.dtype), torch.full((1,), 0.005, dtype=x.dtype))
    return torch.where(label[:, None] == 1, stiff(x, t), mild(x, t))


def test_the_recipe_knows_exactly_the_solvers_there_are() -> None:
    assert set(config.FIXED_SOLVERS) == {n for n, t in SOLVERS.items() if t.error is None}
    assert set(config.ADAPTIVE_SOLVERS) == {n for n, t in SOLVERS.items() if t.error is not None}
    assert set(get_args(config.SolverName)) == set(SOLVERS) == set(ORDERS)
    evaluated = config.EvaluateSettings.model_fields["solver"].annotation
    assert set(get_args(evaluated)) == set(config.FIXED_SOLVERS)


def assert_falls_with_tolerance(errors: list[float]) -> None:
    """Steps come in discrete numbers, so one decade may bring less than ten, but three bring 100."""
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 100


def observed_orders(errors: list[float]) -> list[float]:
    """Return log2 of the ratios of errors whose steps are halved from one to the next."""
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_converge_at_their_order(solver: str) -> None:
    """dx/dt = -2 t x^2 has the solution x0 / (1 + x0 t^2)."""
    x0 = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)[:, None]
    tableau = SOLVERS[solver]

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return -2 * t[:, None] * x**2

    errors = [
        rms(solve_fixed(field, x0, tableau, steps=n, t0=0.0, t1=1.0, label=None) - x0 / (1 + x0))
        for n in (30, 60, 120)
    ]
    assert tableau.order == ORDERS[solver]
    # The next term of the error moves log2 of the ratio by O(1 / steps).
    assert observed_orders(errors) == pytest.approx([ORDERS[solver]] * 2, abs=0.25)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 3), ("heun", 2), ("rk4", 4)])
def test_fixed_solvers_converge_to_the_flow_of_a_gaussian(solver: str, order: int) -> None:
    """Where the variance of xt is quadratic in t, the leading error of midpoint cancels."""
    x0 = draws(32)
    errors = [
        rms(integrate(gaussian(MEAN, STD), x0, solver=solver, steps=n).x1 - (MEAN + STD * x0))
        for n in (64, 128, 256)
    ]
    # The next term of the error moves log2 of the ratio by O(1 / steps).
    assert observed_orders(errors) == pytest.approx([order] * 2, abs=0.15)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4"])
def test_integrate_takes_the_steps_it_is_given(solver: str) -> None:
    x0 = draws(4)
    tableau = SOLVERS[solver]
    wanted = solve_fixed(gaussian(MEAN, STD), x0, tableau, steps=7, t0=0.0, t1=1.0, label=None)
    solution = integrate(gaussian(MEAN, STD), x0, solver=solver, steps=7)
    assert torch.equal(solution.x1, wanted)
    assert solution.nfe.tolist() == [7 * len(tableau.b)] * 4


@pytest.mark.parametrize(
    ("steps", "std"),
    [(1, 0.0), (2, 0.26471), (4, 0.41953), (8, 0.50367), (16, 0.54999), (64, 0.58711)],
)
def test_euler_shrinks_a_gaussian_by_the_known_amount(steps: int, std: float) -> None:
    field = gaussian(torch.zeros(1, dtype=torch.float64), torch.full((1,), 0.6, dtype=torch.float64))
    one = torch.ones(1, 1, dtype=torch.float64)
    x1 = integrate(field, one, solver="euler", steps=steps).x1
    assert float(x1) == pytest.approx(std, abs=5.1e-6)  # the known values have five decimals


def test_a_straight_field_is_exact_in_one_euler_step() -> None:
    x0 = draws(64)
    x1 = integrate(reflowed_gaussian(MEAN, STD), x0, solver="euler", steps=1).x1
    torch.testing.assert_close(x1, MEAN + STD * x0, rtol=0, atol=1e-14)  # rounding of float64


@pytest.mark.parametrize("std", [STD, NARROW], ids=["wide", "narrow"])
def test_dopri5_meets_its_tolerance_on_gaussians(std: Tensor) -> None:
    x0 = draws(64)
    errors = [
        rms(integrate(gaussian(MEAN, std), x0, tolerance=tolerance).x1 - (MEAN + std * x0))
        for tolerance in TOLERANCES
    ]
    assert all(error <= asked for error, asked in zip(errors, TOLERANCES, strict=True))
    assert_falls_with_tolerance(errors)


@pytest.mark.parametrize("std", [0.05, 0.3])
def test_dopri5_meets_its_tolerance_on_mixtures(std: float) -> None:
    field, x0 = six_blobs(std), draws(64, 2)
    truth = independent_end(field, x0)
    errors = [rms(integrate(field, x0, tolerance=asked).x1 - truth) for asked in TOLERANCES]
    assert all(error <= asked for error, asked in zip(errors, TOLERANCES, strict=True))
    assert_falls_with_tolerance(errors)


def test_a_smaller_tolerance_costs_more_evaluations() -> None:
    x0 = draws(64)
    spent = [
        float(integrate(gaussian(MEAN, NARROW), x0, tolerance=tolerance).nfe.double().mean())
        for tolerance in TOLERANCES
    ]
    assert spent == sorted(set(spent))


def test_the_flow_of_a_finite_data_set_ends_on_its_points() -> None:
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=torch.float64)
    near = 1 - 1e-3  # the field is singular at t = 1
    x = integrate(data_set(points), draws(32, 2), tolerance=1e-4, t1=near).x1
    nearest = torch.cdist(x, points).amin(1)
    # What remains of the noise there is (1 - t) |x0|, and |x0| < 5 for these draws.
    assert float(nearest.max()) < 5e-3


@pytest.mark.parametrize("solver", SOLVERS)
def test_nfe_is_the_number_of_times_the_field_saw_each_sample(solver: str) -> None:
    samples = 24
    counted = Counted(six_blobs(0.1), samples)
    label = torch.arange(samples)
    if SOLVERS[solver].error is None:
        nfe = integrate(counted, draws(samples, 2), solver=solver, steps=5, label=label).nfe
    else:
        nfe = integrate(counted, draws(samples, 2), solver=solver, tolerance=1e-3, label=label).nfe
        assert len(nfe.unique()) > 1  # every sample has steps of its own
    assert torch.equal(nfe, counted.evaluations)


def test_a_trajectory_costs_what_its_end_point_costs() -> None:
    samples = 24
    counted = Counted(six_blobs(0.1), samples)
    x0, label = draws(samples, 2), torch.arange(samples)
    times = torch.linspace(0, 1, 50, dtype=torch.float64)
    _, solution = trajectory(counted, x0, times, tolerance=1e-3, label=label)
    alone = integrate(six_blobs(0.1), x0, tolerance=1e-3)
    assert torch.equal(solution.nfe, counted.evaluations)
    assert torch.equal(solution.nfe, alone.nfe)
    assert torch.equal(solution.x1, alone.x1)


def test_stiff_neighbours_change_a_sample_by_rounding_only() -> None:
    x0 = draws(40, 1)
    label = torch.tensor([0, 1, 1, 1] * 10)
    together = integrate(stiff_if_labelled, x0, tolerance=1e-3, label=label)
    stiff, mild = together.nfe[label == 1].double(), together.nfe[label == 0].double()
    assert float(stiff.mean()) > 2 * float(mild.mean())
    for row in range(0, 40, 4):
        one = slice(row, row + 1)
        alone = integrate(stiff_if_labelled, x0[one], tolerance=1e-3, label=label[one])
        assert torch.equal(alone.nfe, together.nfe[one])
        # A few units in the last place of numbers of order one.
        torch.testing.assert_close(alone.x1, together.x1[one], rtol=0, atol=1e-14)


def test_the_order_of_the_batch_does_not_matter() -> None:
    field, x0 = six_blobs(0.1), draws(30, 2)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    first = integrate(field, x0, tolerance=1e-3)
    second = integrate(field, x0[shuffled], tolerance=1e-3)
    assert torch.equal(second.nfe, first.nfe[shuffled])
    torch.testing.assert_close(second.x1, first.x1[shuffled], rtol=0, atol=1e-12)  # rounding


@pytest.mark.parametrize("solver", ["midpoint", "heun", "rk4", "dopri5"])
def test_integration_backwards_returns_to_the_noise(solver: str) -> None:
    field, x0 = gaussian(MEAN, STD), draws(16)
    x1 = MEAN + STD * x0
    if solver == "dopri5":
        back = integrate(field, x1, tolerance=1e-6, t0=1.0, t1=0.0).x1
    else:
        back = integrate(field, x1, solver=solver, steps=400, t0=1.0, t1=0.0).x1
    # 400 steps of order two leave about (1 / 400)^2 = 6e-6; the other two leave less.
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-4)


def test_part_of_the_interval_ends_on_the_closed_form() -> None:
    start, end = gaussian_state(draws(16), 0.2, MEAN, STD), gaussian_state(draws(16), 0.7, MEAN, STD)
    x = integrate(gaussian(MEAN, STD), start, tolerance=1e-6, t0=0.2, t1=0.7).x1
    assert rms(x - end) <= 1e-6


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

    integrate(watched, x0, tolerance=1e-5)
    ends = torch.cat(evaluated[6::6]).unique()  # the last of the six evaluations of every step
    states, _ = trajectory(field, x0, ends, tolerance=1e-5)
    truth = torch.stack([gaussian_state(x0, float(t), mean, std) for t in ends])
    # float32 in a thin layer keeps about 1e-4; a missing state is wrong by order one.
    worst = float((states - truth).abs().max())
    assert worst < 1e-2


@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5"])
def test_the_answer_has_the_type_and_shape_of_the_noise(solver: str) -> None:
    x0 = torch.zeros(2, 1, 4, 6)

    def ones(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        assert t.shape == (len(x),) and t.dtype == x.dtype
        return torch.ones_like(x)

    adaptive = SOLVERS[solver].error is not None
    x1 = integrate(
        ones, x0, solver=solver, steps=None if adaptive else 2, tolerance=1e-3 if adaptive else None
    ).x1
    assert x1.dtype == x0.dtype
    torch.testing.assert_close(x1, x0 + 1)


@pytest.mark.parametrize(
    ("solver", "nfe", "steps"), [("euler", 7, 7), ("midpoint", 8, 4), ("heun", 8, 4), ("rk4", 8, 2)]
)
def test_steps_for_spends_the_evaluations_asked_for(solver: str, nfe: int, steps: int) -> None:
    assert steps_for(solver, nfe) == steps
    assert int(integrate(gaussian(MEAN, STD), draws(1), solver=solver, steps=steps).nfe) == nfe


@pytest.mark.parametrize(
    ("solver", "nfe", "words"),
    [
        ("heun", 7, "multiple of 2"),
        ("rk4", 2, "multiple of 4"),
        ("euler", 0, "multiple of 1"),
        ("dopri5", 7, "tolerance"),
        ("simpson", 7, "no solver is called 'simpson'"),
    ],
)
def test_steps_for_refuses_what_cannot_be_spent(solver: str, nfe: int, words: str) -> None:
    with pytest.raises(ReflowError, match=words):
        steps_for(solver, nfe)


@pytest.mark.parametrize(
    ("solver", "steps", "tolerance", "words"),
    [
        ("simpson", 4, None, "no solver is called 'simpson'; there are euler, midpoint"),
        ("euler", None, None, "euler takes steps"),
        ("euler", 0, None, "euler takes steps"),
        ("rk4", 4, 1e-3, "rk4 takes steps >= 1 and no tolerance"),
        ("dopri5", 4, None, "dopri5 takes a tolerance and no steps"),
        ("dopri5", 4, 1e-3, "dopri5 takes a tolerance and no steps"),
        ("dopri5", None, None, "tolerance must be a positive number, not None"),
        ("dopri5", None, 0.0, "tolerance must be a positive number, not 0.0"),
        ("dopri5", None, math.nan, "tolerance must be a positive number, not nan"),
    ],
)
def test_wrong_arguments_are_refused_in_words(
    solver: str, steps: int | None, tolerance: float | None, words: str
) -> None:
    with pytest.raises(ReflowError, match=words):
        integrate(gaussian(MEAN, STD), draws(1), solver=solver, steps=steps, tolerance=tolerance)


def breaks_down(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    """Evaluate a field that is NaN for label 1 beyond t = 0.6."""
    assert label is not None
    wrong = (label == 1) & (t > 0.6)
    return torch.where(wrong[:, None], torch.nan, torch.ones_like(x))


def test_dopri5_names_the_sample_and_the_time_at_which_a_field_is_not_finite() -> None:
    label = torch.tensor([0, 0, 1, 0])
    with pytest.raises(ReflowError, match=r"sample 2 of the batch .* near t = 0\.[3-6]\d*;"):
        integrate(breaks_down, draws(4), tolerance=1e-3, label=label)


def test_a_sample_keeps_its_number_when_others_have_left_the_batch() -> None:
    """The last sample swings so fast that the first three arrive long before it breaks down."""

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        swing = torch.where(t > 0.9, torch.nan, torch.cos(100 * t))
        return torch.where(label == 1, swing, 1.0)[:, None].expand_as(x)

    with pytest.raises(ReflowError, match=r"sample 3 of the batch .* near t = 0\.[89]"):
        integrate(field, draws(4), tolerance=1e-3, label=torch.tensor([0, 0, 0, 1]))


def test_fixed_solvers_name_the_sample_at_which_a_field_is_not_finite() -> None:
    label = torch.tensor([0, 0, 1, 0])
    with pytest.raises(ReflowError, match="sample 2 of the batch is not finite"):
        integrate(breaks_down, draws(4), solver="rk4", steps=10, label=label)


def test_a_tolerance_below_rounding_is_refused_in_words() -> None:
    """In float32, 1e-9 is out of reach of numbers of order one, whose last place is 6e-8."""
    x0 = draws(8).float()
    with pytest.raises(ReflowError, match="larger --tolerance"):
        integrate(gaussian(MEAN.float(), STD.float()), x0, tolerance=1e-9)
