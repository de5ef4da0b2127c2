"""Pixels: stored as bytes, seen by networks as float32 in [-1, 1]."""

import torch
from torch import Tensor


def as_seen(raw: Tensor) -> Tensor:
    """Return stored values as a network sees them, on any device to the bit; vectors stay as they are."""
    if raw.dtype != torch.uint8:
        return raw
    # CUDA divides by a number by multiplying with its reciprocal, which rounds in another way.
    half = torch.full((), 127.5, device=raw.device)
    return raw.float().div_(half).sub_(1)
