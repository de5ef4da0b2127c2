"""A density on a grid is what closed forms, another solver and particles say."""

import math

import numpy as np
import pytest
import torch
from fields import gaussian, mixture
from fits import rng
from torch import Tensor, nn
from torch.func import jvp
from torchdiffeq import odeint

from reflow.data.toys import TOYS
from reflow.flow import VelocityField, interpolate
from reflow.models import build
from reflow.recipes.recipe import MlpSettings
from reflow.report.plane.continuity import Density, Floats, carried
from reflow.report.plane.marginal import beginnings, conditional_velocities, marginal_velocity, shares
from reflow.solvers import trajectory

REACH = 2.0  # of the grid around the moons, which end at 1.3
DOUBLE = torch.zeros(0, dtype=torch.float64)
MEAN, STD = torch.tensor([0.3, -0.5], dtype=torch.float64), torch.tensor([0.4, 0.7], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CENTRES = torch.tensor([[0.9, 0.2], [-0.6, 0.7], [-0.1, -0.8]], dtype=torch.float64)
WIDTHS = torch.tensor([0.2, 0.25, 0.3], dtype=torch.float64)


def nodes(density: Density, moment: int) -> Tensor:
    """Return the points (n * n, 2) of the grid."""
    axis = density.half_widths[moment] * np.linspace(-1, 1, density.values.shape[1])
    return torch.from_numpy(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2))


def mixture_density(x: Tensor, t: float) -> Tensor:
    variance = (1 - t) ** 2 + (t * WIDTHS) ** 2  # (K,)
    squares = (x[:, None] - t * CENTRES).square().sum(-1)
    return (WEIGHTS / (2 * math.pi * variance) * (-squares / (2 * variance)).exp()).sum(1)


def disagreement(density: Density, moment: int, truth: Tensor) -> float:
    """Return the integral of |p - truth|: at most twice a difference of probabilities."""
    spacing = 2 * density.half_widths[moment] / (density.values.shape[1] - 1)
    found = torch.from_numpy(density.values[moment]).flatten()
    return float((found - truth).abs().sum() * spacing**2)


def test_the_density_of_a_gaussian_flow_is_the_closed_form() -> None:
    """log p is a parabola, which splines hold; what remains is the error of forty steps in t."""
    density = carried(gaussian(MEAN, STD), reach=4.0, like=DOUBLE, nodes=41, steps=40)
    for moment, t in enumerate(density.times):
        spread = ((1 - t) ** 2 + (t * STD) ** 2).sqrt()
        z = (nodes(density, moment) - t * MEAN) / spread
        truth = (-z.square().sum(1) / 2).exp() / (2 * math.pi * spread.prod())
        assert disagreement(density, moment, truth) < 2e-4, t
    assert abs(density.masses() - 1).max() < 1e-4


def test_the_density_of_a_mixture_is_the_closed_form() -> None:
    density = carried(mixture(WEIGHTS, CENTRES, WIDTHS), reach=2.0, like=DOUBLE)
    for moment, t in enumerate(density.times):
        # A narrow blob is seven cells wide; the velocity between two is a spline.
        assert disagreement(density, moment, mixture_density(nodes(density, moment), t)) < 2e-3, t
    assert abs(density.masses() - 1).max() < 2e-4
    assert density.half_widths[[0, -1]].tolist() == [5.0, 2.0]


