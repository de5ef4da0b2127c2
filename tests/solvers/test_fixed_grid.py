"""Fixed-grid methods: their orders, and the problems that they solve exactly."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fields import data_set, draws, gaussian, gaussian_by_label, hyperbola, power, reflowed_gaussian, rms
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reflow.flow import VelocityField
from reflow.solvers import integrate
from reflow.solvers.fixed_grid import (
    METHODS,
    RowBuilder,
    Scheduled,
    adams,
    dpm,
    integral_weights,
    runge_kutta,
)
from reflow.solvers.grids import cosine, uniform
from reflow.solvers.plan import Plan
from reflow.solvers.solution import follow, solve_all
from reflow.solvers.tableaus import BOSH3, DOPRI5, TSIT5, Tableau

MEAN = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
STD = torch.tensor([0.6, 0.3, 1.5], dtype=torch.float64)
PAIRS = {"bosh3": BOSH3, "dopri5": DOPRI5, "tsit5": TSIT5}
PAIR_ORDERS = {"bosh3": 3, "dopri5": 5, "tsit5": 5}


MIXED = gaussian_by_label(0.6, 0.05, 0.005)  # ever stiffer


def squared(steps: int) -> Tensor:
    """Return steps that grow from the noise to the data."""
    return uniform(steps) ** 2


def solved(method: RowBuilder, nodes: Tensor, field: VelocityField, x0: Tensor) -> Tensor:
    return solve_all(field, Scheduled([method(nodes)], x0), x0, None).x1


def observed_orders(errors: list[float]) -> list[float]:
    """Return log2 of the ratios of errors whose steps are halved from one to the next."""
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


def orders_on_the_hyperbola(
    method: RowBuilder, grid: Callable[[int], Tensor], steps: tuple[int, ...]
) -> list[float]:
    x0 = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)[:, None]
    return observed_orders([rms(solved(method, grid(n), hyperbola, x0) - x0 / (1 + x0)) for n in steps])


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_runge_kutta_methods_converge_at_their_order(name: str, order: int) -> None:
    # The next term of the error moves log2 of the ratio by O(1 / steps).
    orders = orders_on_the_hyperbola(METHODS[name], uniform, (30, 60, 120))
    assert orders == pytest.approx([order] * 2, abs=0.25)


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_converge_at_their_order_and_their_companions_at_one_less(name: str) -> None:
    """The estimate is the difference of the two: of the order of the companion."""
    tableau, order = PAIRS[name], PAIR_ORDERS[name]
    assert tableau.order == order and tableau.error is not None
    assert sum(tableau.error) == pytest.approx(0, abs=1e-14)  # rounding
    companion = replace(tableau, b=tuple(b - e for b, e in zip(tableau.b, tableau.error, strict=True)))
    for weights, wanted in ((tableau, order), (companion, order - 1)):
        orders = orders_on_the_hyperbola(runge_kutta(weights), uniform, (15, 30, 60))
        # The next term of the error moves log2 of the ratio by O(1 / steps).
        assert orders == pytest.approx([wanted] * 2, abs=0.4)


@pytest.mark.parametrize("tableau", PAIRS.values(), ids=PAIRS)
def test_the_last_stage_of_a_pair_is_the_first_of_the_next_step(tableau: Tableau) -> None:
    assert tableau.a[-1] == tableau.b[:-1] and tableau.b[-1] == 0
    for c, row in zip(tableau.c, tableau.a, strict=True):
        assert sum(row) == pytest.approx(c, abs=1e-14)  # rounding


@pytest.mark.parametrize("grid", [cosine, squared])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_adams_converges_at_least_at_its_order_on_uneven_grids(
    order: int, grid: Callable[[int], Tensor]
) -> None:
    """The first steps, which are of lower order, are short on these grids."""
    orders = orders_on_the_hyperbola(adams(order), grid, (40, 80, 160))
    assert min(orders) > order - 0.3  # the next term of the error moves it by O(1 / steps)


@pytest.mark.parametrize(
    ("solver", "order"),
    [("euler", 1), ("midpoint", 3), ("heun", 2), ("rk4", 4), ("adams2", 2), ("adams3", 3), ("adams4", 4)],
)
def test_fixed_solvers_converge_to_the_flow_of_a_gaussian(solver: str, order: int) -> None:
    """Where the variance of xt is quadratic in t, the leading error of midpoint cancels."""
    x0 = draws(32)
    errors = [
        rms(integrate(gaussian(MEAN, STD), x0, solver=solver, steps=n).x1 - (MEAN + STD * x0))
        for n in (64, 128, 256)
    ]
    # The next term of the error moves log2 of the ratio by O(1 / steps); Adams may do better.
    orders = observed_orders(errors)
    if solver.startswith("adams"):
        assert min(orders) > order - 0.25
    else:
        assert orders == pytest.approx([order] * 2, abs=0.15)


def test_dpm_solver_converges_at_order_two_to_the_flow_of_a_gaussian() -> None:
    x0 = draws(32)
    errors = [
        rms(integrate(gaussian(MEAN, STD), x0, solver="dpm2m", steps=n).x1 - (MEAN + STD * x0))
        for n in (64, 128, 256)
    ]
    # The next term of the error moves log2 of the ratio by O(1 / steps).
    assert observed_orders(errors) == pytest.approx([2] * 2, abs=0.25)


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


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("grid", [uniform, cosine, squared])
def test_dpm_solver_is_exact_for_a_data_set_of_one_point(grid: Callable[[int], Tensor], steps: int) -> None:
    """There the data prediction is constant."""
    point = torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    x1 = solved(dpm, grid(steps), data_set(point), draws(16, 2))
    torch.testing.assert_close(x1, point.expand(16, 2), rtol=0, atol=1e-13)  # rounding of float64


@given(
    st.integers(1, 5).flatmap(
        lambda k: st.tuples(
            st.lists(st.floats(0.2, 1.0), min_size=k, max_size=k),
            st.lists(st.floats(-2, 2), min_size=k, max_size=k),
        )
    ),
    st.floats(0.3, 1.0),
)
def test_integral_weights_are_exact_for_polynomials_through_all_nodes(
    gaps_and_coefficients: tuple[list[float], list[float]], h: float
) -> None:
    gaps, coefficients = gaps_and_coefficients
    nodes = [1.0 - distance for distance in itertools.accumulate(gaps, initial=0.0)][: len(gaps)]
    weights = integral_weights(nodes, 1.0, 1.0 + h)

    def value(t: float) -> float:
        return sum(c * (t - 1) ** k for k, c in enumerate(coefficients))

    integral = sum(c * h ** (k + 1) / (k + 1) for k, c in enumerate(coefficients))
    quadrature = sum(weight * value(node) for weight, node in zip(weights, nodes, strict=True))
    # Rounding of float64, times weights and values of up to some thousands.
    assert quadrature == pytest.approx(integral, abs=1e-9)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([0, -1], [3 / 2, -1 / 2]),
        ([0, -1, -2], [23 / 12, -16 / 12, 5 / 12]),
        ([0, -1, -2, -3], [55 / 24, -59 / 24, 37 / 24, -9 / 24]),
        ([1, 0], [1 / 2, 1 / 2]),
        ([1, 0, -1], [5 / 12, 8 / 12, -1 / 12]),
        ([1, 0, -1, -2], [9 / 24, 19 / 24, -5 / 24, 1 / 24]),
    ],
)
def test_equal_steps_have_the_weights_of_adams_bashforth_and_moulton(
    nodes: list[float], weights: list[float]
) -> None:
    """Hairer, Norsett & Wanner, Solving ODEs I, section III.1."""
    assert integral_weights(nodes, 0, 1) == pytest.approx(weights, abs=1e-14)  # rounding


@given(
    st.integers(2, 4).flatmap(lambda k: st.tuples(st.just(k), st.integers(0, k - 1))),
    st.lists(st.floats(0.05, 1.0), min_size=3, max_size=12),
)
def test_adams_is_exact_where_the_velocity_is_a_polynomial_of_lower_degree(
    order_and_degree: tuple[int, int], gaps: list[float]
) -> None:
    """The order grows from two with the first steps: so short ones come first, on any grid."""
    order, degree = order_and_degree
    start = [10.0**k for k in range(-7, -1)]  # one of 1e-7 and order two is off by 1e-21
    edges = torch.tensor([0.0, *itertools.accumulate([*start, *gaps])], dtype=torch.float64)
    x1 = solved(adams(order), edges / edges[-1], power(degree), torch.zeros(1, 1, dtype=torch.float64))
    # Rounding: where steps grow tenfold and more at once, weights are of the order of thousands.
    assert float(x1) == pytest.approx(1, abs=1e-11)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_adams_is_not_exact_for_one_degree_more(order: int) -> None:
    x1 = solved(adams(order), cosine(12), power(order), torch.zeros(1, 1, dtype=torch.float64))
    assert abs(float(x1) - 1) > 1e-5


def refined(*grids: int, limit: float | None = None) -> Plan:
    nodes, *finer = (tuple(cosine(steps).tolist()) for steps in grids)
    return Plan("adams3", nodes, finer=tuple(finer), limit=limit)


def test_samples_over_the_limit_are_solved_again_more_finely_and_others_are_not() -> None:
    x0, label = draws(30, 1), torch.arange(30) % 3
    plan = refined(12, 24, 48, limit=0.003)
    solution = follow(plan, MIXED, x0, label=label, batch=7)
    for nfe, steps in ((13, 12), (13 + 25, 24), (13 + 25 + 49, 48)):
        rows = solution.nfe == nfe
        assert rows.any()  # so all three kinds are there
        direct = follow(refined(steps), MIXED, x0[rows], label=label[rows])
        torch.testing.assert_close(solution.x1[rows], direct.x1, rtol=0, atol=1e-13)  # rounding
    assert set(solution.nfe.tolist()) == {13, 38, 87}


@pytest.mark.parametrize(("limit", "nfe"), [(0.2499, 3 + 5), (0.2501, 3), (None, 3)])
def test_a_samples_estimate_is_what_its_corrections_add_up_to(limit: float | None, nfe: int) -> None:
    """Along dx/dt = 2 t, Euler's predictor is corrected by h^2 = 1/4, that of order two by nothing."""
    fine, coarse = (tuple(uniform(steps).tolist()) for steps in (4, 2))
    plan = Plan("adams2", coarse, finer=(fine,), limit=limit)
    assert follow(plan, power(1), torch.zeros(1, 1, dtype=torch.float64)).nfe.tolist() == [nfe]
