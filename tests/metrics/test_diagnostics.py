"""What is said of a flow is what its closed form says."""

import dataclasses
import itertools
import json
import math

import pytest
import torch
from fields import draws, gaussian, gaussian_by_label, reflowed_gaussian, six_blobs
from torch import Tensor

from reflow.flow import Pair
from reflow.guidance import Guided
from reflow.metrics import diagnostics as module
from reflow.metrics.diagnostics import FlowRows, flow_figures, flow_rows, no_flow_rows
from reflow.metrics.divergence import probes_for
from reflow.metrics.trajectories import (
    acceleration,
    coupling_cost,
    independent_cost,
    optimal_cost,
    straightness,
    straightness_over_t,
)

MEAN, STD = torch.tensor([0.7, -1.0]).double(), torch.tensor([0.5, 1.6]).double()
TIMES = (torch.arange(64, dtype=torch.float64) + 0.5) / 64


def width(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sigma_t of the flow of `gaussian`, its derivative and its second derivative, (M, D) each.

    A trajectory is t m + sigma_t x0.
    """
    time = t[:, None]
    sigma = ((1 - time) ** 2 + (STD * time) ** 2).sqrt()
    return sigma, (STD**2 * time - (1 - time)) / sigma, STD**2 / sigma**3


@pytest.fixture(scope="module")
def rows() -> FlowRows:
    return flow_rows(gaussian(MEAN, STD), draws(40, 2), tolerance=1e-6, probes=None)


def test_straightness_over_t_is_the_distance_of_velocity_and_chord(rows: FlowRows) -> None:
    _, speed, _ = width(TIMES)
    truth = ((STD - 1 - speed).square() * rows.x0[:, None].square()).mean(2)  # (B, M)
    torch.testing.assert_close(rows.straightness, truth, rtol=0, atol=1e-5)
    field = gaussian(MEAN, STD)
    over_t = straightness_over_t(field, rows.x0, tolerance=1e-6)
    torch.testing.assert_close(over_t, rows.straightness, rtol=0, atol=1e-12)
    torch.testing.assert_close(straightness(field, rows.x0, tolerance=1e-6), over_t.mean(1))


def test_the_acceleration_of_a_gaussian_flow_is_the_second_derivative_of_its_width() -> None:
    sigma, speed, bend = width(TIMES)
    x0 = draws(64, 2)
    state, velocity = TIMES[:, None] * MEAN + sigma * x0, MEAN + speed * x0
    found = acceleration(gaussian(MEAN, STD), state, TIMES, velocity)
    torch.testing.assert_close(found, bend * x0, rtol=0, atol=2e-4)


def test_curvature_is_the_integral_of_the_acceleration(rows: FlowRows) -> None:
    """Per dimension E of the integral of |sigma'' x0|^2 is a + 3 pi a^2 / (16 s) with a = 1 + s^2."""
    a = 1 + STD**2
    truth = a + 3 * math.pi * a**2 / (16 * STD)
    # sigma''^2 has a derivative of about 6 at an end, times h^2 / 24 for the midpoint rule.
    torch.testing.assert_close(rows.curvature, (truth * rows.x0.square()).mean(1), rtol=2e-3, atol=1e-3)


def test_the_divergence_of_a_gaussian_flow_is_the_rate_of_its_width(rows: FlowRows) -> None:
    sigma, speed, _ = width(TIMES)
    torch.testing.assert_close(
        rows.divergence[..., 0], (speed / sigma).mean(1).expand(40, 64), rtol=0, atol=1e-9
    )
    figures = flow_figures(rows, exact=True)
    assert figures.divergence_over_t == pytest.approx((speed / sigma).mean(1).tolist(), abs=1e-9)
    assert figures.divergence_spread_over_t == pytest.approx([0.0] * 64, abs=1e-9)


def test_crossing_is_the_loss_on_the_lines_of_the_own_pairs(rows: FlowRows) -> None:
    sigma, speed, _ = width(TIMES)
    line = 1 - TIMES[:, None] + TIMES[:, None] * STD  # of x0 at t, beside t m
    lost = (speed / sigma * line - (STD - 1)).square().mean(0)  # (D,)
    torch.testing.assert_close(rows.crossing, (lost * rows.x0.square()).mean(1), rtol=0, atol=1e-5)


def test_a_reflowed_gaussian_neither_bends_nor_crosses() -> None:
    found = flow_rows(reflowed_gaussian(MEAN, STD), draws(20, 2), tolerance=1e-3, probes=None)
    for part in (found.straightness, found.curvature, found.crossing):
        assert float(part.abs().max()) < 1e-16  # rounding over the step of the difference, squared


def test_the_flow_of_a_gaussian_is_the_optimal_transport(rows: FlowRows) -> None:
    cost = flow_figures(rows, exact=True).transport_cost
    assert cost["samples"] == 40
    assert cost["model"] == pytest.approx(float((MEAN + (STD - 1) * rows.x0).square().mean()), abs=1e-6)
    assert cost["optimal"] == pytest.approx(cost["model"], abs=1e-9)
    assert cost["independent"] > 1.5 * cost["model"]


def test_costs_are_those_of_all_pairs_and_of_the_best_permutation() -> None:
    x0, x1, label = draws(6, 3), draws(6, 3, seed=1) + 0.5, torch.tensor([0, 1, 0, 1, 1, 0])
    squares = (x1[:, None] - x0).square().mean(2)  # (data, noise)
    pair = Pair(x0, x1)
    assert coupling_cost(pair) == pytest.approx(float(squares.diagonal().mean()))
    others = squares[~torch.eye(6, dtype=torch.bool)]
    assert independent_cost(pair) == pytest.approx(float(others.mean()))
    ways = [torch.tensor(way) for way in itertools.permutations(range(6))]
    costs = torch.stack([squares[torch.arange(6), way].mean() for way in ways])
    allowed = torch.stack([(label[way] == label).all() for way in ways])
    assert optimal_cost(pair) == pytest.approx(float(costs.min()))
    assert optimal_cost(pair._replace(label=label)) == pytest.approx(float(costs[allowed].min()))
    assert float(costs.min()) < float(costs[allowed].min())  # the labels matter


def test_probes_tell_the_spread_of_the_divergence_without_their_own() -> None:
    """The divergence of x_i k + x_(i + 1) is k per dimension for label k; probes see the rest as well."""

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        assert label is not None
        return (label[:, None] * x + x.roll(-1, 1)) / 4

    n, label = 800, torch.arange(800) % 3
    probes = probes_for(0, "spread", range(n), 2, (4,))
    found = flow_rows(field, draws(n, 4), label, tolerance=1e-1, probes=probes)
    assert found.divergence.shape == (n, 64, 2)
    figures = flow_figures(found, exact=False)
    assert figures.divergence_over_t[7] == pytest.approx(1 / 4, abs=0.01)
    assert figures.divergence_spread_over_t is not None
    # The probes' own variance is 1 / 64, of which half would be left in; that of the labels is 1 / 24.
    assert figures.divergence_spread_over_t[7] == pytest.approx(24**-0.5, rel=0.03)
    assert (figures.trace, figures.probes) == ("hutchinson", 2)
    single = found._replace(divergence=found.divergence[:, :, :1])
    assert flow_figures(single, exact=False).divergence_spread_over_t is None


def test_probes_that_scatter_more_than_samples_leave_no_spread(rows: FlowRows) -> None:
    alike = torch.tensor([-1.0, 1.0]).expand(40, 64, 2)  # of variance -1 without the probes' own
    figures = flow_figures(rows._replace(divergence=alike), exact=False)
    assert figures.divergence_spread_over_t == [0.0] * 64


def test_costs_are_of_the_first_pairs_within_their_labels(
    rows: FlowRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 6)
    some = rows._replace(x0=rows.x0.flip(0), label=torch.arange(40) % 2)
    cost, pair = (
        flow_figures(some, exact=True).transport_cost,
        Pair(some.x0[:6], some.x1[:6], some.label[:6]),
    )
    assert cost["samples"] == 6
    assert cost["model"] == coupling_cost(pair)
    assert cost["independent"] == independent_cost(pair)
    assert cost["optimal"] == optimal_cost(pair)
    assert optimal_cost(pair) > optimal_cost(pair._replace(label=None))  # labels matter
    assert flow_figures(some, exact=True).samples == 40


def test_rows_of_parts_are_the_rows_of_the_whole() -> None:
    field, x0, label = gaussian_by_label(0.3, 1.2), draws(20, 1), torch.arange(20) % 2
    whole = flow_rows(field, x0, label, tolerance=1e-3, probes=None)
    parts = [
        flow_rows(field, x0[part], label[part], tolerance=1e-3, probes=None)
        for part in (slice(0, 7), slice(7, 20))
    ]
    for one, *others in zip(whole, *(no_flow_rows((1,), 1), *parts), strict=True):
        torch.testing.assert_close(torch.cat(others).to(one), one, rtol=0, atol=1e-9)
    assert torch.equal(whole.label, label)
    double = flow_rows(Guided(field, 1, 1.0), x0, label, tolerance=1e-3, probes=None)
    assert torch.equal(double.nfe, 2 * whole.nfe)


def test_figures_are_means_and_go_through_json(rows: FlowRows) -> None:
    found = json.loads(json.dumps(dataclasses.asdict(flow_figures(rows, exact=True))))
    assert found["times"] == TIMES.tolist()
    assert found["straightness_over_t"] == pytest.approx(rows.straightness.mean(0).tolist())
    assert found["straightness"] == pytest.approx(float(rows.straightness.mean()))
    assert found["curvature"] == pytest.approx(float(rows.curvature.mean()))
    assert found["crossing"] == pytest.approx(float(rows.crossing.mean()))
    each = {
        "straightness": rows.straightness.mean(1),
        "curvature": rows.curvature,
        "crossing": rows.crossing,
    }
    assert found["errors"] == pytest.approx({name: float(x.std()) / 40**0.5 for name, x in each.items()})
    assert found["nfe"] == float(rows.nfe.double().mean())
    assert (found["samples"], found["trace"], found["probes"]) == (40, "exact", None)


def test_a_mixture_bends_and_its_flow_is_near_to_the_optimum() -> None:
    found = flow_rows(six_blobs(0.2), draws(60, 2), tolerance=1e-3, probes=None)
    figures = flow_figures(found, exact=True)
    cost = figures.transport_cost
    assert cost["optimal"] <= cost["model"] < cost["independent"]
    assert min(figures.straightness, figures.crossing, figures.curvature) > 0.05
    assert figures.divergence_spread_over_t is not None
    assert max(figures.divergence_spread_over_t) > 0.1
