"""The random numbers of a training step, drawn alike however a batch is divided.

A batch may be divided among processes and into micro-batches. Whoever works on some of its rows draws
every number for the whole batch, from generators seeded by (seed, stream, step), and keeps those of its
rows. So the batch is the same in one process and in many, and nothing random needs to be saved.
Drawing costs little beside a network; what is read from disk is read for the own rows only.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from reflow.noise import generator


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
        if n and self.rows[-1] - self.rows[0] == n - 1:  # rows ascend, so these are neighbours
            return whole[self.rows[0] : self.rows[-1] + 1]
        return whole[torch.from_numpy(self.rows).to(self.device)]


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
