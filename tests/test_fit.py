"""Training: it converges to the exact field, averages by half-life, and resumes bit for bit."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from fields import batch_of, data_set, gaussian, mixture, reflowed_gaussian
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from reflow import ema
from reflow.couplings import Independent
from reflow.distances import squared
from reflow.distributed import ALONE
from reflow.draws import Draws
from reflow.fit import SCHEDULES, Fit
from reflow.flow import (
    Losses,
    Objective,
    Pair,
    VelocityField,
    interpolate,
    regression_objective,
    velocity_objective,
)
from reflow.models import build
from reflow.settings import FitSettings, MlpSettings, UnetSettings
from reflow.solvers import integrate
from reflow.times import stratified, uniform

CPU = torch.device("cpu")
UNIFORM_LOSS = velocity_objective(stratified(uniform), squared)
POINTS = torch.tensor([[0.8, 0.3], [-0.6, 0.5], [0.1, -0.9]])


@dataclass
class Memory:
    """A data set in memory."""

    data: Tensor

    def __len__(self) -> int:
        return len(self.data)

    def raw(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor | None]:
        return self.data[torch.from_numpy(rows)], None


@dataclass
class Watched:
    """An objective that keeps its losses and weighs some steps more than others."""

    inner: Objective
    weight: Callable[[int], float] = lambda step: 1.0  # noqa: ARG005
    losses: list[float] = field(default_factory=list)

    def __call__(self, net: VelocityField, pair: Pair, draws: Draws) -> Losses:
        each, t = self.inner(net, pair, draws)
        each = self.weight(len(self.losses)) * each
        self.losses.append(float(each.detach().mean()))
        return Losses(each, t)


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def fit_settings(**chosen: object) -> FitSettings:
    usual = {"steps": 20, "batch": 16, "lr": 1e-2, "ema_halflife": 2.0}
    return FitSettings.model_validate(usual | chosen)


def network(kind: str = "mlp", dropout: float = 0.0, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "mlp":
        return build(MlpSettings(kind="mlp", width=16, blocks=2, dropout=dropout), (2,), None)
    settings = UnetSettings(kind="unet", channels=8, dropout=dropout, attention=(4,))
    return build(settings, (1, 8, 8), None)


def begin(
    settings: FitSettings,
    net: nn.Module | None = None,
    *,
    data: Tensor = POINTS,
    objective: Objective = UNIFORM_LOSS,
) -> Fit:
    net = network() if net is None else net
    return Fit(
        net,
        copy.deepcopy(net).requires_grad_(False),
        Independent(Memory(data), seed=0),
        objective,
        settings,
        seed=0,
        stream="test",
        device=CPU,
    )


def advance(fit: Fit, steps: int) -> Fit:
    for _ in range(steps):
        fit.advance()
    return fit


def error_of_velocity(net: nn.Module) -> float:
    """Return the RMS difference from the exact field on the paths with t in [0.05, 0.9]."""
    n, source = 4000, rng(99)
    x0 = torch.randn(n, 2, generator=source)
    x1 = POINTS[torch.randint(3, (n,), generator=source)]
    t = 0.05 + 0.85 * torch.rand(n, generator=source)  # it is singular at t = 1
    xt = interpolate(x0, x1, t)
    with torch.no_grad():
        return float((net(xt, t) - data_set(POINTS)(xt, t)).square().mean().sqrt())


def test_training_converges_to_the_exact_velocity_of_a_data_set() -> None:
    torch.manual_seed(0)
    net = build(MlpSettings(kind="mlp", width=64, blocks=2, sigma_data=0.6), (2,), None)
    settings = fit_settings(steps=500, batch=256, lr=5e-3, warmup=30, schedule="cosine", ema_halflife=30.0)
    fit = begin(settings, net)
    before = error_of_velocity(fit.average)
    advance(fit, settings.steps)
    # The velocity itself has an RMS of 0.86. Measured over four seeds: 0.067 to 0.083, and 0.58 before.
    assert error_of_velocity(fit.average) < 0.12
    assert error_of_velocity(fit.average) < before / 4


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


@pytest.mark.parametrize("halflife", [1.0, 7.0, 50.0])
def test_after_a_half_life_the_average_has_gone_half_the_way(halflife: float) -> None:
    average = torch.zeros(3, dtype=torch.float64)
    warm = int(halflife / ema.RAMP)  # from here on the ramp is over
    for step in range(warm, warm + int(halflife)):
        ema.update([average], [torch.ones(3, dtype=torch.float64)], step, halflife)
    torch.testing.assert_close(average, torch.full_like(average, 0.5), rtol=1e-12, atol=0)


def test_early_averages_forget_the_initial_weights() -> None:
    """Of the start, steps 1 to n leave 2^-(1 / 0.05) (1 + 1/2 + ... + 1/n)."""
    average = torch.ones(1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    for step in range(1, 11):
        ema.update([average], [zero], step, halflife=1e6)
        left = 0.5 ** (20 * sum(1 / k for k in range(1, step + 1)))
        # 1 - (1 - 2^-20) in float64 keeps 10 digits of 2^-20.
        assert float(average) == pytest.approx(left, rel=1e-8)


def test_late_averages_have_the_half_life_asked_for_and_not_the_ramp() -> None:
    moved = []
    for step in (100, 10_000):
        average = torch.zeros(1, dtype=torch.float64)
        ema.update([average], [torch.ones(1, dtype=torch.float64)], step, halflife=20.0)
        moved.append(float(average))
    ramp, late = 1 - 0.5 ** (1 / 5), 1 - 0.5 ** (1 / 20)
    assert moved == pytest.approx([ramp, late], rel=1e-12)


def test_the_average_of_a_fit_follows_its_weights() -> None:
    fit = begin(fit_settings(ema_halflife=0.3))
    wanted = {name: weight.detach().double() for name, weight in fit.weights.items()}
    for step in range(1, 9):
        fit.advance()
        keep = 0.5 ** (1 / min(0.3, 0.05 * step))
        for name, weight in fit.weights.items():
            wanted[name] = keep * wanted[name] + (1 - keep) * weight.detach().double()
    for name, average in fit.averages.items():
        # Rounding of float32 over eight steps.
        torch.testing.assert_close(average.double(), wanted[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.25, 0.5 * 0.9, 0.75 * 0.8, 0.7, 0.5, 0.1, 0.0]),
        (
            "cosine",
            [math.cos(math.pi * s / 20) ** 2 * w for s, w in ((0, 0.25), (1, 0.5), (2, 0.75))]
            + [math.cos(math.pi * s / 20) ** 2 for s in (3, 5, 9, 10)],
        ),
    ],
)
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule: str, wanted: list[float]) -> None:
    fit = begin(fit_settings(steps=10, lr=0.5, warmup=3, schedule=schedule))
    rates = []
    for step in (0, 1, 2, 3, 5, 9, 10):
        fit.step = step
        rates.append(fit.learning_rate())
    assert rates == pytest.approx([0.5 * share for share in wanted], rel=1e-12, abs=1e-16)


def test_the_recipe_knows_exactly_the_schedules_there_are() -> None:
    annotation = FitSettings.model_fields["schedule"].annotation
    assert set(getattr(annotation, "__args__", ())) == set(SCHEDULES)


def test_the_learning_rate_is_the_one_of_the_optimiser() -> None:
    """Adam's first step moves every weight that has a gradient by the learning rate."""
    fit = begin(fit_settings(lr=1e-3, warmup=3))
    bias = fit.weights["network.leave.bias"]
    before = bias.detach().clone()
    fit.advance()
    moved = (bias.detach() - before).abs()
    # Adam divides by |g| + 1e-8, and gradients here are above 1e-3.
    assert moved.tolist() == pytest.approx([1e-3 / 4] * 2, rel=1e-4)


