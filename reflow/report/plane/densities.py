"""A density beside a histogram of particles: as shades of a picture, and in figures."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reflow.report.plane.continuity import Density, Floats, sampling_variation, total_variation
from reflow.report.plane.svg import SIZE, Window, shade_png, shades

BINS = 27  # a side of the histogram


@dataclass(frozen=True)
class DensityFrames:
    """Densities and histograms as shades (M, n, n), and what is said of them at every time.

    half_sides: of the squares they fill, in units of the picture. differences: the total variation between
    histogram and density; expected: its mean if the particles were drawn from the density.
    """

    times: list[float]
    half_sides: list[float]
    shades: NDArray[np.uint8]
    histogram: NDArray[np.uint8]
    masses: list[float]
    differences: list[float]
    expected: list[float]

    def still(self, moment: int) -> dict[str, Any]:
        """Return one time as pictures and figures."""
        return {
            "t": self.times[moment],
            "mass": self.masses[moment],
            "difference": self.differences[moment],
            "expected": self.expected[moment],
            "density": shade_png(self.shades[moment]),
            "histogram": shade_png(self.histogram[moment]),
            "half": self.half_sides[moment],
        }

    def told(self, moment: int) -> list[str]:
        """Return the mass, what it is off by, the difference and what is expected of it, in words."""
        mass = self.masses[moment]
        figures = (self.differences[moment], self.expected[moment])
        off = f"{round(mass - 1, 5) + 0.0:+.5f}".replace("-", "\N{MINUS SIGN}")  # no negative zero
        return [f"{mass:.5f}", off, *(f"{value:.3f}" for value in figures)]

    @property
    def worst(self) -> float:
        """The largest error of the total mass."""
        return max(abs(mass - 1) for mass in self.masses)


def density_frames(density: Density, particles: Tensor, window: Window) -> DensityFrames:
    """Return the density beside the histogram of the particles (M, B, 2)."""
    binned, edges = density.binned(BINS), density.edges(BINS)
    placed = particles.double().cpu().numpy()
    found = np.stack([_shares(points, borders) for points, borders in zip(placed, edges, strict=True)])
    areas = np.diff(edges)[:, :1, None] ** 2
    peaks = density.values.max((1, 2), keepdims=True)
    return DensityFrames(
        density.times.tolist(),
        # A picture ends half a cell beyond its outermost nodes, where the bins end.
        [round(SIZE / 2 * border / window.reach, 2) for border in edges[:, -1].tolist()],
        shades(density.values, peaks),
        shades(found / areas, peaks),
        density.masses().tolist(),
        [total_variation(one, other) for one, other in zip(found, binned, strict=True)],
        [sampling_variation(one, particles.shape[1]) for one in binned],
    )


def _shares(points: Floats, borders: Floats) -> Floats:
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=[borders, borders])
    return counts / len(points)
