"""Plots of points, of the report and of the previews, by matplotlib without a display.

Points are (N, 2), trajectories (M, N, 2). The same input gives the same bytes.
"""

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

FAINT, DATA, GENERATED, TRAIL = "#b8b8b8", "#2a6f97", "#d1495b", "#7a7a7a"
PLANE = 1.6  # half the side of the plane that is shown


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


def to_png(figure: Figure) -> bytes:
    """Return the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _plane(figure: Figure, limit: float = PLANE) -> Axes:
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    axes.tick_params(labelsize=7)
    return axes
