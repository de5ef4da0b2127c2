"""What a log tells of the steps since its last line, summed on the device so that no step waits for it.

The loss is also told by quarter of t, where the objective has a time: it grows at other ends of the
interval for other reasons.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reflow.distributed import World, total
from reflow.flow import Losses
from reflow.objectives.times import by_interval

QUARTERS = 4
PATIENCE = 5  # steps in a row whose gradient is not finite, after which training has failed


@dataclass(frozen=True)
class Means:
    """Means over some steps; None where nothing was counted. `skipped` counts since training began."""

    loss: float | None
    quarters: tuple[float | None, ...] | None
    gradient_norm: float | None
    skipped: int


class RunningMeans:
    """Sums over steps, and how many steps were skipped: in all, in a row, and in the longest row.

    patience: so many in a row are hopeless.
    """

    def __init__(self, device: torch.device, patience: int = PATIENCE) -> None:
        self.device, self.patience = device, patience
        self.skipped = torch.zeros(3, dtype=torch.int64, device=device)
        self.reset()

    def reset(self) -> None:
        """Begin new sums."""
        self.loss = torch.zeros(2, 1 + QUARTERS, device=self.device)  # sums, counts: all, by quarter
        self.norm = torch.zeros(2, device=self.device)  # sum, count

    def add(self, losses: Losses, norm: Tensor) -> None:
        """Count one step; a gradient norm that is not finite says that it was skipped."""
        good = norm.isfinite()
        each = torch.where(good, losses.each.detach(), 0.0).float()
        shares = torch.ones(len(each), 1 + QUARTERS, device=self.device)
        shares[:, 1:] = 0 if losses.t is None else by_interval(losses.t, QUARTERS).T
        shares = shares * good
        self.loss += torch.stack([each @ shares, shares.sum(0)])
        self.norm += torch.stack([torch.where(good, norm, 0.0).float(), good.float()])
        all_skipped, row, longest = self.skipped.unbind()
        row = torch.where(good, 0, row + 1)
        self.skipped = torch.stack([all_skipped + ~good, row, torch.maximum(longest, row)])

    def read(self, world: World) -> Means:
        """Return the means over all processes, and begin new sums."""
        sums, counts = total(self.loss, world).tolist()
        norm, steps = self.norm.tolist()
        self.reset()
        means = [part / count if count else None for part, count in zip(sums, counts, strict=True)]
        return Means(
            means[0],
            tuple(means[1:]) if any(counts[1:]) else None,
            norm / steps if steps else None,
            int(self.skipped[0]),
        )

    def hopeless(self) -> bool:
        """Return whether training has failed since it began."""
        return int(self.skipped[2]) >= self.patience
