"""Step sizes per sample: the wanted error is kept, and what a sample takes is its own affair."""

import pytest
import torch
from fields import (
    draws,
    gaussian,
    gaussian_by_label,
    gaussian_state,
    independent_end,
    power,
    rms,
    six_blobs,
)
from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.solvers import integrate
from reflow.solvers.plan import PER_SAMPLE, Plan
from reflow.solvers.solution import follow

MEAN = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
STD = torch.tensor([0.6, 0.3, 1.5], dtype=torch.float64)
NARROW = torch.tensor([0.05, 0.1, 0.02], dtype=torch.float64)  # steep near the data
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)
FIELDS = {"wide": gaussian(MEAN, STD), "narrow": gaussian(MEAN, NARROW), "mixture": six_blobs(0.3)}


def exact_end(name: str, x0: Tensor) -> Tensor:
    if name == "mixture":
        return independent_end(FIELDS[name], x0)
    return MEAN + (STD if name == "wide" else NARROW) * x0


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_the_error_is_within_the_tolerance_and_falls_with_it(solver: str, name: str) -> None:
    x0 = draws(64, 2 if name == "mixture" else 3)
    truth = exact_end(name, x0)
    errors = [
        rms(integrate(FIELDS[name], x0, solver=solver, tolerance=asked).x1 - truth) for asked in TOLERANCES
    ]
    assert all(error <= asked for error, asked in zip(errors, TOLERANCES, strict=True))
    # Steps come in discrete numbers, so one decade may bring less than ten, but three bring 100.
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 100


@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_a_smaller_tolerance_costs_more_evaluations(solver: str) -> None:
    spent = [
        float(integrate(gaussian(MEAN, STD), draws(64), solver=solver, tolerance=asked).nfe.double().mean())
        for asked in TOLERANCES
    ]
    # Step by step it need not: a pair of order five takes some thirty for 1e-2 and for 1e-3 alike.
    assert spent[-1] == max(spent) > 1.3 * spent[0]


def test_a_higher_order_takes_fewer_evaluations_where_the_field_is_smooth() -> None:
    spent, errors = [], []
    for solver in ("adams2", "adams3", "adams4"):
        solution = integrate(gaussian(MEAN, STD), draws(64), solver=solver, tolerance=1e-6)
        spent.append(float(solution.nfe.double().mean()))
        errors.append(rms(solution.x1 - (MEAN + STD * draws(64))))
    assert spent[0] > 1.3 * spent[1] > 1.3 * 1.1 * spent[2]
    assert max(errors) <= 1e-6


@pytest.mark.parametrize(("solver", "each"), [("bosh3", 3), ("dopri5", 6), ("tsit5", 6)])
def test_the_last_stage_of_a_step_is_evaluated_once_with_the_first_of_the_next(
    solver: str, each: int
) -> None:
    """After a step that was rejected, too."""
    nfe = integrate(six_blobs(0.1), draws(30, 2), solver=solver, tolerance=1e-3).nfe
    assert set(((nfe - 1) % each).tolist()) == {0}


def test_adams_takes_one_evaluation_a_step_and_so_fewer_than_runge_kutta() -> None:
    spent = {
        solver: float(
            integrate(six_blobs(0.3), draws(64, 2), solver=solver, tolerance=1e-3).nfe.double().mean()
        )
        for solver in ("adams4", "bosh3", "dopri5", "tsit5")
    }
    assert min(spent, key=lambda solver: spent[solver]) == "adams4"


@pytest.mark.parametrize(("solver", "degree"), [("bosh3", 2), ("dopri5", 4), ("tsit5", 4)])
def test_pairs_are_exact_where_the_velocity_is_a_polynomial_of_lower_degree(
    solver: str, degree: int
) -> None:
    """Whatever the steps: with this tolerance they grow as fast as they may."""
    x1 = integrate(power(degree), torch.zeros(1, 1, dtype=torch.float64), solver=solver, tolerance=1e3).x1
    assert float(x1) == pytest.approx(1, abs=1e-13)  # rounding, coefficients of tsit5 among it


