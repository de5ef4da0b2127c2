"""Step control: from an error estimate to the step to try next, for every sample of its own.

q is the estimated error of a step in units of the local tolerance; a step is accepted if q <= 1.
Steps h and progress s are shares of the whole interval.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reflow.errors import ReflowError

FIRST_STEP = 0.01  # a longer one can jump a layer next to the noise
SMALLEST_STEP = 1e-6  # below it rounding rules the error estimate


@dataclass(frozen=True)
class Control:
    """Wanted error of a step, and how far its width may change at once.

    Hairer, Norsett & Wanner, Solving ODEs I, section II.4.
    """

    tolerance: float
    safety: float
    shrink: float
    grow: float

    def error(self, estimate: Tensor) -> Tensor:
        """Return q (B,) for error estimates (B, D): root mean square over the event."""
        return estimate.square().mean(1).sqrt() / self.tolerance

    def next_step(self, h: Tensor, q: Tensor, order: Tensor | int) -> Tensor:
        """Return the width to try next, after a step of width h whose error is of the order given + 1."""
        factor = (self.safety * q.clamp(min=1e-10) ** (-1 / (order + 1))).clamp(self.shrink, self.grow)
        return h * torch.where(q <= 1, factor, factor.clamp(max=self.safety))


def clip(h: Tensor, s: Tensor) -> Tensor:
    """Return steps that end at 1 and leave no crumb before it."""
    rest = 1 - s
    return torch.where(h >= rest, rest, torch.where(2 * h > rest, rest / 2, h))


def require_progress(h: Tensor, q: Tensor, s: Tensor) -> None:
    """Refuse steps that fail though they are tiny."""
    tiny = (h < SMALLEST_STEP) & (q > 1)
    if tiny.any():
        raise ReflowError(
            f"the step size fell under {SMALLEST_STEP:g} of the way near {float(s[tiny][0]):.4f} of it; "
            "ask for a larger --tolerance"
        )
