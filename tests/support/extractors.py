"""Networks of features for tests, files of them, and images to look at."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional


class Flatten(nn.Module):
    """Takes the place of the Inception network: the features are the pixels."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


CPU = torch.device("cpu")


EVENT = (1, 8, 8)


class Pooled(nn.Module):
    """Features that a test can compute: quarters of the images, averaged."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(x, 2).flatten(1)


def scripted(path: Path, module: nn.Module, event: tuple[int, ...] = EVENT) -> Path:
    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(module, torch.zeros(2, *event))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)
    return path


def images(n: int = 7, event: tuple[int, ...] = EVENT) -> Tensor:
    return torch.rand(n, *event, generator=torch.Generator().manual_seed(0)) * 2 - 1
