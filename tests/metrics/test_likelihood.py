"""The likelihood of the flow is the one of its law, exactly or within the error bars of the probes."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from fields import draws, gaussian, gaussian_by_label, mixture
from fits import advance, begin, fit_settings
from torch import Tensor

from reflow.data.toys import eight_gaussians
from reflow.guidance import Guided
from reflow.metrics.divergence import probes_for
from reflow.metrics.likelihood import Likelihood, likelihood_figures, log_likelihood, no_likelihood
from reflow.models import build
from reflow.pixels import as_seen, dequantised
from reflow.recipes.recipe import MlpSettings

CLOSE = 1e-4  # nats; the tolerance is in nats per dimension, of which there are up to three
WEIGHTS = torch.tensor([1, 2, 3, 1, 2, 3], dtype=torch.float64) / 12
MEANS = draws(6, 2, seed=1)


def normal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return log N(x; mean, diag(std^2)) (B,)."""
    return torch.distributions.Normal(mean, std).log_prob(x).sum(-1)


def blobs(n: int, std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return six standard deviations, points near the blobs, and the log density of their mixture."""
    stds = torch.full((6,), std, dtype=torch.float64)
    x1 = MEANS[torch.arange(n) % 6] + 1.5 * std * draws(n, 2, seed=4)
    parts = normal(x1[:, None], MEANS, stds[:, None].expand(6, 2))
    return stds, x1, torch.logsumexp(WEIGHTS.log() + parts, 1)


def test_the_likelihood_under_a_gaussian_flow_is_exact() -> None:
    mean, std = torch.tensor([0.7, -1.0, 0.0]).double(), torch.tensor([0.1, 2.0, 0.6]).double()
    x1 = mean + 2 * std * draws(40, 3)
    found = log_likelihood(gaussian(mean, std), x1, tolerance=3e-5)
    assert found.nats.shape == (40, 1) and found.nats.dtype == torch.float64
    torch.testing.assert_close(found.nats[:, 0], normal(x1, mean, std), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("std", [0.5, 0.1])
def test_the_likelihood_under_a_mixture_is_exact(std: float) -> None:
    stds, x1, truth = blobs(60, std)
    found = log_likelihood(mixture(WEIGHTS, MEANS, stds), x1, tolerance=3e-5)
    torch.testing.assert_close(found.nats[:, 0], truth, rtol=0, atol=CLOSE)


def test_probes_are_right_within_their_error_bars() -> None:
    stds, x1, truth = blobs(150, 0.3)
    probes = torch.cat([probes_for(0, f"{half}", range(150), 1, (2,)) for half in range(12)], 1)
    found = log_likelihood(mixture(WEIGHTS, MEANS, stds), x1, tolerance=1e-3, probes=probes).nats
    assert found.shape == (150, 12)
    bars = found.std(1) / 12**0.5
    away = (found.mean(1) - truth) / bars
    assert float(bars.median()) > 0.05  # nats: the next lines say something
    # Student's t with 11 degrees of freedom has the variance 11 / 9.
    assert 0.8 < float(away.square().mean()) < 1.7
    figures = likelihood_figures(Likelihood(found, torch.ones(150)), (2,), exact=False, dequantised=False)
    assert figures.nats.probe_error == pytest.approx(float(bars.square().sum().sqrt() / 150))
    assert abs(figures.nats.mean - float(truth.mean())) < 3.5 * figures.nats.probe_error


def test_samples_keep_their_labels_and_probes_whoever_arrives_first() -> None:
    """The labels differ in how stiff they are, so the solver orders the batch anew as it goes."""
    stds = (0.02, 1.0, 3.0)

    def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        turned = x.flip(1)  # so that a probe matters
        return gaussian_by_label(*stds)(x, t, label) + 0.3 * turned

    label = torch.arange(60) % 3
    x1, probes = draws(60, 2), probes_for(0, "probes", range(60), 1, (2,))
    assert probes is not None
    together = log_likelihood(field, x1, tolerance=1e-4, label=label, probes=probes)
    assert len(together.nfe.unique()) > 2
    for rows in (torch.tensor([1]), torch.arange(0, 60, 3)):  # the stiff ones arrive last
        alone = log_likelihood(field, x1[rows], tolerance=1e-4, label=label[rows], probes=probes[rows])
        torch.testing.assert_close(alone.nats, together.nats[rows], rtol=0, atol=1e-9)
        assert torch.equal(alone.nfe, together.nfe[rows])
    for part, nothing in zip(together, no_likelihood(1), strict=True):
        assert torch.equal(torch.cat([nothing, part]), part)


def test_a_trained_model_has_all_its_mass_in_the_plane() -> None:
    torch.manual_seed(0)
    points, _ = eight_gaussians(2000, np.random.default_rng(0))
    net = build(MlpSettings(kind="mlp", width=32, blocks=1, sigma_data=0.7), (2,), None)
    fit = begin(fit_settings(steps=300, batch=256), net, data=torch.from_numpy(points).float())
    advance(fit, 300)
    side = torch.arange(-2.4, 2.41, 0.1)  # the narrowest mode is 0.15 wide: trapezoids are exact enough
    grid = torch.cartesian_prod(side, side)
    found = log_likelihood(fit.net.eval().requires_grad_(False), grid, tolerance=1e-3)
    density = found.nats[:, 0].exp()
    assert float(density.max()) > 3 * float(density[(grid.norm(dim=1) < 0.3)].mean())  # it has learned
    assert float(density.sum() * 0.1**2) == pytest.approx(1, abs=1e-2)


def test_guidance_costs_two_evaluations() -> None:
    field, label = gaussian_by_label(0.5, 2.0, 1.0), torch.zeros(4, dtype=torch.int64)
    plain = log_likelihood(field, draws(4, 1), tolerance=1e-2, label=label)
    twice = log_likelihood(Guided(field, 2, 1.0), draws(4, 1), tolerance=1e-2, label=label)
    torch.testing.assert_close(twice.nats, plain.nats)
    assert torch.equal(twice.nfe, 2 * plain.nfe)


def test_eight_bits_are_what_equal_levels_take() -> None:
    """Dequantised pixels of equally likely levels are uniform over 256 of their widths."""
    event = (3, 4, 5)
    density = torch.full((7, 1), -60 * math.log(256 * 2 / 255), dtype=torch.float64)
    found = likelihood_figures(Likelihood(density, torch.arange(7)), event, exact=False, dequantised=True)
    assert found.bits_per_dimension is not None
    assert found.bits_per_dimension.mean == pytest.approx(8, rel=1e-12)
    written = json.loads(json.dumps(dataclasses.asdict(found)))
    nats = {"mean": pytest.approx(-60 * math.log(512 / 255)), "error": pytest.approx(0, abs=1e-12)}
    assert written | {"bits_per_dimension": None} == {
        "samples": 7,
        "trace": "hutchinson",
        "probes": 1,
        "nats": nats | {"probe_error": None},
        "bits_per_dimension": None,
        "dequantisation": "uniform",
        "nfe": 3.0,
    }


def test_vectors_have_nats_only_and_one_sample_no_error() -> None:
    found = likelihood_figures(
        Likelihood(torch.ones(1, 1), torch.ones(1)), (2,), exact=True, dequantised=False
    )
    assert (found.trace, found.probes, found.bits_per_dimension, found.dequantisation) == (
        "exact",
        None,
        None,
        None,
    )
    assert (found.nats.mean, found.nats.error) == (1.0, None)


def test_levels_are_spread_evenly_and_never_into_each_other() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(500, 1, 16, 16)
    spread = dequantised(as_seen(levels), 3, "some", range(500))
    offset = (spread.double() + 1) * 127.5 - levels
    assert float(offset.min()) >= -0.5001 and float(offset.max()) <= 0.5001  # rounding of float32
    assert float(offset.square().mean()) == pytest.approx(1 / 12, rel=0.02)
    again = dequantised(as_seen(levels[:2]), 3, "some", (41, 7))
    assert torch.equal(again, spread[[41, 7]])
