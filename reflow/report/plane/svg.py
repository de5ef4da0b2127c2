"""Points of the plane as paths of an SVG picture, and densities as its images.

A picture shows the window [-reach, reach]^2 on a square of SIZE units, y upwards. Points are (B, 2),
trajectories (M, B, 2), densities (n, n) with the first axis along x and the second along y.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIZE = 1200
HEAD, TALLEST = 0.28, 36.0  # an arrow's head: the share of its length, and so many units at most
SHORTEST = 6.0  # an arrow of fewer units is left out
SHADE = (42, 111, 151)  # of densities in print, on white


@dataclass(frozen=True)
class Window:
    """The part of the plane that a picture shows."""

    reach: float

    def place(self, points: Tensor) -> NDArray[np.int64]:
        """Return points (..., 2) in units of the picture, rounded."""
        scaled = points.double().cpu().numpy() / self.reach * [1, -1]
        placed: NDArray[np.int64] = np.rint((scaled + 1) / 2 * SIZE).astype(np.int64)
        return placed

    def dots(self, points: Tensor) -> str:
        """Return a path of points, to be stroked with round ends."""
        return "".join(f"M{x} {y}h0" for x, y in self.place(points))

    def lines(self, states: Tensor) -> str:
        """Return a path of the trajectories."""
        placed = self.place(states).swapaxes(0, 1)
        return "".join("M" + "L".join(f"{x} {y}" for x, y in trajectory) for trajectory in placed)

    def arrows(self, origins: Tensor, vectors: Tensor) -> str:
        """Return a path of arrows, as the script of the page draws them, too."""
        starts, ends = self.place(origins), self.place(origins + vectors)
        return "".join(_arrow(*start, *end) for start, end in zip(starts, ends, strict=True))


def _arrow(x: int, y: int, tip_x: int, tip_y: int) -> str:
    dx, dy = tip_x - x, tip_y - y
    length = np.hypot(dx, dy)
    if length < SHORTEST:
        return ""
    head = min(HEAD, TALLEST / length)
    back_x, back_y = tip_x - head * dx, tip_y - head * dy
    side_x, side_y = head / 2 * dy, -head / 2 * dx  # half as wide to either side as long
    barbs = [(back_x + side_x, back_y + side_y), (tip_x, tip_y), (back_x - side_x, back_y - side_y)]
    return f"M{x} {y}L{tip_x} {tip_y}M" + "L".join(f"{a:.0f} {b:.0f}" for a, b in barbs)


def shades(density: NDArray[np.float64], peak: float | NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return densities (..., n, n) as rows of a picture from the top, 0 to 255: the root of their share."""
    share = np.clip(density / peak, 0, 1)
    levels: NDArray[np.uint8] = np.rint(255 * np.sqrt(share)).astype(np.uint8)
    return levels.swapaxes(-1, -2)[..., ::-1, :]


def shade_png(levels: NDArray[np.uint8]) -> str:
    """Return shades (n, n) as the data URI of a PNG, transparent where nothing is."""
    flat = np.full((*levels.shape, 4), (*SHADE, 0), np.uint8)
    flat[..., 3] = levels
    buffer = io.BytesIO()
    Image.fromarray(flat).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
