"""What a recipe costs, told to people and to machines."""

from collections.abc import Iterable
from typing import Any

from reflow.cost import Cost

UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
DURATIONS = (("hours", 1.0), ("minutes", 1 / 60), ("seconds", 1 / 3600))  # in hours


def cost_text(cost: Cost, rate: float) -> str:
    """Return the estimate in lines, with what it takes for granted; rate: TFLOP/s, sustained."""
    event, classes, assumed = cost.samples
    what = f"{event}" + ("" if classes is None else f" in {classes} classes")
    facts = [
        ("samples", what + (f"; assumed: {', '.join(assumed)}" if assumed else "")),
        ("parameters", f"{cost.network.parameters:,}"),
        ("multiply-adds", f"{_short(cost.network.multiply_adds)} per evaluation, two FLOP each"),
        ("pairs", f"{_short(cost.pair_bytes)}B on disk, {cost.nfe} evaluations each{_if_assumed(cost)}"),
    ]
    rows = [("stage", "examples", "evaluations", "GFLOP", f"at {rate:g} TFLOP/s")]
    rows += [
        (name, f"{examples:,}", *_spent(cost, evaluations, rate))
        for name, examples, evaluations in cost.stages
    ]
    rows.append(("in all", "", *_spent(cost, cost.evaluations, rate)))
    return (
        f"{aligned(facts)}\n\n{aligned(rows)}\n"
        "(an example of a training costs three evaluations, four with recompute, six with a student that "
        "follows\nits teacher; the rate, --rate, is what the hardware sustains: assumed, not measured)"
    )


def cost_entry(cost: Cost, rate: float) -> dict[str, Any]:
    """Return the estimate as JSON's values; rate: TFLOP/s, sustained."""

    def spent(evaluations: int) -> dict[str, float]:
        gflop, hours = cost.gflop(evaluations), cost.hours(evaluations, rate)
        return {"evaluations": evaluations, "gflop": gflop, "hours": hours}

    return {
        "event": list(cost.samples.event),
        "classes": cost.samples.classes,
        "assumed": [*cost.samples.assumed, *(["nfe"] if cost.nfe_assumed else [])],
        "parameters": cost.network.parameters,
        "multiply_adds": cost.network.multiply_adds,
        "nfe": cost.nfe,
        "pair_bytes": cost.pair_bytes,
        "rate_tflops": rate,
        "stages": {
            stage.name: {"examples": stage.examples} | spent(stage.evaluations) for stage in cost.stages
        },
    } | spent(cost.evaluations)


def aligned(rows: Iterable[tuple[object, ...]]) -> str:
    """Return rows of one length with the columns below each other."""
    words = [[str(word) for word in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in words)


def _spent(cost: Cost, evaluations: int, rate: float) -> tuple[str, str, str]:
    hours = cost.hours(evaluations, rate)
    return f"{evaluations:,}", f"{cost.gflop(evaluations):.3g}", _duration(hours)


def _duration(hours: float) -> str:
    """Return a time in the unit that suits it."""
    unit, size = next(((unit, size) for unit, size in DURATIONS if hours >= size), DURATIONS[-1])
    return f"{hours / size:.3g} {unit}"


def _if_assumed(cost: Cost) -> str:
    return " (assumed; with a tolerance the pilot decides)" if cost.nfe_assumed else ""


def _short(count: float) -> str:
    """Return a count with three digits and a unit's prefix."""
    size, prefix = next(((size, prefix) for size, prefix in UNITS if count >= size), (1, ""))
    return f"{count / size:.3g} {prefix}"
