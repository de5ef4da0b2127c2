"""Benchmarks: what is read off measured curves. The peers themselves need .venv-bench."""

import runpy
from pathlib import Path
from typing import Any

import pytest

CURVES: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/curves.py"))
Point, cost_at, nfe, table = (
    CURVES[name] for name in ("Point", "cost_at", "evaluations", "equal_error_table")
)


def curve(*points: tuple[float, float]) -> list[Any]:
    """Return a curve of (NFE, error)."""
    return [Point("", cost, error, error, 1.0, 1.0) for cost, error in points]


def test_a_power_law_is_read_exactly() -> None:
    law = curve(*((n, n**-2.0) for n in (8, 32, 128)))
    assert cost_at(law, 1e-2, nfe).cost == pytest.approx(10)
    assert cost_at(law, 1e-3, nfe).cost == pytest.approx(1000**0.5)


def test_an_error_out_of_reach_has_no_cost() -> None:
    assert cost_at(curve((8, 1e-1), (64, 2e-3)), 1e-3, nfe) is None
    assert cost_at(curve((8, float("nan"))), 1e-3, nfe) is None
    assert cost_at([], 1e-3, nfe) is None


def test_an_error_above_the_curve_is_marked_as_a_bound() -> None:
    assert cost_at(curve((16, 1e-3), (64, 1e-5)), 1e-2, nfe) == (16, True)
    assert cost_at(curve((16, 1e-3), (64, 1e-5)), 1e-3, nfe) == (16, False)


def test_a_setting_that_a_cheaper_one_beats_does_not_count() -> None:
    worse_in_between = curve((8, 1e-1), (16, 1e-2), (32, 5e-2), (64, 1e-4))
    assert cost_at(worse_in_between, 1e-3, nfe).cost == pytest.approx(32)


def test_ratios_are_ours_over_theirs() -> None:
    curves = {"ours": curve((10, 1e-1), (40, 1e-5)), "peer": curve((20, 1e-1), (80, 1e-5))}
    ours, peer = table(curves, "ours", nfe).splitlines()[2:]
    assert ours == "| ours | 14 | 17 | 20 | 28 |"
    assert peer == "| peer | 28 (0.50) | 34 (0.50) | 40 (0.50) | 57 (0.50) |"