def test_bins_hold_the_mass_of_their_nodes_where_they_lie() -> None:
    density = carried(mixture(WEIGHTS, CENTRES, WIDTHS), reach=2.0, like=DOUBLE, nodes=33, steps=4)
    binned, edges = density.binned(11), density.edges(11)
    assert binned.sum((1, 2)) == pytest.approx(density.masses(), rel=1e-12)
    assert edges[-1, [0, -1]] == pytest.approx([-2 - 2 / 32, 2 + 2 / 32])  # half a cell beyond the nodes
    points = nodes(density, -1).numpy()
    weights = density.values[-1].ravel() * (4 / 32) ** 2
    wanted, _, _ = np.histogram2d(*points.T, bins=(edges[-1], edges[-1]), weights=weights)
    assert binned[-1] == pytest.approx(wanted, abs=1e-12)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """Fit a small network to two moons for a few seconds."""
    torch.manual_seed(0)
    net = build(MlpSettings(kind="mlp", width=32, blocks=2), (2,), None)
    points = torch.from_numpy(TOYS["two-moons"](4096, np.random.default_rng(0))[0]).float()
    adam, source = torch.optim.Adam(net.parameters(), lr=4e-3), rng(1)
    for _ in range(250):
        x1 = points[torch.randint(len(points), (256,), generator=source)]
        x0, t = torch.randn(256, 2, generator=source), torch.rand(256, generator=source)
        loss = (net(interpolate(x0, x1, t), t) - (x1 - x0)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return net.double().eval().requires_grad_(False)


def independent_density(field: VelocityField, x: Tensor, t1: float) -> Tensor:
    """Return p at x and t1 by torchdiffeq, back to the noise with the exact trace."""

    def right_hand_side(t: Tensor, state: Tensor) -> Tensor:
        place, times = state[:, :2], t.expand(len(state))
        velocity, trace = field(place, times), torch.zeros(len(state), dtype=state.dtype)
        for axis in torch.eye(2, dtype=state.dtype):
            along = axis.expand_as(place)
            trace = trace + (jvp(lambda z: field(z, times), (place,), (along,))[1] * along).sum(1)
        return torch.cat([velocity, trace[:, None]], 1)

    start = torch.cat([x, torch.zeros(len(x), 1, dtype=x.dtype)], 1)
    end = odeint(right_hand_side, start, torch.tensor([t1, 0.0]).to(x), rtol=1e-5, atol=1e-5)[-1]
    logs = -end[:, :2].square().sum(1) / 2 - math.log(2 * math.pi) + end[:, 2]
    return logs.exp()


@pytest.fixture(scope="module")
def learned(trained: nn.Module) -> Density:
    return carried(trained, reach=REACH, like=DOUBLE)


def test_the_density_of_a_trained_model_is_what_another_solver_finds(
    trained: nn.Module, learned: Density
) -> None:
    assert abs(learned.masses() - 1).max() < 1e-3
    for moment in (10, 20):
        found = learned.values[moment].ravel()
        likely = np.flatnonzero(found > 0.02 * found.max())
        chosen = np.random.default_rng(moment).choice(likely, 30, replace=False)
        truth = independent_density(trained, nodes(learned, moment)[chosen], learned.times[moment])
        # The moons are 0.05 wide, less than two cells; with 40 times in place of 20 it is 1.5e-2.
        assert abs(found[chosen] - truth.numpy()).max() < 2.5e-2 * found.max()


def histogram(points: Tensor, edges: Floats) -> Floats:
    counts, _, _ = np.histogram2d(*points.numpy().T, bins=(edges, edges))
    return counts / len(points)


def test_particles_carried_by_the_ode_fill_the_density(trained: nn.Module, learned: Density) -> None:
    count, bins = 3000, 9
    moments = [10, 20]
    x0 = torch.randn(count, 2, generator=rng(2), dtype=torch.float64)
    states, _ = trajectory(trained, x0, torch.from_numpy(learned.times[moments]), tolerance=1e-3)
    for moment, state in zip(moments, states, strict=True):
        found, wanted = histogram(state, learned.edges(bins)[moment]), learned.binned(bins)[moment]
        # Counts are binomial: Pearson's sum over K full bins is K within a few sqrt(2 K).
        full = wanted > 5 / count
        statistic = float((count * (found - wanted)[full] ** 2 / wanted[full]).sum())
        assert abs(statistic - full.sum()) < 4 * math.sqrt(2 * full.sum()), moment


def test_the_marginal_velocity_is_the_mean_of_the_lines_through_a_point() -> None:
    """By brute force: of many independent pairs those count whose line passes near x at t."""
    data = torch.tensor([[0.8, 0.1], [-0.5, 0.6], [0.2, -0.9]])
    x, t, count, radius = torch.tensor([0.1, 0.2]), 0.6, 400_000, 0.05
    x1 = data[torch.randint(3, (count,), generator=rng(3))]
    x0 = torch.randn(count, 2, generator=rng(4))
    near = ((1 - t) * x0 + t * x1 - x).norm(dim=1) < radius
    velocities = (x1 - x0)[near]
    error = velocities.std(0) / math.sqrt(len(velocities))
    found = marginal_velocity(x[None], t, data)[0]
    # The disc adds a bias of the order of the radius squared over (1 - t).
    assert ((found - velocities.mean(0)).abs() < 4 * error + 0.01).all()


def test_lines_with_the_conditional_velocities_pass_through_the_point() -> None:
    data = torch.tensor([[0.8, 0.1], [-0.5, 0.6], [0.2, -0.9]])
    x, t = torch.tensor([0.1, 0.2]), 0.6
    x0, velocity = beginnings(x, t, data), conditional_velocities(x[None], t, data)[0]
    torch.testing.assert_close(x0 + velocity, data)
    torch.testing.assert_close(x0 + t * velocity, x.expand(3, 2))
    mean = shares(x[None], t, data)[0] @ velocity
    torch.testing.assert_close(mean, marginal_velocity(x[None], t, data)[0])
