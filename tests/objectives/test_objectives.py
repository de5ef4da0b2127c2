"""Objectives: what is least, what vanishes, and that students train as they sample."""

import math

import pytest
import torch
from fields import batch_of, gaussian, mixture, reflowed_gaussian
from fits import UNIFORM_LOSS, network, rng
from torch import Tensor

from reflow.flow import Pair, interpolate, velocity_objective
from reflow.objectives.distances import squared
from reflow.objectives.distillation import regression_objective
from reflow.objectives.times import stratified, uniform
from reflow.randomness import Draws
from reflow.solvers import integrate


def test_the_least_loss_of_a_gaussian_flow_is_known() -> None:
    """With the exact field it is s pi / 2 per dimension: what remains where paths cross."""
    mean, std = torch.tensor([0.7, -1.0, 0.0]), torch.tensor([0.2, 0.6, 1.5])
    n = 200_000
    x0 = torch.randn(n, 3, generator=rng())
    pair = Pair(x0, mean + std * torch.randn(n, 3, generator=rng(1)))
    loss = UNIFORM_LOSS(gaussian(mean, std), pair, batch_of(n, rng(2))).each
    assert loss.shape == (n,)
    error = float(loss.std()) / n**0.5  # stratified times make it smaller still
    assert error < 0.003 * float(loss.mean())  # the next line says something
    assert abs(float(loss.mean()) - float(std.mean()) * math.pi / 2) < 4 * error
    elsewhere = UNIFORM_LOSS(gaussian(mean, 1.3 * std), pair, batch_of(n, rng(2))).each
    assert float((elsewhere - loss).mean()) > 10 * error  # other fields lose more


def test_the_loss_of_the_exact_field_vanishes_after_reflow() -> None:
    mean, std = torch.tensor([0.7, -1.0]).double(), torch.tensor([0.2, 1.5]).double()
    x0 = torch.randn(1000, 2, generator=rng(), dtype=torch.float64)
    pair = Pair(x0, mean + std * x0)

    def times(draws: Draws) -> Tensor:
        return stratified(uniform)(draws).double()

    draws = batch_of(1000, rng())
    loss = velocity_objective(times, squared)(reflowed_gaussian(mean, std), pair, draws).each
    assert float(loss.max()) < 1e-28  # the square of the rounding of float64


def test_the_objective_hands_labels_to_the_field() -> None:
    def labelled(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        assert label is not None
        return label[:, None].expand_as(x).float()

    label = torch.tensor([0, 1, 2, 3])
    pair = Pair(torch.zeros(4, 2), label[:, None].expand(4, 2).float(), label)
    for objective in (UNIFORM_LOSS, regression_objective(2, squared)):
        assert torch.equal(objective(labelled, pair, batch_of(4, rng())).each, torch.zeros(4))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_student_is_trained_on_the_error_it_is_sampled_with(steps: int) -> None:
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]]).double()
    exact = mixture(torch.tensor([0.3, 0.7]).double(), means, torch.tensor([0.2, 0.4]).double())
    x0, x1 = torch.randn(2, 50, 2, generator=rng(), dtype=torch.float64)
    loss = regression_objective(steps, squared)(exact, Pair(x0, x1), batch_of(50, rng())).each
    end = integrate(exact, x0, solver="euler", steps=steps).x1
    wanted = (end - x1).square().mean(1)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)  # rounding


def test_a_student_of_images_is_trained_on_the_error_it_is_sampled_with() -> None:
    net = network("unet")
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=rng()))
    x0, x1 = torch.randn(2, 5, 1, 8, 8, generator=rng())
    with torch.no_grad():
        loss = regression_objective(3, squared)(net, Pair(x0, x1), batch_of(5, rng())).each
    end = integrate(net, x0, solver="euler", steps=3).x1
    torch.testing.assert_close(loss, (end - x1).square().flatten(1).mean(1), rtol=1e-5, atol=0)


def test_gradients_of_a_student_pass_through_all_of_its_steps() -> None:
    """For v = a x, two steps end at (1 + a / 2)^2 x0, whose derivative by a is (1 + a / 2) x0."""
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def linear(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return a * x

    one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    regression_objective(2, squared)(linear, Pair(one, zero), batch_of(1, rng())).each.sum().backward()
    assert a.grad is not None
    assert float(a.grad) == pytest.approx(2 * 1.3**2 * 1.3, rel=1e-14)


@pytest.mark.parametrize("shape", [(6, 2), (6, 1, 4, 4)])
def test_interpolation_is_the_straight_line(shape: tuple[int, ...]) -> None:
    x0, x1 = torch.randn(2, *shape, generator=rng(), dtype=torch.float64)
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    xt = interpolate(x0, x1, t)
    assert torch.equal(xt[0], x0[0])  # noise at t = 0
    assert torch.equal(xt[-1], x1[-1])  # data at t = 1
    for row in range(6):
        wanted = (1 - t[row]) * x0[row] + t[row] * x1[row]
        torch.testing.assert_close(xt[row], wanted, rtol=1e-14, atol=1e-15)  # rounding
