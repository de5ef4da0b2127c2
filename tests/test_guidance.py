"""Guidance: what is followed, where, at which cost, and which models it refuses."""

from dataclasses import dataclass, field

import pytest
import torch
from fields import gaussian, gaussian_state, mixture
from pydantic import ValidationError
from torch import Tensor

from reflow.errors import ReflowError
from reflow.flow import VelocityField
from reflow.guidance import Guided, evaluations_per_call, guided
from reflow.recipes.recipe import GuidanceSettings, SolverSettings
from reflow.solvers import integrate

MEANS = torch.tensor([[0.8, 0.2], [-0.6, -0.4]], dtype=torch.float64)
STDS = torch.tensor([0.15, 0.3], dtype=torch.float64)
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
NULL = 2
SCALES = [0.0, 0.5, 1.0, 1.7, 4.0]


@dataclass
class TwoClasses:
    """A model that knows the exact velocity of two Gaussian classes and of their mixture."""

    null_label: int | None = NULL
    label_dropout: float = 0.1
    rows: list[int] = field(default_factory=list)  # samples in each call

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        assert label is not None
        assert x.shape[:1] == t.shape == label.shape
        self.rows.append(len(x))
        choices = torch.stack([of_class(0)(x, t), of_class(1)(x, t), of_all()(x, t)])
        return choices[label, torch.arange(len(x))]


def of_class(k: int) -> VelocityField:
    return gaussian(MEANS[k], STDS[k].expand(2))


def of_all() -> VelocityField:
    return mixture(SHARES, MEANS, STDS)


def own_class(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return torch.where(label[:, None] == 0, of_class(0)(x, t), of_class(1)(x, t))


def settings(**chosen: object) -> GuidanceSettings:
    return GuidanceSettings.model_validate(chosen)


def some_points(n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return x, torch.linspace(0, 1, n, dtype=torch.float64), torch.arange(n) % 2


@pytest.mark.parametrize("scale", SCALES)
def test_guidance_goes_from_the_mixture_through_the_class_and_on(scale: float) -> None:
    x, t, label = some_points()
    v_all, v_class = of_all()(x, t), own_class(x, t, label)
    found = Guided(TwoClasses(), NULL, scale)(x, t, label)
    torch.testing.assert_close(found, v_all + scale * (v_class - v_all), rtol=1e-13, atol=1e-14)  # rounding


def test_scale_0_is_unconditional_and_scale_1_as_trained() -> None:
    x, t, label = some_points()
    assert torch.equal(Guided(TwoClasses(), NULL, 0.0)(x, t, label), of_all()(x, t))
    assert torch.equal(Guided(TwoClasses(), NULL, 1.0)(x, t, label), own_class(x, t, label))


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.25, 0.6)])
@pytest.mark.parametrize("scale", SCALES)
def test_guided_velocities_are_those_of_guided_scores(scale: float, interval: tuple[float, float]) -> None:
    """v = (x + (1 - t) score) / t, with the score of p(x)^(1 - scale) p(x | label)^scale at time t.

    Outside of the interval the score is that of p(x | label).
    """
    x, _, label = some_points()
    x.requires_grad_()
    t = torch.linspace(0.1, 0.9, len(x), dtype=torch.float64)
    variance = (1 - t[:, None]) ** 2 + (STDS * t[:, None]) ** 2  # (B, K)
    squares = (x[:, None] - t[:, None, None] * MEANS).square().sum(-1)
    each = -squares / (2 * variance) - variance.log()  # log N(x; t m, variance I) in the plane
    of_label, of_mixture = each[torch.arange(len(x)), label], torch.logsumexp(each + SHARES.log(), 1)
    power = torch.where((interval[0] <= t) & (t <= interval[1]), scale * torch.ones_like(t), 1)
    (score,) = torch.autograd.grad(((1 - power) * of_mixture + power * of_label).sum(), x)
    wanted = (x.detach() + (1 - t[:, None]) * score) / t[:, None]
    found = Guided(TwoClasses(), NULL, scale, interval)(x.detach(), t, label)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)  # rounding, divided by t and variance


def test_every_sample_is_guided_inside_the_interval_only() -> None:
    t = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.75, 0.8, 0.99], dtype=torch.float64)
    label = torch.tensor([0, 0, 1, 0, 1, 0, 0])  # not what the mixture takes the points for
    x = t[:, None] * MEANS[1 - label]
    found = guided(TwoClasses(), settings(guidance=3.0, guidance_interval=(0.25, 0.75)))(x, t, label)
    everywhere = Guided(TwoClasses(), NULL, 3.0)(x, t, label)
    inside = torch.tensor([False, False, True, True, True, False, False])
    assert torch.equal(found[inside], everywhere[inside])
    assert torch.equal(found[~inside], own_class(x, t, label)[~inside])
    assert ((everywhere - own_class(x, t, label)).abs().amax(1) > 0.1).all()  # it would be felt at each t


