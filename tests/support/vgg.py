"""A stand-in for the package lpips, and files of weights for it."""

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fits import CPU, fit_settings, rng
from torch import Tensor, nn

from reflow.objectives.lpips import Perceptual, load_perceptual
from reflow.recipes.training import PairFitSettings

EVENT = (1, 8, 8)


class StandIn(nn.Module):
    """What lpips.LPIPS is built like, with two convolutions in place of thirteen, as linear features."""

    def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
        super().__init__()
        assert (net, pnet_rand, verbose) == ("vgg", True, False)
        self.net = nn.Sequential()
        for name, convolution in {"slice1": nn.Conv2d(3, 4, 3), "slice2": nn.Conv2d(4, 6, 3)}.items():
            part = nn.Sequential()
            part.add_module(str(5 * (name == "slice2")), convolution)
            self.net.add_module(name, part)
        self.lin = nn.Linear(1, 1)  # of the package's own weights

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.net(a) - self.net(b)).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in in the place of the package."""
    package: Any = types.ModuleType("lpips")
    package.__spec__ = importlib.machinery.ModuleSpec("lpips", None)
    package.LPIPS = StandIn
    monkeypatch.setitem(sys.modules, "lpips", package)


def features(seed: int = 0) -> dict[str, Tensor]:
    """Return weights by torchvision's names, with some of a classifier that LPIPS does not have."""
    shapes = {
        "features.0.weight": (4, 3, 3, 3),
        "features.0.bias": (4,),
        "features.5.weight": (6, 4, 3, 3),
        "features.5.bias": (6,),
        "classifier.0.weight": (2, 2),
    }
    return {name: torch.randn(shape, generator=rng(seed)) for name, shape in shapes.items()}


def saved(path: Path, weights: object) -> Path:
    if path.suffix == ".safetensors":
        assert isinstance(weights, dict)
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


def loaded(path: Path | None, size: int | None = None, event: tuple[int, ...] = EVENT) -> Perceptual | None:
    common = {k: v for k, v in dict(fit_settings()).items() if k in PairFitSettings.model_fields}
    settings = PairFitSettings.model_validate(common | {"perceptual_size": size})
    return load_perceptual(path, settings, event, CPU)
