"""The pilot: plans keep the error asked for on samples it has not seen, and cost what they say."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from fields import Counted, data_set, draws, gaussian, independent_end, mixture, power, rms, six_blobs
from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.solvers.grids import cosine, from_density, uniform
from reflow.solvers.pilot import Pilot, calibrate, expected, gauge, samples_for
from reflow.solvers.plan import Plan, fixed_plan
from reflow.solvers.solution import follow
from reflow.solvers.step_density import Curvature, density

MEAN = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
STD = torch.tensor([0.6, 0.3, 1.5], dtype=torch.float64)
NARROW = torch.tensor([0.05, 0.1, 0.02], dtype=torch.float64)  # steep near the data
POINTS = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=torch.float64)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)
PILOT = 64  # samples; few of many are near a divide between two blobs, and decide the error


@dataclass(frozen=True)
class Problem:
    """A field, the dimension of its samples, and where it is left."""

    field: VelocityField
    dimension: int
    end: float = 1.0

    def pilot(self, samples: int = PILOT) -> Pilot:
        return Pilot(self.field, draws(samples, self.dimension, seed=3), None, t1=self.end)


PROBLEMS = {
    "wide": Problem(gaussian(MEAN, STD), 3),
    "narrow": Problem(gaussian(MEAN, NARROW), 3),
    "wide blobs": Problem(six_blobs(0.3), 2),
    "small blobs": Problem(six_blobs(0.1), 2),
    "mixture in 16 dimensions": Problem(
        mixture(torch.full((6,), 1 / 6), 0.6 * draws(6, 16, seed=1), torch.full((6,), 0.2)), 16
    ),
    "data set": Problem(data_set(POINTS), 2, end=1 - 1e-3),  # singular at t = 1
}
DIVIDED = {"small blobs", "mixture in 16 dimensions", "data set"}
FRESH = {name: draws(400, problem.dimension, seed=7) for name, problem in PROBLEMS.items()}


@pytest.fixture(scope="module")
def truths() -> dict[str, Tensor]:
    """Return where fresh samples end, by closed form or torchdiffeq."""
    ends = {"wide": MEAN + STD * FRESH["wide"], "narrow": MEAN + NARROW * FRESH["narrow"]}
    return {
        name: ends[name] if name in ends else independent_end(problem.field, FRESH[name], problem.end)
        for name, problem in PROBLEMS.items()
    }


def error_of(plan: Plan, name: str, truth: Tensor) -> float:
    problem = PROBLEMS[name]
    return rms(follow(plan, problem.field, FRESH[name], t1=problem.end).x1 - truth)


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_calibrated_grid_keeps_the_tolerance_on_fresh_samples(
    name: str, tolerance: float, truths: dict[str, Tensor]
) -> None:
    """Within a factor of two; of four, for all, where a few samples start on a divide between blobs.

    The flow takes neighbours there to different blobs, and errors grow a hundredfold on the way.
    """
    problem, truth = PROBLEMS[name], truths[name]
    plan, accuracy = calibrate(problem.pilot(), "adams", tolerance)
    assert plan.nodes is not None and plan.limit is not None and len(plan.finer) == 2
    assert accuracy.rms <= tolerance / 2 and accuracy.samples == PILOT
    off = (
        (follow(plan, problem.field, FRESH[name], t1=problem.end).x1 - truth).square().mean(1).sort().values
    )
    most = off[:-4] if name in DIVIDED else off  # all but one in a hundred
    assert float(most.mean().sqrt()) <= 2 * tolerance
    assert float(off.mean().sqrt()) <= 4 * tolerance


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("name", ["wide", "narrow", "wide blobs"])
@pytest.mark.parametrize("solver", ["dopri5", "tsit5", "bosh3", "adams3"])
def test_a_calibrated_tolerance_per_step_keeps_that_of_the_end(
    solver: str, name: str, tolerance: float, truths: dict[str, Tensor]
) -> None:
    plan, accuracy = calibrate(PROBLEMS[name].pilot(), solver, tolerance)
    assert plan.solver == solver and plan.local_tolerance is not None
    assert accuracy.rms <= tolerance / 2
    assert error_of(plan, name, truths[name]) <= 2 * tolerance


@pytest.mark.parametrize("name", ["narrow", "wide blobs"])
def test_a_smaller_tolerance_costs_more_steps(name: str) -> None:
    plans = [calibrate(PROBLEMS[name].pilot(), "adams", tolerance)[0] for tolerance in TOLERANCES]
    steps = [len(plan.nodes or ()) for plan in plans]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("other", ["uniform", "cosine"])
def test_in_a_thin_layer_a_calibrated_grid_needs_half_the_evaluations(
    other: str, truths: dict[str, Tensor]
) -> None:
    """Next to t = 1, where the data is narrow."""
    plan, _ = calibrate(PROBLEMS["narrow"].pilot(), "adams", 1e-3)
    assert plan.nodes is not None
    steps = len(plan.nodes) - 1
    coarse = replace(plan, finer=(), limit=None)
    twice = fixed_plan(plan.solver, 2 * steps, other)
    assert error_of(coarse, "narrow", truths["narrow"]) < error_of(twice, "narrow", truths["narrow"])


@pytest.mark.parametrize("solver", ["adams", "dopri5", "adams3"])
def test_what_the_pilot_reports_is_its_error_and_every_evaluation(solver: str) -> None:
    field, x0 = gaussian(MEAN, NARROW), draws(40, seed=5)
    spent = 0

    def watched(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        nonlocal spent
        spent += len(x)
        return field(x, t, label)

    plan, accuracy = calibrate(Pilot(watched, x0, None), solver, 1e-3)
    assert accuracy.evaluations == spent
    off = (
        (follow(replace(plan, finer=(), limit=None), field, x0).x1 - (MEAN + NARROW * x0)).square().mean(1)
    )
    # The pilot's own truth is off by up to 2 / 16 of the tolerance: fourth order, twice the steps.
    assert accuracy.rms == pytest.approx(float(off.mean().sqrt()), abs=2e-4)
    assert accuracy.worst == pytest.approx(float(off.max().sqrt()), abs=4e-4)
    assert accuracy.worst > accuracy.rms


@pytest.mark.parametrize("solver", ["adams", "dopri5"])
def test_labels_stay_with_their_samples(solver: str) -> None:
    label = torch.arange(32)

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        return gaussian(x.new_zeros(1), torch.where(label % 2 == 0, 0.5, 0.02).to(x)[:, None])(x, t)

    counted, x0 = Counted(field, 32), draws(32, 1)
    pilot = Pilot(counted, x0, label)
    plan, accuracy = calibrate(pilot, solver, 1e-3)
    assert int(counted.evaluations.sum()) == accuracy.evaluations
    end = follow(plan, field, x0, label=label).x1
    std = torch.where(label % 2 == 0, 0.5, 0.02).double()[:, None]
    assert rms(end - std * x0) <= 1e-3


@pytest.mark.parametrize("solver", ["adams", "tsit5", "adams4"])
def test_the_same_inputs_give_the_same_plan(solver: str) -> None:
    first, second = (calibrate(PROBLEMS["small blobs"].pilot(), solver, 1e-2) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("solver", ["adams", "dopri5"])
def test_the_way_back_is_calibrated_as_well(solver: str) -> None:
    field = gaussian(MEAN, NARROW)
    plan, _ = calibrate(Pilot(field, MEAN + NARROW * draws(PILOT), None, t0=1.0, t1=0.0), solver, 1e-2)
    x0 = FRESH["narrow"]
    back = follow(plan, field, MEAN + NARROW * x0, t0=1.0, t1=0.0).x1
    assert rms(back - x0) <= 2e-2


def test_a_field_that_is_not_smooth_is_refused_in_words() -> None:
    def rough(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return torch.sin(1e7 * x + 1e6 * t[:, None])

    with pytest.raises(ReflowError, match=r"not smooth enough; ask for a larger --tolerance"):
        calibrate(Pilot(rough, draws(24), None), "adams", 1e-4)


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_field_that_is_not_finite_is_refused_with_the_time(t0: float, t1: float) -> None:
    def broken(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return torch.where((t - 0.5).abs()[:, None] < 0.1, torch.nan, x)

    with pytest.raises(ReflowError, match=r"sample 0 of the pilot is not finite at t = 0\.[45]\d*; the"):
        calibrate(Pilot(broken, draws(24), None, t0=t0, t1=t1), "adams", 1e-2)


@pytest.mark.parametrize(
    "plan", [fixed_plan("heun", 16), fixed_plan("adams2", 16), Plan("dopri5", local_tolerance=1e-3)]
)
def test_a_plan_that_was_given_is_gauged(plan: Plan) -> None:
    x0, truth = draws(40, seed=5), MEAN + STD * draws(40, seed=5)
    accuracy = gauge(Pilot(gaussian(MEAN, STD), x0, None), plan)
    error = rms(follow(plan, gaussian(MEAN, STD), x0).x1 - truth)
    # The truth of a gauge is a tenth as far off at most, or 1e-4 / 8.
    assert accuracy.rms == pytest.approx(error, rel=0.1, abs=2e-5)


def test_a_plan_with_refinement_is_gauged_as_it_is_followed() -> None:
    pilot = PROBLEMS["small blobs"].pilot()
    plan, _ = calibrate(pilot, "adams", 1e-2)
    end = follow(plan, PROBLEMS["small blobs"].field, pilot.x0).x1
    truth = independent_end(PROBLEMS["small blobs"].field, pilot.x0)
    # The pilot's own truth is off by up to 2 / 16 of the tolerance.
    assert pilot.accuracy(plan).rms == pytest.approx(rms(end - truth), abs=2e-3)


def test_a_pilot_is_a_share_of_what_follows_within_bounds() -> None:
    assert [samples_for(count) for count in (1, 2400, 10_000, 10**6)] == [24, 24, 100, 256]


def test_many_samples_are_expected_to_err_as_a_log_normal_law_says() -> None:
    """Its root mean square is exp(mean + variance) of the logarithm; few samples see less of it."""
    logs = torch.tensor([-0.5, 0.5])  # of variance 1 / 2, as an unbiased estimate
    assert expected(logs.exp()) == pytest.approx(math.exp(0.5)) and rms(logs.exp()) < 1.25
    many = (0.8 * draws(100_000, 1, seed=2)[:, 0] - 7).exp()
    assert expected(many) == pytest.approx(rms(many), rel=0.05)  # 100 000 draws of a heavy tail


def bent(times: list[float], sizes: list[float]) -> Curvature:
    curvature = Curvature()
    curvature.times, curvature.sizes = times, [torch.tensor(size, dtype=torch.float64) for size in sizes]
    return curvature


def test_bends_are_the_same_everywhere_for_velocities_quadratic_in_time() -> None:
    curvature, x = Curvature(), torch.zeros(2, 1, dtype=torch.float64)
    for t in cosine(12).tolist():
        curvature.add(t, power(2)(x, torch.full((2,), t, dtype=torch.float64)))
    assert curvature.times == sorted(curvature.times) and len(curvature.times) == 11
    assert torch.stack(curvature.sizes).tolist() == pytest.approx(
        [3.0] * 11
    )  # half the second derivative of 3 t^2


def test_steps_lie_as_the_cube_root_of_the_bend() -> None:
    equal = from_density(*density(bent([0.0, 1.0], [1.0, 1.0]), spread=0.0), 12)
    torch.testing.assert_close(equal, uniform(12), rtol=0, atol=1e-12)  # rounding
    halves = density(bent([0.0, 0.4999, 0.5001, 1.0], [1.0, 1.0, 8.0, 8.0]), spread=0.0)
    # A third of the steps before the middle; the average over 1 % of t moves an edge by less.
    assert float(from_density(*halves, 12)[4]) == pytest.approx(0.5, abs=5e-3)


def test_spread_steps_lie_as_what_is_left_of_the_way() -> None:
    times, spread = density(bent([0.0, 1.0], [1.0, 1.0]), spread=1.0)
    at = {round(float(t), 4): float(value) for t, value in zip(times, spread, strict=True)}
    assert at[0.0] * 1.01 == pytest.approx(at[0.5] * 0.51) == pytest.approx(at[0.9] * 0.11)
