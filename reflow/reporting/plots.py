"""Plots of the report and of the previews, by matplotlib without a display."""

import io
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

INK, NOISE, DATA, GENERATED = "#444444", "#9a9a9a", "#2a6f97", "#d1495b"


def scatter(points: Tensor) -> bytes:
    """Return a PNG of points (N, 2) in the plane."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(points[:, 0], points[:, 1], s=2, color=GENERATED, linewidths=0)
    axes.set_aspect("equal")
    axes.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6))
    return to_png(figure)


def to_png(figure: Figure) -> bytes:
    """Return the bytes of a PNG file, the same for the same figure."""
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"Software": None}
    figure.savefig(buffer, format="png", dpi=110, metadata=metadata)
    return buffer.getvalue()
