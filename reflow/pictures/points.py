"""Pictures of points (N, D), drawn by Pillow. The same input gives the same bytes."""

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from reflow.pictures import png

SIDE = 640  # pixels of the square in which points are drawn
LEFT, RIGHT, BELOW, NAMED = 64, 16, 42, 30  # pixels of margins; of more where axes have names
PAPER, FRAME, GRID, INK, DOTS = (255,) * 3, (150, 158, 168), (233, 236, 240), (75, 85, 97), (209, 73, 91)
PLANE = 1.6  # half the side of the plane that is shown at least
OUTSIDE = 0.005  # share of points at each end that may lie outside
RADIUS, FINE = 2.0, 4  # of a dot in pixels; parts of a pixel
OPAQUE = 0.7  # is a dot; less so above MANY dots, so that one sees where they are dense
MANY = 4000
BARS = 80  # of a histogram
TEXT = 19  # pixels

Floats = NDArray[np.float64]
Limits = tuple[float, float]


def scatter(points: Tensor) -> bytes:
    """Return a PNG of points: their first two coordinates, on equal scales, or a histogram for D = 1."""
    shown = points[:, :2].double().numpy()
    shown = shown[np.isfinite(shown).all(1)]
    dimension = points.shape[1]
    across = limits(shown)[0]
    if dimension == 1:
        cover, up = _histogram(shown[:, 0], across)
    else:
        up = limits(shown)[1]
        cover = _dots(shown, across, up)
    names = NAMED if dimension > 2 else 0
    left, height = LEFT + names, RIGHT + SIDE + BELOW + names
    picture = Image.new("RGB", (left + SIDE + RIGHT, height), PAPER)
    _grid(ImageDraw.Draw(picture), left, across, up)
    picture.paste(DOTS, (left, RIGHT), Image.fromarray(np.rint(255 * cover).astype(np.uint8)))
    frame = (left - 1, RIGHT - 1, left + SIDE, RIGHT + SIDE)
    ImageDraw.Draw(picture).rectangle(frame, outline=FRAME)
    if names:
        _name(picture, left, f"coordinate 1 of {dimension}", "coordinate 2")
    return png(picture)


def limits(points: Floats) -> list[Limits]:
    """Return what is shown of each coordinate, all equally much: the usual plane if it has the points."""
    if not len(points) or np.mean(np.abs(points).max(1) > PLANE) <= OUTSIDE:
        return [(-PLANE, PLANE)] * points.shape[1]
    low, high = np.quantile(points, (OUTSIDE, 1 - OUTSIDE), axis=0)
    middle = (low + high) / 2
    half = float(max(0.55 * (high - low).max(), 1e-3 * np.abs(middle).max())) or 1.0  # of equal points, too
    return [(float(centre) - half, float(centre) + half) for centre in middle]


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from low to high: about five."""
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= 7)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _dots(points: Floats, across: Limits, up: Limits) -> Floats:
    """Return how opaque dots lie on the pixels (SIDE, SIDE): discs on a finer grid, one over another."""
    fine, reach = SIDE * FINE, math.ceil(RADIUS * FINE)
    x = np.floor((points[:, 0] - across[0]) / (across[1] - across[0]) * fine)
    y = np.floor((up[1] - points[:, 1]) / (up[1] - up[0]) * fine)
    near = (x >= -reach) & (x < fine + reach) & (y >= -reach) & (y < fine + reach)
    column, row = x[near].astype(np.int64), y[near].astype(np.int64)
    parts = np.zeros(SIDE * SIDE)
    for down, right in itertools.product(range(-reach, reach + 1), repeat=2):
        if math.hypot(down, right) <= RADIUS * FINE:
            j, i = column + right, row + down
            inside = (j >= 0) & (j < fine) & (i >= 0) & (i < fine)
            parts += np.bincount(i[inside] // FINE * SIDE + j[inside] // FINE, minlength=SIDE * SIDE)
    opaque = OPAQUE * min(1.0, (MANY / max(1, len(points))) ** 0.5)
    cover: Floats = 1 - (1 - opaque) ** (parts.reshape(SIDE, SIDE) / FINE**2)
    return cover


def _histogram(values: Floats, across: Limits) -> tuple[Floats, Limits]:
    """Return the bars on the pixels (SIDE, SIDE), and the numbers of values from floor to ceiling."""
    heights, _ = np.histogram(values, BARS, across)
    ceiling = 1.04 * max(1, heights.max())
    tall = np.rint(heights / ceiling * SIDE).astype(np.int64).repeat(SIDE // BARS)
    gaps = np.arange(SIDE) % (SIDE // BARS) == 0
    return ((np.arange(SIDE)[:, None] >= SIDE - tall) & ~gaps).astype(np.float64), (0.0, float(ceiling))


def _grid(draw: ImageDraw.ImageDraw, left: int, across: Limits, up: Limits) -> None:
    """Draw lines at round numbers, with these beside them."""
    font = ImageFont.load_default(TEXT)
    for value in ticks(*across):
        x = left + round((value - across[0]) / (across[1] - across[0]) * SIDE)
        draw.line((x, RIGHT, x, RIGHT + SIDE - 1), fill=GRID)
        draw.text((x, RIGHT + SIDE + 7), _tell(value, across), fill=INK, font=font, anchor="ma")
    for value in ticks(*up):
        y = RIGHT + round((up[1] - value) / (up[1] - up[0]) * SIDE)
        draw.line((left, y, left + SIDE - 1, y), fill=GRID)
        draw.text((left - 9, y), _tell(value, up), fill=INK, font=font, anchor="rm")


def _tell(value: float, among: Limits) -> str:
    """Return a number with as many decimals as tell it from its neighbours, if they fit."""
    decimals = max(0, 1 - math.floor(math.log10(among[1] - among[0])))
    usual = f"{value:.{decimals}f}"
    return usual if len(usual) <= 6 else f"{value:.2g}"


def _name(picture: Image.Image, left: int, across: str, up: str) -> None:
    """Write the names of the axes below and, turned, at the left."""
    font = ImageFont.load_default(TEXT)
    below = (left + SIDE // 2, picture.height - 8)
    ImageDraw.Draw(picture).text(below, across, fill=INK, font=font, anchor="md")
    label = Image.new("RGB", (SIDE, NAMED), PAPER)
    ImageDraw.Draw(label).text((SIDE // 2, NAMED // 2), up, fill=INK, font=font, anchor="mm")
    picture.paste(label.rotate(90, expand=True), (2, RIGHT))