def test_a_call_costs_as_many_evaluations_as_it_says() -> None:
    x, t, label = some_points(10)
    model = TwoClasses()
    for scale, interval in ((3.0, (0.0, 1.0)), (3.0, (0.4, 0.5)), (1.0, (0.0, 1.0))):
        guide = guided(model, settings(guidance=scale, guidance_interval=interval))
        model.rows.clear()
        guide(x, t, label)
        assert sum(model.rows) == 10 * evaluations_per_call(guide)
        assert len(model.rows) == 1  # in one batch, whose size never changes


def test_a_scalar_time_is_the_time_of_all_samples() -> None:
    """As torchdiffeq and other solvers call a field."""
    x, _, label = some_points()
    guide = Guided(TwoClasses(), NULL, 3.0, (0.2, 0.8))
    everywhere = guide(x, torch.full((len(x),), 0.25, dtype=torch.float64), label)
    assert torch.equal(guide(x, torch.tensor(0.25, dtype=torch.float64), label), everywhere)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 8, 8)])
def test_samples_of_any_shape_and_precision_are_guided(shape: tuple[int, ...]) -> None:
    def numbers(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        assert label is not None
        return label.to(x).reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)

    x, t, label = torch.zeros(shape), torch.full((4,), 0.5), torch.tensor([0, 1, 2, 3])
    found = Guided(numbers, 9, 2.0)(x, t, label)
    assert found.dtype == torch.float32
    assert torch.equal(found, 2 * numbers(x, t, label) - 9)


def test_solvers_take_each_sample_to_its_own_guided_class() -> None:
    """At scale 1 the end is known; a larger scale leads further away from the other class."""
    n = 200
    x0 = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    label = torch.arange(n) % 2
    ends = {w: integrate(Guided(TwoClasses(), NULL, w), x0, tolerance=1e-4, label=label).x1 for w in (1, 3)}
    for k in (0, 1):
        of_k = label == k
        wanted = gaussian_state(x0[of_k], 1.0, MEANS[k], STDS[k].expand(2))
        torch.testing.assert_close(ends[1][of_k], wanted, rtol=0, atol=1e-3)  # ten tolerances
        away = MEANS[k] - MEANS[1 - k]
        # Measured: 0.14 and 0.15 of the distance between the classes.
        assert float((ends[3][of_k] - ends[1][of_k]).mean(0) @ away / (away @ away)) > 0.05


def test_without_guidance_the_model_is_used_as_it_is() -> None:
    for model in (TwoClasses(), TwoClasses(null_label=None, label_dropout=0.0)):
        assert guided(model, settings()) is model
        assert guided(model, settings(guidance=1.0)) is model
        assert evaluations_per_call(model) == 1


def test_models_without_a_null_label_are_refused_with_the_remedy() -> None:
    with pytest.raises(ReflowError, match=r"guidance = 3 .*--set train.label_dropout=0.1") as caught:
        guided(TwoClasses(null_label=None), settings(guidance=3.0))
    assert "\n" not in str(caught.value)


def test_models_whose_last_stage_neglected_the_null_label_are_refused() -> None:
    with pytest.raises(ReflowError, match=r"last stage did not train.*reflow.label_dropout=0.1"):
        guided(TwoClasses(label_dropout=0.0), settings(guidance=0.0))


def test_guidance_needs_labels() -> None:
    x, t, _ = some_points()
    with pytest.raises(ReflowError, match="guidance needs a label"):
        Guided(TwoClasses(), NULL, 3.0)(x, t)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"guidance": -0.5}, "greater than or equal to 0"),
        ({"guidance": float("inf")}, "finite"),
        (
            {"guidance": 2.0, "guidance_interval": (0.6, 0.4)},
            "begins at 0.6 and must end later",
        ),
        ({"guidance": 2.0, "guidance_interval": (0.4, 0.4)}, "must end later"),
        ({"guidance": 2.0, "guidance_interval": (0.4, 1.1)}, "less than or equal to 1"),
        ({"guidance": 2.0, "guidance_interval": (-0.1, 1.0)}, "greater than or equal to 0"),
        ({"guidance_interval": (0.4, 0.8)}, "does nothing without guidance"),
    ],
)
def test_impossible_guidance_is_refused(chosen: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**chosen)


class Both(SolverSettings, GuidanceSettings):
    """As [couple] is a solver with guidance."""


def test_guidance_settings_stand_beside_a_solvers_and_are_silent_at_their_defaults() -> None:
    heun = {"solver": "heun", "steps": 4}
    off = Both.model_validate(heun)
    assert off.model_dump(mode="json") == SolverSettings.model_validate(heun).model_dump(mode="json")
    on = Both.model_validate_json('{"solver":"heun","steps":4,"guidance":2,"guidance_interval":[0.1,0.9]}')
    assert Both.model_validate_json(on.model_dump_json()) == on
    assert on.model_dump(mode="json")["guidance_interval"] == [0.1, 0.9]
    with pytest.raises(ValidationError, match="takes steps"):
        Both.model_validate({"solver": "heun", "guidance": 2.0})
    with pytest.raises(ValidationError, match="does nothing"):
        Both.model_validate(heun | {"guidance_interval": (0.1, 0.9)})
