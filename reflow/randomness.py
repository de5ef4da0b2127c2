"""Randomness: noise by number, and the random numbers of a training step.

Noise is counter-based: draw i depends on (seed, stream, i) alone, whatever the batch size, the order, the
number of processes or restarts. Streams keep apart what must not share noise: a student is never evaluated
on the noise that its pairs hold.

A batch of training may be divided among processes and into micro-batches. Whoever works on some of its rows
draws every number for the whole batch, from generators seeded by (seed, stream, step), and keeps those of
its rows. So the batch is the same in one process and in many, and nothing random needs to be saved. Drawing
costs little beside a network; what is read from disk is read for the own rows only.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from reflow.devices import to_device


def noise(seed: int, stream: str, indices: Iterable[int], event: tuple[int, ...]) -> Tensor:
    """Return standard normal noise (n, *event), float32, for the given draw numbers."""
    rows = [rng.standard_normal(event, dtype=np.float32) for rng in _generators(seed, stream, indices)]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, *event)


def uniform(seed: int, stream: str, indices: Iterable[int], event: tuple[int, ...]) -> Tensor:
    """Return numbers (n, *event) uniform in [0, 1), float32, for the given draw numbers."""
    rows = [rng.random(event, dtype=np.float32) for rng in _generators(seed, stream, indices)]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, *event)


def _generators(seed: int, stream: str, indices: Iterable[int]) -> Iterator[np.random.Generator]:
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


@dataclass(frozen=True)
class Draws:
    """Random numbers for `rows` (n,) of a batch of `batch` rows, on a device.

    host: another generator, on the CPU, for what decides which data are read.
    """

    generator: Generator
    host: Generator
    batch: int
    rows: NDArray[np.int64]
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows)

    def uniform(self) -> Tensor:
        """Return numbers uniform in [0, 1), (n,)."""
        return self._own(torch.rand(self.batch, generator=self.generator, device=self.device))

    def normal(self, event: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers (n, *event)."""
        return self._own(torch.randn(self.batch, *event, generator=self.generator, device=self.device))

    def places(self) -> Tensor:
        """Return the rows as a tensor on the device, (n,)."""
        return self._own(torch.arange(self.batch, device=self.device))

    def shuffled(self) -> NDArray[np.int64]:
        """Return what a random permutation of the whole batch puts at the rows, (n,)."""
        permutation: NDArray[np.int64] = torch.randperm(self.batch, generator=self.host).numpy()
        return permutation[self.rows]

    def at(self, chosen: NDArray[np.bool_]) -> "Draws":
        """Return the draws of some of the rows."""
        return replace(self, rows=self.rows[chosen])

    def _own(self, whole: Tensor) -> Tensor:
        n = len(self.rows)
        if n == self.batch:
            return whole
        if n and self.rows[-1] - self.rows[0] == n - 1:  # rows ascend, so these are neighbours
            return whole[self.rows[0] : self.rows[-1] + 1].clone()  # a view would keep all in memory
        return whole[to_device(torch.from_numpy(self.rows), self.device)]


def draws(
    device: torch.device,
    batch: int,
    rows: NDArray[np.int64] | None = None,
    *,
    seed: int,
    stream: str,
    step: int = 0,
) -> Draws:
    """Return the random numbers of one step for these ascending rows of its batch; default: all."""
    return Draws(
        generator(device, seed, stream, step),
        generator(torch.device("cpu"), seed, f"{stream} host", step),
        batch,
        np.arange(batch) if rows is None else rows,
        device,
    )
