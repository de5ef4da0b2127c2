"""The perceptual distance: its objective against closed forms, and what its network sees."""

import pytest
import torch
from fields import batch_of, reflowed_gaussian
from fits import rng
from torch import Tensor
from torch.nn import functional

from reflow.flow import Distance, Pair, per_sample, perceptual_objective
from reflow.objectives.distances import added, pseudo_huber, squared
from reflow.objectives.distillation import regression_objective
from reflow.objectives.lpips import Perceptual, enlarged
from reflow.objectives.times import stratified, uniform
from reflow.randomness import Draws


def times(draws: Draws) -> Tensor:
    return stratified(uniform)(draws).double()


def in_features(matrix: Tensor) -> Distance:
    """Return a perceptual distance that is known: squared, in a linear space of features."""
    return lambda a, b: ((a - b).flatten(1) @ matrix.T).square().sum(1)


def linear(features: int, size: int) -> tuple[Tensor, Distance]:
    matrix = torch.randn(features, size, generator=rng(5), dtype=torch.float64)
    return matrix, in_features(matrix)


def pairs(n: int, *event: int) -> Pair:
    return Pair(*torch.randn(2, n, *event, generator=rng(), dtype=torch.float64))


def test_an_error_of_the_velocity_costs_t_times_itself_and_1_less_t_in_the_image() -> None:
    """With v = x1 - x0 + e the image is off by (1 - t) e, whose features are then known."""
    matrix, images = linear(7, 12)
    pair = pairs(50, 3, 2, 2)
    error = torch.randn(50, 3, 2, 2, generator=rng(1), dtype=torch.float64)

    def off(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return pair.x1 - pair.x0 + error

    loss, t = perceptual_objective(times, pseudo_huber, images)(off, pair, batch_of(50, rng(2)))
    assert t is not None
    c = 0.00054 * 12
    of_velocity = ((error.square().flatten(1).sum(1) + c**2).sqrt() - c) / 12
    of_image = (1 - t) ** 2 * (error.flatten(1) @ matrix.T).square().sum(1)
    torch.testing.assert_close(loss, t * of_velocity + of_image, rtol=1e-12, atol=0)  # rounding


def test_gradients_of_both_parts_reach_the_field() -> None:
    """For v constant and squared distances the derivative is 2 t e / d + 2 (1 - t)^2 A^T A e."""
    matrix, images = linear(4, 3)
    v = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    pair = pairs(20, 3)

    def constant(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return v.expand_as(x)

    loss, t = perceptual_objective(times, squared, images)(constant, pair, batch_of(20, rng()))
    assert t is not None
    loss.sum().backward()
    error = v.detach() - (pair.x1 - pair.x0)
    wanted = 2 * t[:, None] * error / 3 + 2 * (1 - t[:, None]) ** 2 * (error @ matrix.T @ matrix)
    torch.testing.assert_close(v.grad, wanted.sum(0), rtol=1e-12, atol=1e-12)  # rounding


def test_the_exact_field_of_straight_paths_costs_nothing() -> None:
    mean, std = torch.tensor([0.7, -1.0]).double(), torch.tensor([0.2, 1.5]).double()
    x0 = torch.randn(1000, 2, generator=rng(), dtype=torch.float64)
    objective = perceptual_objective(times, squared, linear(5, 2)[1])
    loss = objective(reflowed_gaussian(mean, std), Pair(x0, mean + std * x0), batch_of(1000, rng())).each
    assert float(loss.max()) < 1e-27  # the square of the rounding of float64


def test_the_perceptual_objective_hands_labels_to_the_field() -> None:
    def labelled(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        assert label is not None
        return per_sample(label, x).expand_as(x).double()

    label = torch.arange(4)
    x0 = torch.zeros(4, 2, dtype=torch.float64)
    pair = Pair(x0, label[:, None].expand(4, 2).double(), label)
    loss = perceptual_objective(times, squared, linear(3, 2)[1])(labelled, pair, batch_of(4, rng())).each
    assert float(loss.max()) < 1e-27  # rounding


@pytest.mark.parametrize("steps", [1, 2])
def test_a_student_is_compared_by_all_of_its_distances(steps: int) -> None:
    """For v = 1 every student arrives at x0 + 1."""
    matrix, images = linear(7, 12)
    pair = pairs(9, 3, 2, 2)

    def one(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return torch.ones_like(x)

    objective = regression_objective(steps, added(squared, images))
    error = (pair.x0 + 1 - pair.x1).flatten(1)
    wanted = error.square().mean(1) + (error @ matrix.T).square().sum(1)
    found = objective(one, pair, batch_of(9, rng())).each
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)  # rounding


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 32, 32), (2, 3, 20, 30), (1, 3, 23, 40)])
def test_small_images_are_enlarged_as_torch_does(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=rng(), dtype=torch.float64)
    height, width = shape[2:]
    larger = (round(height * 48 / min(height, width)), round(width * 48 / min(height, width)))
    wanted = functional.interpolate(x, larger, mode="bilinear")
    # torch computes positions between pixels in another order, of some 1e-15 of 48.
    torch.testing.assert_close(enlarged(x, 48), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 48, 48), (2, 3, 100, 50)])
def test_larger_images_stay_as_they_are(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=rng())
    assert enlarged(x, 48) is x


@pytest.mark.parametrize("channels", [1, 3])
def test_the_network_sees_three_channels_of_enlarged_images(channels: int) -> None:
    weights = torch.randn(2, 3, 3, 3, generator=rng(7))
    seen: list[tuple[int, ...]] = []

    def network(a: Tensor, b: Tensor) -> Tensor:
        seen.append(tuple(a.shape))
        features = functional.conv2d(a, weights) - functional.conv2d(b, weights)
        return features.square().mean((1, 2, 3), keepdim=True)

    a, b = torch.randn(2, 5, channels, 8, 8, generator=rng())
    a.requires_grad_()
    found = Perceptual(network, 32, "")(a, b)
    rgb = [functional.interpolate(x, 32, mode="bilinear").repeat(1, 3 // channels, 1, 1) for x in (a, b)]
    wanted = network(*rgb).flatten()
    assert seen == [(5, 3, 32, 32)] * 2
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)  # rounding of float32
    gradients = [torch.autograd.grad(loss.sum(), a)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
