"""Time samplers follow their laws, which are known by their distribution functions."""

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from fields import batch_of
from numpy.typing import NDArray
from scipy import stats

from reflow.objectives.times import TIME_SAMPLERS, Quantile, logit_normal, stratified, u_shaped, uniform
from reflow.recipes.training import VelocityFitSettings

Floats = NDArray[np.float64]
Cdf = Callable[[Floats], Floats]


def uniform_cdf(t: Floats) -> Floats:
    return t


def logit_normal_cdf(mean: float, std: float) -> Cdf:
    return lambda t: np.asarray(stats.norm.cdf((np.log(t) - np.log1p(-t) - mean) / std))


def u_shaped_cdf(a: float) -> Cdf:
    """Half of p(t) = a e^(a t) / (e^a - 1) and half of its mirror image, as Lee et al. write it."""

    def rising(t: Floats) -> Floats:
        return np.asarray(np.expm1(a * t) / math.expm1(a))

    return lambda t: (rising(t) + 1 - rising(1 - t)) / 2


CASES: dict[str, tuple[Quantile, Cdf]] = {
    "uniform": (uniform, uniform_cdf),
    "logit-normal": (logit_normal(0.0, 1.0), logit_normal_cdf(0.0, 1.0)),
    "logit-normal near the data": (logit_normal(1.2, 0.8), logit_normal_cdf(1.2, 0.8)),
    "u-shaped": (u_shaped(4.0), u_shaped_cdf(4.0)),
    "nearly uniform": (u_shaped(0.5), u_shaped_cdf(0.5)),
}
cases = pytest.mark.parametrize("name", CASES)


def settings(**chosen: object) -> VelocityFitSettings:
    required = {"steps": 1, "batch": 1, "lr": 1.0, "ema_halflife": 1.0}
    return VelocityFitSettings.model_validate(required | chosen)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cases
def test_independent_draws_follow_the_law(name: str) -> None:
    """Batches of one are not stratified, so theirs is the law of every t by itself."""
    quantile, cdf = CASES[name]
    sampler, source = stratified(quantile), rng()
    t = torch.cat([sampler(batch_of(1, source)) for _ in range(4000)]).double().numpy()
    # The seed is fixed; of right samplers one in a thousand would fail here.
    assert stats.kstest(t, cdf).pvalue > 1e-3


@cases
def test_a_stratified_batch_has_one_draw_in_each_equal_share_of_the_law(name: str) -> None:
    quantile, cdf = CASES[name]
    n = 1000
    t = stratified(quantile)(batch_of(n, rng())).double().numpy()
    share = cdf(t) * n
    # float32 rounds t at 6e-8 times a density of at most 4, times n, and rounds u * n at 1e-4.
    assert np.all(share >= np.arange(n) - 1e-3)
    assert np.all(share <= np.arange(n) + 1 + 1e-3)


@cases
def test_each_place_of_a_stratified_batch_is_uniform_in_its_share(name: str) -> None:
    quantile, cdf = CASES[name]
    sampler, source, n = stratified(quantile), rng(), 4
    t = torch.stack([sampler(batch_of(n, source)) for _ in range(2000)]).double().numpy()
    inside = cdf(t) * n - np.arange(n)
    for place in range(n):
        assert stats.kstest(inside[:, place], "uniform").pvalue > 1e-3  # the seed is fixed


@cases
def test_stratification_lowers_the_variance_of_a_mean(name: str) -> None:
    quantile, _ = CASES[name]
    sampler, source = stratified(quantile), rng()
    n, batches = 64, 300
    together = torch.stack([sampler(batch_of(n, source)).mean() for _ in range(batches)])
    apart = torch.stack([quantile(torch.rand(n, generator=source)).mean() for _ in range(batches)])
    # About 1 / n^2 = 1 / 4096 for the uniform law; the long tail of a logit-normal costs a factor 14.
    assert float(together.var()) < float(apart.var()) / 100


@pytest.mark.parametrize(
    "quantile",
    [uniform, logit_normal(0.0, 1.0), logit_normal(9.0, 5.0), logit_normal(-9.0, 5.0), u_shaped(40)],
)
def test_times_stay_strictly_inside_the_interval(quantile: Quantile) -> None:
    sampler, source = stratified(quantile), rng()
    t = torch.cat([sampler(batch_of(n, source)) for n in (1, 2, 3, 100, 100_000)])
    assert bool(t.isfinite().all())
    assert float(t.min()) > 0
    assert float(t.max()) < 1


def test_the_ends_of_the_uniforms_give_finite_times() -> None:
    """torch.rand may be 0, and rounding may take the last stratum to 1, where logits are infinite."""
    ends = torch.tensor([0.0, 1.0])

    def at_the_ends(u: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
        return logit_normal(0.0, 1.0)(ends)

    t = stratified(at_the_ends)(batch_of(2, rng()))
    assert 0 < float(t[0]) < 1e-4
    assert 1 - 1e-4 < float(t[1]) < 1


@cases
def test_times_are_a_function_of_the_generator(name: str) -> None:
    sampler = stratified(CASES[name][0])
    source = rng(5)
    first, second = sampler(batch_of(32, source)), sampler(batch_of(32, source))
    assert torch.equal(first, sampler(batch_of(32, rng(5))))
    assert not torch.equal(first, second)
    assert not torch.equal(first, sampler(batch_of(32, rng(6))))


def test_a_sampler_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    stratified(uniform)(batch_of(8, rng()))
    assert torch.equal(before, torch.get_rng_state())


def test_the_recipe_knows_exactly_the_laws_there_are() -> None:
    assert set(get_args(VelocityFitSettings.model_fields["times"].annotation)) == set(TIME_SAMPLERS)


@pytest.mark.parametrize(
    ("chosen", "cdf"),
    [
        (settings(times="uniform"), uniform_cdf),
        (settings(times="logit-normal"), logit_normal_cdf(0.0, 1.0)),
        (
            settings(times="logit-normal", logit_mean=-0.7, logit_std=1.6),
            logit_normal_cdf(-0.7, 1.6),
        ),
        (settings(times="u-shaped"), u_shaped_cdf(4.0)),
        (settings(times="u-shaped", sharpness=2.5), u_shaped_cdf(2.5)),
    ],
)
def test_the_settings_choose_the_law(chosen: VelocityFitSettings, cdf: Cdf) -> None:
    n = 500
    t = stratified(TIME_SAMPLERS[chosen.times](chosen))(batch_of(n, rng())).double().numpy()
    # The distribution function of a stratified batch is off by 1 / n at most, plus rounding.
    assert stats.ks_1samp(t, cdf).statistic <= 1 / n + 1e-5
