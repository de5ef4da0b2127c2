"""Weighting by uncertainty: the mean loss at each t is learned, divided out, kept, and the same for all."""

import math
from typing import get_args

import pytest
import torch
from fits import CPU, UNIFORM_LOSS, Watched, advance, begin, fit_settings, stored
from numbered import rng
from torch import Tensor

from reflow.distributed import ALONE
from reflow.flow import Losses, Objective
from reflow.models import build
from reflow.objectives.weighting import (
    FIRST,
    HALFLIFE,
    INTERVALS,
    WEIGHTINGS,
    Uncertainty,
    Uniform,
    weighting_of,
)
from reflow.recipes.recipe import MlpSettings
from reflow.recipes.training import DistillSettings, VelocityFitSettings
from reflow.training.fit import Fit

MIDDLES = (torch.arange(INTERVALS, dtype=torch.float64) + 0.5) / INTERVALS
GOOD, BAD = torch.tensor(True), torch.tensor(False)


def weighted_fit(objective: Objective = UNIFORM_LOSS, **chosen: object) -> Fit:
    return begin(fit_settings(weighting="uncertainty", **chosen), objective=objective)


def estimate_of(fit: Fit) -> Uncertainty:
    assert isinstance(fit.weighting, Uncertainty)
    return fit.weighting


def line(t: Tensor) -> Tensor:
    return 0.2 + 3 * t


def valley(t: Tensor) -> Tensor:
    """Return a mean loss as training runs have it: a hundred times larger at the ends."""
    return 0.02 + 8 * (t - 0.5) ** 2


def noisy(mean: Tensor, source: torch.Generator) -> Tensor:
    """Return losses of this mean (B,) with a standard deviation as large."""
    return mean * -torch.rand(mean.shape, generator=source, dtype=mean.dtype).log()


def taught(mean: object, steps: int, batch: int = 256, *, noise: bool = True) -> Uncertainty:
    """Return what some steps of losses with this mean have taught."""
    weighting, source = Uncertainty(CPU), rng(7)
    for _ in range(steps):
        t = (torch.arange(batch) + torch.rand(batch, generator=source, dtype=torch.float64)) / batch
        each = mean(t)  # type: ignore[operator]
        weighting.add(Losses(noisy(each, source) if noise else each, t), GOOD, ALONE)
    return weighting


def test_the_estimate_converges_to_the_mean_loss_at_t() -> None:
    t = torch.linspace(0.5 / INTERVALS, 1 - 0.5 / INTERVALS, 999, dtype=torch.float64)
    found = taught(line, steps=800).estimate(t)
    # Weights that decay by d a step have the variance (1 - d) / (1 + d), here of means of 8 losses each.
    error = math.sqrt(math.log(2) / HALFLIFE / 2 / 8)
    assert float((found / line(t) - 1).abs().max()) < 4 * error
    assert error < 0.021


def test_the_estimate_forgets_what_the_loss_once_was() -> None:
    weighting, t = Uncertainty(CPU), MIDDLES.repeat(4)
    for step in range(5 * HALFLIFE):
        weighting.add(Losses(torch.full_like(t, 9.0 if step < HALFLIFE else 1.0), t), GOOD, ALONE)
    begun = 4 * (1 - 0.5 ** (1 / HALFLIFE)) ** -1  # examples that all steps would add up to
    old = (1 - 0.5) * begun + 0.5 * FIRST
    wanted = 1 + 8 * old * 0.5**4 / (begun * (1 - 0.5**5) + FIRST * 0.5**5)
    assert weighting.estimate(MIDDLES).tolist() == pytest.approx([wanted] * INTERVALS, rel=1e-12)


