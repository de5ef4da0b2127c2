"""A density in the plane, carried by a velocity field: dp/dt + div(p v) = 0 from N(0, I) at t = 0.

Along a trajectory the equation reads d log p / dt = -div v. From one time to the next every node of a
grid is followed back to where it came from (Runge-Kutta of order 4), log p is read there, and the
divergence met on the way is subtracted: a semi-Lagrangian scheme. The velocity is evaluated once per
node and time; in between it is a bicubic spline in the plane and a cubic in t, whose divergence is exact.

Nothing of this conserves the mass by construction, so that the mass tells how good it is. (Finite
volumes would conserve it whatever they do to the density, and on a grid that can be paid for they smear
blobs that are a few cells wide; log p of a blob is a parabola, which a cubic spline holds exactly.)

The grid shrinks with the flow: node y in [-1, 1]^2 stands for x = y half_width(t), and the half-width
goes linearly from five standard deviations of the noise to the reach of the data.

Shapes: times (M,), densities (M, n, n), their first axis along x and the second along y.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline
from scipy.special import gammaln
from torch import Tensor

from reflow.flow import VelocityField

Floats = NDArray[np.float64]
Splines = tuple[RectBivariateSpline, RectBivariateSpline]  # of the two components of a velocity

NOISE_REACH = 5.0  # half-width of the grid at t = 0; outside lies 1e-6 of the mass
# Nodes a side, times between 0 and 1. A reflowed field tears the modes apart: 81 and 40 lose 0.004 of its
# mass in the gaps, these 0.0006. Every time costs an interpolation of log p.
NODES, STEPS = 135, 20
PORTION = 1024  # rows that are evaluated at once
REMEMBERED = 4  # times through which a cubic goes


@dataclass(frozen=True)
class Density:
    """Probability per unit area at the nodes of squares that shrink with the flow."""

    times: Floats
    half_widths: Floats
    values: Floats

    def masses(self) -> Floats:
        """Return the total probability (M,) on the grid."""
        masses: Floats = self.values.sum((1, 2)) * self._areas()
        return masses

    def binned(self, bins: int) -> Floats:
        """Return the probabilities (M, bins, bins) of equal squares of nodes; bins divides n."""
        count, nodes, _ = self.values.shape
        assert nodes % bins == 0
        squares = self.values.reshape(count, bins, nodes // bins, bins, nodes // bins)
        binned: Floats = squares.sum((2, 4)) * self._areas()[:, None, None]
        return binned

    def edges(self, bins: int) -> Floats:
        """Return the borders (M, bins + 1) of those squares along either axis."""
        nodes = self.values.shape[1]
        borders = np.linspace(-1, 1, bins + 1) * nodes / (nodes - 1)  # nodes are the middles of cells
        edges: Floats = self.half_widths[:, None] * borders
        return edges

    def _areas(self) -> Floats:
        spacing = 2 * self.half_widths / (self.values.shape[1] - 1)
        areas: Floats = spacing**2
        return areas


def carried(
    field: VelocityField,
    *,
    reach: float,
    like: Tensor,
    label: int | None = None,
    nodes: int = NODES,
    steps: int = STEPS,
) -> Density:
    """Return the density at steps + 1 equally spaced times from 0 to 1.

    reach: half-width of the grid at t = 1, to be chosen well beyond the data. like: tells the precision
    and the device on which the field is evaluated. label: the class whose density it is.
    """
    times = np.linspace(0, 1, steps + 1)
    axis = np.linspace(-1, 1, nodes)
    flow = _Flow.sampled(field, times, _half_widths(times, reach), axis, like, label)
    start = np.stack(np.meshgrid(axis, axis, indexing="ij")).reshape(2, -1)
    logs = [2 * math.log(NOISE_REACH) - math.log(2 * math.pi) - NOISE_REACH**2 / 2 * (start**2).sum(0)]
    for earlier, later in pairwise(times):
        foot, divergence = _back(flow, start, later, earlier)
        before = RectBivariateSpline(axis, axis, logs[-1].reshape(nodes, nodes))
        logs.append(before.ev(*foot) - divergence)
    widths = _half_widths(times, reach)
    values = np.exp(np.stack(logs)).reshape(-1, nodes, nodes) / widths[:, None, None] ** 2
    return Density(times, widths, values)


def _half_widths(times: Floats, reach: float) -> Floats:
    return (1 - times) * NOISE_REACH + times * reach


@dataclass(frozen=True)
class _Flow:
    """The velocity dy/dt (M, 2, n, n) of the grid's own coordinates, and splines through it."""

    times: Floats
    axis: Floats
    velocities: Floats

    @classmethod
    def sampled(
        cls,
        field: VelocityField,
        times: Floats,
        half_widths: Floats,
        axis: Floats,
        like: Tensor,
        label: int | None,
    ) -> "_Flow":
        """Evaluate the field at all nodes and times."""
        grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        labels = None if label is None else torch.full((len(grid),), label, device=like.device)
        growth = half_widths[-1] - half_widths[0]  # per unit of t
        velocities = []
        for time, half_width in zip(times, half_widths, strict=True):
            x = torch.from_numpy(grid * half_width).to(like)
            t = torch.full((len(x),), float(time)).to(x)
            with torch.no_grad():
                v = torch.cat([field(*rows) for rows in _portions(x, t, labels)])
            velocities.append((v.double().cpu().numpy() - growth * grid) / half_width)
        stacked = np.stack(velocities).reshape(len(times), len(axis), len(axis), 2)
        return cls(times, axis, np.moveaxis(stacked, -1, 1))

    def at(self, time: float) -> Splines:
        """Return the velocity at any time, by the cubic in t through the four around it."""
        last = len(self.times) - REMEMBERED
        first = min(max(int(np.searchsorted(self.times, time)) - REMEMBERED // 2, 0), last)
        window = self.times[first : first + REMEMBERED]
        weights = [
            math.prod((time - other) / (own - other) for other in window if other != own) for own in window
        ]
        across, along = np.tensordot(weights, self.velocities[first : first + REMEMBERED], 1)
        return (
            RectBivariateSpline(self.axis, self.axis, across),
            RectBivariateSpline(self.axis, self.axis, along),
        )


def _portions(
    x: Tensor, t: Tensor, labels: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield rows that a processor's cache holds, which takes a fifth of the time off."""
    for start in range(0, len(x), PORTION):
        rows = slice(start, start + PORTION)
        yield x[rows], t[rows], None if labels is None else labels[rows]


def _back(flow: _Flow, y: Floats, later: float, earlier: float) -> tuple[Floats, Floats]:
    """Return where the nodes y (2, P) were, and the integral (P,) of the divergence since then."""
    h = earlier - later
    here, middle, there = (flow.at(time) for time in (later, (later + earlier) / 2, earlier))
    v1, d1 = _on_nodes(here, flow.axis)
    v2, d2 = _look(middle, y + h / 2 * v1)
    v3, d3 = _look(middle, y + h / 2 * v2)
    v4, d4 = _look(there, y + h * v3)
    return y + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4), -h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)


def _on_nodes(field: Splines, axis: Floats) -> tuple[Floats, Floats]:
    """Return what `_look` does at the nodes, some ten times faster."""
    across, along = field
    velocity = np.stack([across(axis, axis), along(axis, axis)]).reshape(2, -1)
    return velocity, (across(axis, axis, dx=1) + along(axis, axis, dy=1)).ravel()


def _look(field: Splines, y: Floats) -> tuple[Floats, Floats]:
    """Return velocity (2, P) and divergence (P,) at the points; beyond the grid those of its edge."""
    across, along = field
    velocity = np.stack([across.ev(y[0], y[1]), along.ev(y[0], y[1])])
    divergence: Floats = across.ev(y[0], y[1], dx=1) + along.ev(y[0], y[1], dy=1)
    return velocity, divergence


def total_variation(found: Floats, wanted: Floats) -> float:
    """Return half the sum of the differences of two sets of probabilities of bins: 0 equal, 1 disjoint."""
    return float(np.abs(found - wanted).sum() / 2)


def sampling_variation(wanted: Floats, count: int) -> float:
    """Return the mean total variation between these probabilities and the shares of `count` draws.

    Each bin's count is binomial; the mean of its distance from its mean is De Moivre's
    2 m C(n, m) p^m (1 - p)^(n - m + 1) with m the whole part of n p, plus 1.
    """
    p = np.clip(wanted.ravel(), 1e-300, 1 - 1e-16)
    m = np.minimum(np.floor(count * p) + 1, count)
    ways = gammaln(count + 1) - gammaln(m + 1) - gammaln(count - m + 1)
    deviations = 2 * m * np.exp(ways + m * np.log(p) + (count - m + 1) * np.log1p(-p))
    return float(deviations.sum() / count / 2)
