"""Plots of the report and of the previews, by matplotlib without a display.

Points are (N, 2), trajectories (M, N, 2). The same input gives the same bytes.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

INK, FAINT, DATA, GENERATED, TRAIL = "#333333", "#b8b8b8", "#2a6f97", "#d1495b", "#7a7a7a"
COLOURS = ("#2a6f97", "#d1495b", "#3a7d44", "#8f5fbf", "#c77d0a", "#4d4d4d")
MARKERS = "osD^vP"
PLANE = 1.6  # half the side of the plane that is shown
STYLE: Any = {
    "svg.hashsalt": "reflow",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 10,
}


def scatter(points: Tensor, colour: str = GENERATED) -> bytes:
    """Return a PNG of vectors (N, D): a histogram for D = 1, else the first two coordinates."""
    figure = Figure(figsize=(3.4, 3.4), layout="constrained")
    dimension = points.shape[1]
    if dimension == 1:
        axes = figure.add_subplot()
        axes.hist(points[:, 0].numpy(), bins=60, color=colour)
        return to_png(figure)
    if dimension == 2:
        axes = _plane(figure)
    else:
        axes = figure.add_subplot()
        axes.set(xlabel=f"coordinate 1 of {dimension}", ylabel="coordinate 2")
    axes.scatter(points[:, 0], points[:, 1], s=2, color=colour, linewidths=0)
    return to_png(figure)


def trajectories(states: Tensor, data: Tensor) -> bytes:
    """Return a PNG of trajectories from noise (grey dots) to their ends (red) over the data (blue)."""
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = _plane(figure, limit=3.0)
    axes.scatter(data[:, 0], data[:, 1], s=2, color=DATA, alpha=0.35, linewidths=0)
    axes.plot(states[:, :, 0].numpy(), states[:, :, 1].numpy(), color=TRAIL, linewidth=0.5, alpha=0.6)
    axes.scatter(states[0, :, 0], states[0, :, 1], s=5, color=FAINT, linewidths=0, zorder=3)
    axes.scatter(states[-1, :, 0], states[-1, :, 1], s=7, color=GENERATED, linewidths=0, zorder=4)
    return to_png(figure)


def distance_per_nfe(curves: Mapping[str, Sequence[tuple[float, float]]], floor: float, ylabel: str) -> str:
    """Return an SVG of distance against NFE, a curve (or a point) per model, with the floor."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(curves.items()):
            nfe, distance = zip(*points, strict=True)
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            axes.plot(nfe, distance, color=colour, marker=marker, label=name, linewidth=1.5)
        axes.axhline(floor, color=INK, linestyle=":", label="real versus real (floor)")
        axes.set(xscale="log", yscale="log", xlabel="network evaluations per sample", ylabel=ylabel)
        ticks = sorted({nfe for points in curves.values() for nfe, _ in points})
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        return _to_svg(figure)


def losses(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Return an SVG of loss against optimiser steps, a panel per stage."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3 * max(2, len(curves)), 2.8), layout="constrained")
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for number, (axes, (name, points)) in enumerate(zip(panels, curves.items(), strict=True)):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=COLOURS[number % len(COLOURS)], linewidth=1.5)
            axes.set(title=name, xlabel="optimiser steps", yscale="log")
            axes.grid(alpha=0.25)
        panels[0].set_ylabel("loss")
        return _to_svg(figure)


def to_png(figure: Figure) -> bytes:
    """Return the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _to_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _plane(figure: Figure, limit: float = PLANE) -> Axes:
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    axes.tick_params(labelsize=7)
    return axes