def test_the_estimate_is_the_mean_with_weights_that_halve() -> None:
    """Against the sums written out; few examples, so intervals are often empty."""
    weighting, source, steps = Uncertainty(CPU), rng(1), []
    for _ in range(40):
        t = torch.rand(9, generator=source, dtype=torch.float64)
        steps.append((noisy(valley(t), source), t))
        weighting.add(Losses(*steps[-1]), GOOD, ALONE)
    sums = (
        torch.full((INTERVALS,), FIRST, dtype=torch.float64) * steps[0][0].mean() * 0.5 ** (40 / HALFLIFE)
    )
    counts = torch.full_like(sums, FIRST) * 0.5 ** (40 / HALFLIFE)
    for age, (each, t) in enumerate(reversed(steps)):
        for loss, time in zip(each, t, strict=True):
            sums[int(time * INTERVALS)] += loss * 0.5 ** (age / HALFLIFE)
            counts[int(time * INTERVALS)] += 0.5 ** (age / HALFLIFE)
    torch.testing.assert_close(weighting.estimate(MIDDLES), sums / counts, rtol=1e-12, atol=0)


def test_weighted_losses_have_the_mean_one_at_every_t() -> None:
    weighting, source, n = taught(valley, steps=800), rng(3), 2000
    t = (torch.arange(INTERVALS)[:, None] + torch.rand(INTERVALS, n, generator=source)) / INTERVALS
    each = noisy(valley(t), source)
    weighted = weighting.weighted(Losses(each.flatten(), t.flatten())).reshape(INTERVALS, n).mean(1)
    plain = each.mean(1)
    assert float(plain.max() / plain.min()) > 30
    # The estimate errs by 2 % and these means by 2 % (one standard deviation), the chords of the valley by
    # up to 8 / 6 / 32^2 / 0.02 = 6 % at its bottom.
    assert float((weighted - 1).abs().max()) < 4 * 0.03 + 0.06


def test_it_is_what_a_learned_uncertainty_comes_to() -> None:
    """The minimum of L / exp(u) + u over a table u, found by Newton's method, is log of the means."""
    source = rng(2)
    t = MIDDLES.repeat_interleave(20)
    each = noisy(valley(t), source)
    u = torch.zeros(INTERVALS, dtype=torch.float64)
    for _ in range(60):
        pull = (each / u.exp().repeat_interleave(20)).reshape(INTERVALS, 20).mean(1)
        u += ((pull - 1) / pull).clamp(-1, 1)
    weighting = Uncertainty(CPU)
    for _ in range(60 * HALFLIFE):  # until what each interval began with is forgotten
        weighting.add(Losses(each, t), GOOD, ALONE)
    torch.testing.assert_close(weighting.estimate(MIDDLES).log(), u, rtol=0, atol=1e-9)


def test_times_between_middles_follow_lines_and_the_ends_are_flat() -> None:
    weighting = Uncertainty(CPU)
    weighting.means = 1 + torch.arange(INTERVALS, dtype=torch.float64)
    t = torch.tensor([0.0, 0.5, 1.0, 1.75, 31.5, 32.0]) / INTERVALS
    assert weighting.estimate(t).tolist() == pytest.approx([1, 1, 1.5, 2.25, 32, 32], rel=1e-6)


