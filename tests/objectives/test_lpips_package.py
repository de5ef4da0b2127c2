"""The perceptual distance against the package lpips, with random weights."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import rng
from torch.nn import functional
from vgg import loaded, saved


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return lpips with random weights of VGG-16, and the file that they are in."""
    lpips = pytest.importorskip("lpips", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
    models = importlib.import_module("torchvision.models")
    torch.manual_seed(0)
    vgg = models.vgg16(weights=None)
    held = {name: weight for name, weight in vgg.state_dict().items() if name.startswith("features.")}
    path = saved(tmp_path_factory.mktemp("vgg") / "vgg16.pth", held)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own about torchvision
        network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    for part in network.net.children():
        for name, module in part.named_children():
            module.load_state_dict(vgg.features[int(name)].state_dict())
    return network.requires_grad_(False), path


@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_is_what_the_package_gives(real: tuple[Any, Path], channels: int) -> None:
    network, path = real
    perceptual = loaded(path, 32, (channels, 16, 16))
    assert perceptual is not None
    a, b = torch.rand(2, 3, channels, 16, 16, generator=rng()) * 2 - 1
    a.requires_grad_()
    found = perceptual(a, b)
    rgb = [functional.interpolate(x, 32, mode="bilinear").repeat(1, 3 // channels, 1, 1) for x in (a, b)]
    wanted = network(*(x * 0.5 + 0.5 for x in rgb), normalize=True).flatten()  # from [0, 1], as it asks
    assert found.shape == (3,)
    assert float(wanted.detach().min()) > 0
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)  # rounding of float32, 13 layers deep
    gradients = [torch.autograd.grad(loss.sum(), a)[0] for loss in (found, wanted)]
    scale = float(gradients[1].abs().max())
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-3 * scale)  # maxima may change hands


def test_lpips_has_a_gradient_where_the_features_are_zero(real: tuple[Any, Path], tmp_path: Path) -> None:
    """The square root of a sum of squares has none there, but nothing below it is alive."""
    weights = torch.load(real[1], weights_only=True)
    weights["features.28.bias"].fill_(-100.0)
    perceptual = loaded(saved(tmp_path / "dead.pth", weights), 32)
    assert perceptual is not None
    a, b = torch.rand(2, 3, 1, 32, 32, generator=rng())
    perceptual(a.requires_grad_(), b).sum().backward()
    assert a.grad is not None
    assert bool(a.grad.isfinite().all())
    assert bool((a.grad != 0).any())
    at_rest = b.clone().requires_grad_()
    perceptual(at_rest, b).sum().backward()
    assert torch.equal(at_rest.grad, torch.zeros_like(b))