@pytest.mark.parametrize(("order", "bound"), [(2, 1e-8), (3, 1e-8), (4, 1e-8)])
def test_variable_adams_is_nearly_exact_where_the_velocity_is_a_polynomial(
    order: int, bound: float
) -> None:
    """Order k with its corrector integrates degree k; only the first steps, of lower order, are off."""
    plan = Plan(f"adams{order}", local_tolerance=1e-9)
    x1 = follow(plan, power(order), torch.zeros(1, 1, dtype=torch.float64)).x1
    # A step adds at most about the local tolerance, and the few of lower order, at the start, make it up.
    assert float(x1) == pytest.approx(1, abs=bound)


@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_stiff_neighbours_change_a_sample_by_rounding_only(solver: str) -> None:
    x0, label = draws(40, 1), torch.tensor([0, 1, 1, 1] * 10)
    field = gaussian_by_label(0.6, 0.005)
    together = integrate(field, x0, solver=solver, tolerance=1e-3, label=label)
    stiff, mild = together.nfe[label == 1].double(), together.nfe[label == 0].double()
    assert float(stiff.mean()) > float(mild.mean())  # they do need other steps
    for row in range(0, 40, 4):
        one = slice(row, row + 1)
        alone = integrate(field, x0[one], solver=solver, tolerance=1e-3, label=label[one])
        assert torch.equal(alone.nfe, together.nfe[one])
        # A few units in the last place of numbers of order one.
        torch.testing.assert_close(alone.x1, together.x1[one], rtol=0, atol=1e-14)


@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_the_order_of_the_batch_does_not_matter(solver: str) -> None:
    field, x0 = six_blobs(0.1), draws(30, 2)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    first = integrate(field, x0, solver=solver, tolerance=1e-3)
    second = integrate(field, x0[shuffled], solver=solver, tolerance=1e-3)
    assert len(first.nfe.unique()) > 1  # every sample has steps of its own
    assert torch.equal(second.nfe, first.nfe[shuffled])
    torch.testing.assert_close(second.x1, first.x1[shuffled], rtol=0, atol=1e-12)  # rounding


@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_integration_backwards_returns_to_the_noise(solver: str) -> None:
    x0 = draws(16)
    back = integrate(gaussian(MEAN, STD), MEAN + STD * x0, solver=solver, tolerance=1e-5, t0=1.0, t1=0.0).x1
    assert rms(back - x0) <= 1e-5


@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_part_of_the_interval_ends_on_the_closed_form(solver: str) -> None:
    start, end = gaussian_state(draws(16), 0.2, MEAN, STD), gaussian_state(draws(16), 0.7, MEAN, STD)
    x = integrate(gaussian(MEAN, STD), start, solver=solver, tolerance=1e-6, t0=0.2, t1=0.7).x1
    assert rms(x - end) <= 1e-6


@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_single_precision_keeps_the_tolerance_that_its_rounding_allows(solver: str) -> None:
    x0 = draws(32).float()
    solution = integrate(gaussian(MEAN.float(), NARROW.float()), x0, solver=solver, tolerance=1e-4)
    assert solution.x1.dtype == torch.float32
    assert rms(solution.x1.double() - (MEAN + NARROW * x0.double())) <= 1e-4


@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_a_tolerance_below_rounding_is_refused_in_words(solver: str) -> None:
    """In float32, 1e-9 is out of reach of numbers of order one, whose last place is 6e-8."""
    field, x0 = gaussian(MEAN.float(), STD.float()), draws(8).float()
    with pytest.raises(ReflowError, match=r"rounding of torch\.float32; ask for a larger --tolerance"):
        integrate(field, x0, solver=solver, tolerance=1e-9)


def jump(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """Evaluate a field that leaps at t = 0.6, so that no step over it is accurate."""
    return torch.where(t < 0.6, 0.0, 1e6).to(x)[:, None].expand_as(x)


@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_a_field_on_which_steps_shrink_to_nothing_is_refused_in_words(solver: str) -> None:
    with pytest.raises(ReflowError, match=r"step size fell under 1e-06 .* near 0\.(59|60)"):
        integrate(jump, draws(2), solver=solver, tolerance=1e-6)


@pytest.mark.parametrize("field", [gaussian(MEAN, STD), power(0)])
@pytest.mark.parametrize("solver", PER_SAMPLE)
def test_the_last_evaluation_is_not_beyond_the_end(solver: str, field: VelocityField) -> None:
    times: list[Tensor] = []

    def watched(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        times.append(t.clone())
        return field(x, t, label)

    integrate(watched, draws(8), solver=solver, tolerance=1e-2)
    seen = torch.cat(times)
    assert float(seen.min()) == 0 and float(seen.max()) == 1
