"""What a solver's settings cost and reach, and who is cheaper at equal error.

A curve is a list of points, one per setting of one method. Errors are root mean squares per number of the
image or vector, in data units ([-1, 1] for images). Costs are in network evaluations per sample.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

TARGETS = (1e-2, 3e-3, 1e-3, 1e-4)  # errors at which methods are compared


class Point(NamedTuple):
    """One setting of one method.

    `overhead` is its seconds divided by those of the bare network for as many evaluations, timed just
    before and after: what a busy machine does to both cancels.
    """

    setting: str
    nfe: float
    rms: float
    worst: float
    seconds: float
    overhead: float


Curve = Sequence[Point]
Cost = Callable[[Point], float]


class Reading(NamedTuple):
    """The cost of an error; `at_most` when the coarsest setting measured is already more accurate."""

    cost: float
    at_most: bool = False


def evaluations(point: Point) -> float:
    """Return what a point costs in network evaluations."""
    return point.nfe


def time_spent(point: Point) -> float:
    """Return what a point costs in time, as the number of evaluations that the bare network does in it."""
    return point.nfe * point.overhead


def cost_at(curve: Curve, error: float, cost: Cost) -> Reading | None:
    """Return what the error costs, or None where the curve does not reach it.

    Read between two points of the lower envelope (a setting counts only if none cheaper is as accurate),
    straight in logarithms.
    """
    envelope: list[Point] = []
    for point in sorted(curve, key=cost):
        if math.isfinite(point.rms) and (not envelope or point.rms < envelope[-1].rms):
            envelope.append(point)
    if not envelope or envelope[-1].rms > error:
        return None
    finer = next(place for place, point in enumerate(envelope) if point.rms <= error)
    if finer == 0:
        return Reading(cost(envelope[0]), at_most=envelope[0].rms < error)
    low, high = envelope[finer - 1], envelope[finer]
    share = math.log(low.rms / error) / math.log(low.rms / high.rms)
    return Reading(cost(low) ** (1 - share) * cost(high) ** share)


def curve_table(curves: Mapping[str, Curve]) -> str:
    """Return every point of every method as a Markdown table."""
    lines = ["| method | setting | NFE | RMS error | worst sample | s | overhead |", "|---|" + "---|" * 6]
    for name, curve in curves.items():
        for point in curve:
            errors = f"{point.rms:.1e} | {point.worst:.1e}"
            spent = f"{point.seconds:.2f} | {point.overhead:.2f}"
            lines.append(f"| {name} | {point.setting} | {point.nfe:.1f} | {errors} | {spent} |")
    return "\n".join(lines)


def equal_error_table(curves: Mapping[str, Curve], reference: str, cost: Cost) -> str:
    """Return the cost of each target as a Markdown table, with the reference's share of it in brackets."""
    lines = [
        "| method | " + " | ".join(f"{target:g}" for target in TARGETS) + " |",
        "|---|" + "---|" * len(TARGETS),
    ]
    ours = [cost_at(curves.get(reference, ()), target, cost) for target in TARGETS]
    for name, curve in curves.items():
        cells = [
            _cell(cost_at(curve, target, cost), None if name == reference else mine)
            for target, mine in zip(TARGETS, ours, strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(reading: Reading | None, ours: Reading | None) -> str:
    if reading is None:
        return ""
    text = f"{'≤ ' if reading.at_most else ''}{reading.cost:.0f}"
    if ours is None:
        return text
    sign = {(False, True): "≤ ", (True, False): "≥ ", (True, True): "~ "}
    return f"{text} ({sign.get((reading.at_most, ours.at_most), '')}{ours.cost / reading.cost:.2f})"
