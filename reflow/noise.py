"""Counter-based noise: draw i depends on (seed, stream, i) alone.

It is the same whatever the batch size, the order, the number of processes or restarts. Streams keep
apart what must not share noise: a student is never evaluated on the noise that its pairs hold.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Generator, Tensor


def noise(seed: int, stream: str, indices: Iterable[int], event: tuple[int, ...]) -> Tensor:
    """Return standard normal noise (n, *event), float32, for the given draw numbers."""
    rows = [rng.standard_normal(event, dtype=np.float32) for rng in _draws(seed, stream, indices)]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, *event)


def uniform(seed: int, stream: str, indices: Iterable[int], event: tuple[int, ...]) -> Tensor:
    """Return numbers (n, *event) uniform in [0, 1), float32, for the given draw numbers."""
    rows = [rng.random(event, dtype=np.float32) for rng in _draws(seed, stream, indices)]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, *event)


def _draws(seed: int, stream: str, indices: Iterable[int]) -> Iterator[np.random.Generator]:
    key = np.array([seed, _words(stream)[0]], dtype=np.uint64)
    for index in indices:
        counter = np.array([0, 0, index, 0], dtype=np.uint64)
        yield np.random.Generator(np.random.Philox(key=key, counter=counter))


def generator(device: torch.device, seed: int, stream: str, *position: int) -> Generator:
    """Return a torch generator on the device for one (seed, stream, position).

    Tensors without values (device meta) take the CPU's.
    """
    return Generator("cpu" if device.type == "meta" else device).manual_seed(
        draw_seed(seed, stream, *position)
    )


def draw_seed(seed: int, stream: str, *position: int) -> int:
    """Return 63 well-mixed bits for one (seed, stream, position)."""
    sequence = np.random.SeedSequence([seed, *_words(stream), *position])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _words(stream: str) -> tuple[int, int]:
    digest = hashlib.sha256(stream.encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
