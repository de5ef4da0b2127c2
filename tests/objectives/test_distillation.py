"""Distillation: the exact answer is where every objective vanishes."""

import pytest
import torch
from fields import batch_of, gaussian, gaussian_average, reflowed_gaussian
from fits import rng
from torch import Tensor, nn

from reflow.flow import Pair, interpolate
from reflow.objectives.distances import squared
from reflow.objectives.distillation import (
    AverageVelocity,
    consistency_objective,
    heun_velocity,
    mean_flow_objective,
    regression_objective,
    same_dropout,
)
from reflow.solvers import integrate

MEAN = torch.tensor([0.7, -1.0, 0.0], dtype=torch.float64)
STD = torch.tensor([0.2, 0.6, 1.5], dtype=torch.float64)
CURVED, STRAIGHT = gaussian(MEAN, STD), reflowed_gaussian(MEAN, STD)
N = 400


def made_pairs() -> Pair:
    """Return pairs of the flow: (x0, m + s x0)."""
    x0 = torch.randn(N, 3, generator=rng(), dtype=torch.float64)
    return Pair(x0, MEAN + STD * x0)


def off(field: AverageVelocity) -> AverageVelocity:
    """Return the field and a little more."""

    def more(x: Tensor, t: Tensor, label: Tensor | None = None, *end_time: Tensor) -> Tensor:
        return field(x, t, label, *end_time) + 0.1 * torch.sin(x)

    return more


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_exact_averages_regress_to_nothing(steps: int) -> None:
    """The flow's own pairs, whose ends are reached exactly in any number of steps."""
    average = gaussian_average(MEAN, STD, steps)
    objective = regression_objective(steps, squared)
    assert float(objective(average, made_pairs(), batch_of(N, rng())).each.max()) < 1e-28  # rounding
    assert float(objective(off(average), made_pairs(), batch_of(N, rng())).each.mean()) > 1e-4


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_exact_averages_are_consistent(steps: int) -> None:
    """On straight trajectories without error, on curved ones but for the error of Heun's steps."""

    def average(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return STRAIGHT(x, t, label)  # a straight trajectory's velocity is its average

    straight = consistency_objective(STRAIGHT, steps, 4, squared)
    assert float(straight(average, made_pairs(), batch_of(N, rng())).each.max()) < 1e-28
    assert float(straight(off(average), made_pairs(), batch_of(N, rng())).each.mean()) > 1e-6

    def error(intervals: int) -> float:
        curved = consistency_objective(CURVED, steps, intervals, squared)
        pair = Pair(made_pairs().x0, made_pairs().x1.flip(0))
        exact = gaussian_average(MEAN, STD, steps)
        return float(curved(exact, pair, batch_of(N, rng())).each.mean().sqrt())

    assert error(512 // steps) < 1e-6
    # A step's error is of order three; over what is left of the window, of two near its end.
    assert 3.5 < error(16) / error(32) < 10


def test_exact_averages_are_a_mean_flow() -> None:
    """Any points will do: the identity holds along every trajectory."""
    pair = Pair(made_pairs().x0, 3 * made_pairs().x1.flip(0))
    exact = gaussian_average(MEAN, STD)
    objective = mean_flow_objective(CURVED, 0.25, squared)
    losses = objective(exact, pair, batch_of(N, rng()))
    assert float(losses.each.max()) < 1e-26  # rounding, through a derivative
    assert losses.t is not None
    assert float(losses.t.min()) < 0.01 < 0.99 < float(losses.t.max())
    assert float(objective(off(exact), pair, batch_of(N, rng())).each.mean()) > 1e-4
    elsewhere = mean_flow_objective(STRAIGHT, 0.25, squared)
    assert float(elsewhere(exact, pair, batch_of(N, rng())).each.mean()) > 1e-3


def test_without_span_the_velocity_itself_is_learnt() -> None:
    seen: list[Tensor] = []

    def watched(
        x: Tensor, t: Tensor, label: Tensor | None = None, end_time: Tensor | None = None
    ) -> Tensor:
        assert end_time is not None
        seen.append((end_time - t).detach())
        return gaussian_average(MEAN, STD)(x, t, label, end_time)

    n = 4000
    x0 = torch.randn(n, 3, generator=rng(), dtype=torch.float64)
    mean_flow_objective(CURVED, 0.25, squared)(watched, Pair(x0, x0), batch_of(n, rng()))
    share = float((seen[-1] == 0).double().mean())
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5
    assert float(seen[-1].max()) > 0.95


def test_one_step_of_the_exact_average_is_exact() -> None:
    pair = made_pairs()
    average = gaussian_average(MEAN, STD)
    for steps in (1, 3):

        def field(x: Tensor, t: Tensor, label: Tensor | None = None, steps: int = steps) -> Tensor:
            return average(x, t, label, t + 1 / steps)

        end = integrate(field, pair.x0, solver="euler", steps=steps).x1
        torch.testing.assert_close(end, pair.x1, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["consistency", "meanflow"])
def test_targets_take_no_gradient(name: str) -> None:
    """A linear student u = a x: the gradient is that with the target held."""
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def student(x: Tensor, t: Tensor, label: Tensor | None = None, *end_time: Tensor) -> Tensor:  # noqa: ARG001
        return a * x

    pair = made_pairs()
    t = (torch.arange(N) + torch.rand(N, generator=rng(1)).double()) / N
    xt = interpolate(*pair[:2], t)
    if name == "consistency":
        objective = consistency_objective(STRAIGHT, 1, 4, squared)
        later = (t + 0.25).clamp(max=1)
        velocity = heun_velocity(STRAIGHT, xt, t, later, None)
        moved = xt + (later - t)[:, None] * velocity
        done = ((later - t) / (1 - t))[:, None]
        target = done * velocity + (1 - done) * 0.6 * moved
    else:
        objective = mean_flow_objective(STRAIGHT, 0.0, squared)
        velocity = STRAIGHT(xt, t)
        source = rng(1)
        torch.rand(N, generator=source)
        share = torch.rand(N, generator=source).double()
        target = velocity + ((1 - t) * share)[:, None] * 0.6 * velocity  # du/dt = a v
    objective(student, pair, batch_of(N, rng(1))).each.mean().backward()
    wanted = (2 * (0.6 * xt - target) * xt).mean()
    assert a.grad is not None
    torch.testing.assert_close(a.grad, wanted, rtol=1e-5, atol=0)  # times are drawn in float32


def test_a_student_of_windows_does_not_look_past_their_ends() -> None:
    times: list[Tensor] = []

    def watched(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        times.append(t)
        return STRAIGHT(x, t, label)

    objective = consistency_objective(watched, 2, 4, squared)
    objective(STRAIGHT, made_pairs(), batch_of(N, rng()))
    first, later = times
    assert bool((later > first).all())
    assert float((later - first).max()) <= 1 / 8 + 1e-7
    assert not bool(((first < 0.5) & (later > 0.5)).any())
    assert float(later.max()) <= 1


def test_both_passes_silence_the_same_units() -> None:
    """Dropout moves a consistent student's target as it moves the student: nothing is left between them."""
    dropout = nn.Dropout(0.5)
    x = torch.ones(2000)
    with same_dropout(x.device):
        inside = dropout(x)
    assert torch.equal(dropout(x), inside)
    assert not torch.equal(dropout(x), inside)  # the block does not stop the stream

    class Silenced(nn.Module):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None, *end_time: Tensor) -> Tensor:  # noqa: ARG002
            return dropout(torch.ones_like(x))

    def teacher(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return torch.zeros_like(x)

    zeros = torch.zeros(N, 3)
    late = consistency_objective(teacher, 1, 10**6, squared)  # steps so short that it is the pass itself
    losses = late(Silenced(), Pair(zeros, zeros), batch_of(N, rng()))
    assert float(losses.each[: N - 8].max()) < 1e-3


@pytest.mark.parametrize("steps", [1, 3, 49])
def test_times_at_the_ends_of_windows_are_no_case(steps: int) -> None:
    class Ends:
        """Draws that put t on the ends of windows, as rounding may."""

        batch = steps + 1

        def places(self) -> Tensor:
            return torch.arange(steps + 1)

        def uniform(self) -> Tensor:
            return torch.arange(steps + 1) / steps  # t = j / k, which is clamped at 0 and 1

    x0 = torch.zeros(steps + 1, 3, dtype=torch.float64)
    objective = consistency_objective(STRAIGHT, steps, 4, squared)
    losses = objective(STRAIGHT, Pair(x0, x0), Ends())  # type: ignore[arg-type]
    assert bool(losses.each.isfinite().all())
    assert losses.t is not None
    assert float(losses.t.max()) < 1