def gradient_norm(fit: Fit) -> float:
    gradients = [w.grad.flatten() for w in fit.weights.values() if w.grad is not None]
    return float(torch.cat(gradients).norm())


def norm_of(fit: Fit) -> float | None:
    """Return the mean gradient norm since it was read last."""
    return fit.tally.read(ALONE).gradient_norm


def test_clipping_bounds_the_gradient_norm_and_the_log_keeps_the_true_one() -> None:
    fit = advance(begin(fit_settings(clip=0.01)), 1)
    assert gradient_norm(fit) == pytest.approx(0.01, rel=1e-4)  # torch divides by the norm + 1e-6
    free = advance(begin(fit_settings(clip=1e6)), 1)
    assert gradient_norm(free) > 0.05
    logged, true = norm_of(fit), norm_of(free)
    assert logged == pytest.approx(true, rel=1e-6)
    assert true == pytest.approx(gradient_norm(free), rel=1e-6)


def test_a_clipped_step_does_not_depend_on_the_size_of_its_loss() -> None:
    """Adam forgives constant factors, so only one step in the middle is a thousand times larger."""

    def weights_after(weight: Callable[[int], float], clip: float) -> Tensor:
        objective = Watched(UNIFORM_LOSS, weight)
        fit = advance(begin(fit_settings(clip=clip), objective=objective), 6)
        return nn.utils.parameters_to_vector(fit.weights.values()).detach()

    def even(step: int) -> float:  # noqa: ARG001
        return 1.0

    def spike(step: int) -> float:
        return 1000.0 if step == 3 else 1.0

    tight, loose = 0.01, 1e9
    capped = (weights_after(spike, tight) - weights_after(even, tight)).abs().max()
    uncapped = (weights_after(spike, loose) - weights_after(even, loose)).abs().max()
    # Clipping divides by norm + 1e-6, which leaves 1e-4 of a clipped gradient's size.
    assert float(capped) < 1e-4
    assert float(uncapped) > 5e-3  # half a learning rate


