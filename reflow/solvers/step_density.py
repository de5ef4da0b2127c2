"""How dense steps must lie: the second derivative of the velocity along trajectories that were solved.

The local error of a method of order two grows as h^3 |v''|, so steps of equal error have a density of
|v''|^(1/3). Higher derivatives give no better grids for higher orders, and become noisy.
"""

import torch
from torch import Tensor

from reflow.devices import most_precise

SMOOTHING = 0.005  # half-width of the average over the density, in t
RESOLUTION = 2000  # intervals of the density
FLOOR = 0.01  # of the way: nearer to the end, spread steps lie no denser


class Curvature:
    """Second derivatives of the velocity along trajectories: times, and RMS over samples and elements."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.sizes: list[Tensor] = []
        self._last: tuple[float, Tensor] | None = None
        # where the step before it began, and the slope there
        self._slope: tuple[float, Tensor] | None = None

    def add(self, t: float, velocity: Tensor) -> None:
        """Take the velocities (P, *event) at the next time; of three, the second derivative is known."""
        now = velocity.to(most_precise(velocity.device))
        if self._last is not None:
            before, then = self._last
            slope = (now - then) / (t - before)
            if self._slope is not None:
                start, old = self._slope
                self.times.append((start + t) / 2)
                self.sizes.append(((slope - old) / (t - start)).square().mean().sqrt())
            self._slope = before, slope
        self._last = t, now


def density(curvature: Curvature, spread: float) -> tuple[Tensor, Tensor]:
    """Return a density of steps on a fine grid of times, with a share of them spread as 1 / (1 - t)."""
    times = torch.tensor(curvature.times, dtype=torch.float64)
    sizes = torch.stack(curvature.sizes).cpu().double()
    fine = torch.linspace(0, 1, RESOLUTION + 1, dtype=torch.float64)
    place = torch.searchsorted(times, fine).clamp(1, len(times) - 1)
    share = (fine - times[place - 1]) / (times[place] - times[place - 1])
    needed = torch.lerp(sizes[place - 1], sizes[place], share.clamp(0, 1)) ** (1 / 3)
    width = round(SMOOTHING * RESOLUTION)
    window = torch.hann_window(2 * width + 3, periodic=False, dtype=torch.float64)[1:-1]
    padded = torch.nn.functional.pad(needed[None, None], (width, width), mode="replicate")
    smooth = torch.nn.functional.conv1d(padded, (window / window.sum())[None, None])[0, 0]
    even = 1 / (1 - fine + FLOOR)
    parts = [part / torch.trapezoid(part, fine) for part in (smooth.clamp(min=1e-12), even)]
    return fine, torch.lerp(parts[0], parts[1], spread)
