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