def test_an_interval_that_is_never_visited_keeps_a_finite_estimate() -> None:
    weighting, t = Uncertainty(CPU), torch.full((16,), 0.3)
    for _ in range(300 * HALFLIFE // 10):
        weighting.add(Losses(torch.full((16,), 2.0), t), GOOD, ALONE)
        weighting.masses = weighting.masses * 0.5**10  # as after many more steps
    assert weighting.estimate(MIDDLES).tolist() == pytest.approx([2.0] * INTERVALS)
    nothing = Uncertainty(CPU)
    nothing.add(Losses(torch.zeros(16), t), GOOD, ALONE)
    assert nothing.weighted(Losses(torch.zeros(16), t)).tolist() == [0.0] * 16


@pytest.mark.parametrize("first", [True, False])
def test_a_skipped_step_leaves_the_estimate_as_it_was(first: bool) -> None:
    weighting = Uncertainty(CPU) if first else taught(valley, steps=3)
    before = {name: tensor.clone() for name, tensor in weighting.tensors().items()}
    weighting.add(Losses(torch.full((8,), math.nan), torch.full((8,), 0.5)), BAD, ALONE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weighting.tensors().items())


def test_a_fit_with_a_bad_first_step_learns_from_the_next() -> None:
    watched = Watched(UNIFORM_LOSS, lambda step: math.nan if step == 0 else 1.0)
    fit = advance(weighted_fit(watched), 1)
    assert not estimate_of(fit).masses.any()
    advance(fit, 2)
    assert bool(estimate_of(fit).means.isfinite().all())
    assert int(fit.means.skipped[0]) == 1


def test_gradients_are_divided_by_the_estimate_and_the_log_is_not() -> None:
    plain, weighted = begin(fit_settings()), weighted_fit()
    estimate_of(weighted).means *= 4
    figures = [advance(fit, 1).means.read(ALONE) for fit in (plain, weighted)]
    assert figures[1].loss == figures[0].loss
    assert figures[1].gradient_norm == pytest.approx((figures[0].gradient_norm or 0) / 4, rel=1e-6)


def test_a_step_uses_the_estimate_from_before_it() -> None:
    plain, weighted = (advance(fit, 1) for fit in (begin(fit_settings()), weighted_fit()))
    assert plain.means.read(ALONE) == weighted.means.read(ALONE)
    name = "network.leave.bias"
    assert torch.equal(plain.weights[name], weighted.weights[name])
    watched = Watched(UNIFORM_LOSS)
    fit = advance(weighted_fit(watched), 1)
    overall = (FIRST * INTERVALS * 0.5 ** (1 / HALFLIFE) + 16) * watched.losses[0]
    assert float((estimate_of(fit).means * estimate_of(fit).masses).sum()) == pytest.approx(overall)


def test_in_a_training_on_a_gaussian_the_estimate_is_the_loss_of_the_exact_velocity() -> None:
    """Which is s^2 / ((1 - t)^2 + s^2 t^2) per dimension for data N(0, s^2)."""
    spread, data = 0.5, 0.5 * torch.randn(4000, 2, generator=rng(4))
    torch.manual_seed(0)
    net = build(MlpSettings(kind="mlp", width=16, blocks=2, sigma_data=spread), (2,), None)
    fit = advance(begin(fit_settings(weighting="uncertainty", batch=128), net, data=data), 200)
    exact = spread**2 / ((1 - MIDDLES) ** 2 + spread**2 * MIDDLES**2)
    assert float(exact.max() / exact.min()) > 4
    # Four losses a step, of about their mean as standard deviation, weighed as above: 3 %; the network and
    # the sample of data add some.
    assert estimate_of(fit).means.tolist() == pytest.approx(exact.tolist(), rel=4 * 0.03 + 0.04)


@pytest.mark.parametrize("size", [16, 4])
def test_a_restored_fit_continues_bit_for_bit(size: int) -> None:
    whole = advance(weighted_fit(micro_batch=size), 8)
    first = advance(weighted_fit(micro_batch=size), 3)
    kept = stored(first)
    advance(first, 2)
    second = weighted_fit(micro_batch=size)
    second.restore(kept, 3)
    advance(second, 5)
    wanted, found = stored(whole), stored(second)
    assert {"weighting.means", "weighting.masses"} < wanted.keys() == found.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []


def test_micro_batches_take_the_steps_of_the_whole_batch() -> None:
    whole, pieces = (advance(weighted_fit(micro_batch=size), 6) for size in (16, 4))
    for name in whole.weights:  # rounding of float32, which Adam enlarges
        torch.testing.assert_close(pieces.weights[name], whole.weights[name], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(estimate_of(pieces).means, estimate_of(whole).means, rtol=1e-4, atol=0)


def test_sections_choose_their_weighting() -> None:
    assert set(get_args(VelocityFitSettings.model_fields["weighting"].annotation)) == set(WEIGHTINGS)
    assert isinstance(weighting_of(fit_settings(), CPU), Uniform)
    assert isinstance(weighting_of(fit_settings(weighting="uncertainty"), CPU), Uncertainty)
    student = DistillSettings(steps=1, batch=1, lr=1.0, distance="squared", ema_halflife=1.0)
    assert isinstance(weighting_of(student, CPU), Uniform)


def test_a_fit_without_weighting_keeps_what_it_always_kept() -> None:
    assert not [name for name in advance(begin(fit_settings()), 1).tensors() if "weighting" in name]
