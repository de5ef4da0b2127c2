"""Pixels: stored as bytes, seen by networks as float32 in [-1, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reflow.randomness import uniform

HALF = 127.5  # the range of bytes over that of what is seen
LEVEL = 1 / HALF  # width of one of 256 levels, as seen


def as_seen(raw: Tensor) -> Tensor:
    """Return stored values as a network sees them, on any device to the bit; vectors stay as they are."""
    if raw.dtype != torch.uint8:
        return raw
    # CUDA divides by a number by multiplying with its reciprocal, which rounds in another way.
    half = torch.full((), HALF, device=raw.device)
    return raw.float().div_(half).sub_(1)


def dequantised(x: Tensor, seed: int, stream: str, numbers: Sequence[int]) -> Tensor:
    """Return pixels (n, *event) on the CPU with each level spread evenly over its width.

    The same numbers give the same values in any batch and process.
    """
    return x + (uniform(seed, stream, numbers, tuple(x.shape[1:])) - 0.5) / HALF