def loss_of(fit: Fit) -> float | None:
    return fit.tally.read(ALONE).loss


def test_losses_add_up_until_they_are_read() -> None:
    objective = Watched(UNIFORM_LOSS)
    fit = advance(begin(fit_settings(), objective=objective), 5)
    assert loss_of(fit) == pytest.approx(sum(objective.losses) / 5, rel=1e-5)  # float32
    advance(fit, 2)
    assert loss_of(fit) == pytest.approx(sum(objective.losses[5:]) / 2, rel=1e-5)


def test_a_fit_visits_every_example_once_an_epoch() -> None:
    seen: list[float] = []

    def looking(net: VelocityField, pair: Pair, draws: Draws) -> Losses:
        seen.extend(pair.x1[:, 0].tolist())
        return UNIFORM_LOSS(net, pair, draws)

    rows = torch.arange(12.0)[:, None].expand(12, 2) / 12
    fit = advance(begin(fit_settings(batch=4), data=rows, objective=looking), 6)
    assert fit.step == 6
    for epoch in (seen[:12], seen[12:]):
        assert sorted(epoch) == rows[:, 0].tolist()


def test_every_step_draws_noise_times_and_dropout_of_its_own() -> None:
    dropout, drawn = nn.Dropout(0.5), []

    def looking(net: VelocityField, pair: Pair, draws: Draws) -> Losses:
        mask = dropout(torch.ones(64)).bool().tolist()
        drawn.append((pair.x0.tolist(), draws.uniform().tolist(), mask))
        return UNIFORM_LOSS(net, pair, draws)

    advance(begin(fit_settings(), objective=looking), 5)
    for kind in zip(*drawn, strict=True):
        assert all(a != b for i, a in enumerate(kind) for b in kind[:i])


def stored(fit: Fit) -> dict[str, Tensor]:
    """Return the tensors as a file would keep them: contiguous, and apart from the fit."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in fit.tensors().items()
    }


@pytest.mark.parametrize(("kind", "dropout"), [("mlp", 0.0), ("mlp", 0.3), ("unet", 0.0), ("unet", 0.3)])
def test_a_restored_fit_continues_bit_for_bit(kind: str, dropout: float) -> None:
    settings = fit_settings(steps=8, warmup=5, schedule="cosine", ema_halflife=0.3)
    data = POINTS if kind == "mlp" else torch.rand(10, 1, 8, 8, generator=rng()) * 2 - 1

    def fresh(seed: int) -> Fit:
        return begin(settings, network(kind, dropout, seed), data=data)

    whole = advance(fresh(0), 8)
    first = advance(fresh(0), 3)
    kept = stored(first)
    advance(first, 2)  # what happens after the state was kept must not matter
    torch.manual_seed(12345)
    second = fresh(1)  # nor what the weights were before
    second.restore(kept, 3)
    advance(second, 5)
    assert second.step == whole.step == 8
    wanted, found = stored(whole), stored(second)
    assert wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []


def test_a_restored_unet_keeps_the_memory_format_of_its_weights() -> None:
    data = torch.rand(10, 1, 8, 8, generator=rng())
    fit = advance(begin(fit_settings(), network("unet"), data=data), 1)
    kept = stored(fit)
    again = begin(fit_settings(), network("unet", seed=1), data=data)
    again.restore(kept, 1)
    name = "network.middle.conv1.weight"
    for weight in (again.weights[name], again.averages[name], again.tensors()[f"exp_avg.{name}"]):
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_another_seed_or_stream_trains_otherwise() -> None:
    def weights_of(seed: int, stream: str) -> Tensor:
        net = network()
        fit = Fit(
            net,
            copy.deepcopy(net).requires_grad_(False),
            Independent(Memory(POINTS), seed=0),
            UNIFORM_LOSS,
            fit_settings(),
            seed=seed,
            stream=stream,
            device=CPU,
        )
        return nn.utils.parameters_to_vector(advance(fit, 2).weights.values()).detach()

    assert torch.equal(weights_of(0, "a"), weights_of(0, "a"))
    assert not torch.equal(weights_of(0, "a"), weights_of(1, "a"))
    assert not torch.equal(weights_of(0, "a"), weights_of(0, "b"))


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
