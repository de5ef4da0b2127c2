"""What a network is told beside x: the noise level and, where the data has classes, the label.

A student that learns average velocities is told the span to average over, too: how far from t its other
time lies. What it says of the span starts at zero, so a fresh student is the velocity field it came from,
and it vanishes with the span for ever.

Shapes: level (B,), span (B,) in [0, 1], label (B,) int64 or None, features (B, width).
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from reflow.errors import ReflowError

LOWEST, HIGHEST = 0.25, 16.0  # angular frequencies over levels in [-2.9, 2.9]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context without autocast, on devices that know it (`meta` does not)."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def zero(layer: Layer) -> Layer:
    """Set the layer's weights to zero, so that what it adds starts silent."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Embedding(nn.Module):
    """Sinusoids of the noise level, plus a learned vector per label, through two layers.

    `labels` counts the classes and, where there is one, the null label. With `spans` sinusoids of the span
    are added, through a layer of their own.
    """

    frequencies: Tensor

    def __init__(self, width: int, labels: int | None, *, spans: bool = False) -> None:
        super().__init__()
        octaves = torch.linspace(math.log(LOWEST), math.log(HIGHEST), width // 2)
        self.register_buffer("frequencies", octaves.exp(), persistent=False)
        self.classes = None if labels is None else nn.Embedding(labels, width)
        self.spans = zero(nn.Linear(width // 2 * 2, width, bias=False)) if spans else None
        self.layers = nn.Sequential(
            nn.Linear(width // 2 * 2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, level: Tensor, label: Tensor | None, span: Tensor | None = None) -> Tensor:
        """Return the features; refuse a label to a model without classes, and the reverse."""
        angle = level[:, None] * self.frequencies
        features = torch.cat([angle.cos(), angle.sin()], dim=1)
        if (self.classes is None) != (label is None):
            needs = "needs a label" if label is None else "takes no label"
            raise ReflowError(f"this model {needs}")
        if self.classes is not None:
            features = features + self.classes(label)
        with without_autocast(level.device):  # t is told apart in float32 only
            if span is not None:
                assert self.spans is not None
                angle = span[:, None] * self.frequencies
                features = features + self.spans(torch.cat([1 - angle.cos(), angle.sin()], dim=1))
            mapped: Tensor = self.layers(features)
        return mapped
