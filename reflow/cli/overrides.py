"""What options on the command line say, as changes of the recipe. This module does not import torch."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from reflow.errors import UsageError


def changes_of(
    settings: list[str] | None, seed: int | None, named: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return all changes of the recipe by dotted name; options that were given win over --set."""
    from reflow.recipes.read import parse_overrides

    given = {name: value for name, value in {"seed": seed, **(named or {})}.items() if value is not None}
    return parse_overrides(settings or []) | given


def weights_of(text: str | None, pairs: list[Path]) -> list[Fraction] | None:
    """Return the numbers in --weights, one for each --pairs."""
    if text is None:
        return None
    try:
        weights = [Fraction(part.strip()) for part in text.split(",")]
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--weights {text}: write numbers with commas between, such as 0.8,0.2") from error
    if min(weights) <= 0:
        raise UsageError(f"--weights {text}: every weight is above zero; leave out pairs that give nothing")
    if len(weights) != len(pairs) or len(pairs) < 2:
        raise UsageError(
            f"--weights {text} gives {len(weights)} for {len(pairs)} --pairs; "
            "it takes one number for each of several --pairs"
        )
    return weights


def interval_of(text: str | None) -> list[float] | None:
    """Return the two times in --guidance-interval."""
    if text is None:
        return None
    try:
        first, last = map(float, text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--guidance-interval {text}: write the first and the last t, such as 0.2,0.8"
        ) from error
    return [first, last]


def solver_changes(
    solver: str | None, steps: int | None, tolerance: float | None, grid: str | None
) -> dict[str, Any]:
    """Return the [couple] settings of a solver given on the command line; None is a setting's default."""
    if grid is not None and tolerance is not None:
        raise UsageError("--grid goes with --steps N; with --tolerance the pilot finds the grid")
    if tolerance is not None and not tolerance > 0:
        raise UsageError("--tolerance must be above 0")
    if steps is not None and tolerance is not None:
        raise UsageError("give --steps (a fixed grid) or --tolerance (a pilot finds the steps), not both")
    if steps is None and tolerance is None and solver is None and grid is None:
        return {}
    changes = {"solver": solver, "steps": steps, "tolerance": tolerance, "grid": grid}
    if steps is not None or tolerance is not None:  # the whole method is chosen
        changes["solver"] = solver or ("adams" if steps is None else "heun")
    else:
        changes = {key: value for key, value in changes.items() if value is not None}
    return {f"couple.{key}": value for key, value in changes.items()}


def sweep_changes(
    nfe: str | None, solver: str | None, tolerances: str | None, likelihood: bool
) -> dict[str, Any]:
    """Return the [evaluate] settings of a sweep on the command line."""
    changes = {
        "nfe": _listed("--nfe", nfe, int, "whole numbers above 0", "1,2,4,8"),
        "solver": solver,
        "tolerances": _listed("--tolerance", tolerances, float, "numbers above 0", "1e-2,1e-3"),
        "likelihood": likelihood or None,
    }
    return {f"evaluate.{key}": value for key, value in changes.items() if value is not None}


def _listed(
    option: str, text: str | None, number: Callable[[str], float], what: str, such_as: str
) -> list[float] | None:
    """Return the numbers of an option, all of them above 0 and finite."""
    if text is None:
        return None
    try:
        numbers = [number(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < one < math.inf for one in numbers):
        raise UsageError(f"{option} {text}: write {what} with commas between, such as {such_as}")
    return numbers
