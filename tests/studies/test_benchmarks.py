"""Benchmarks: what is read off measured curves, and how turns are taken. The peers need .venv-bench."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from breakdown import REST, breakdown
from ours import Setting, our_loop, our_work, unet
from rounds import paid_back
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STUDIES = Path(__file__).parents[2] / "studies"
CURVES: dict[str, Any] = runpy.run_path(str(STUDIES / "curves.py"))
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


def test_compilation_is_paid_back_when_its_savings_reach_its_cost() -> None:
    assert paid_back(100, 1.0, 0.75) == 400
    assert paid_back(100, 1.0, 0.7) == 334  # 333 steps save 99.9
    assert paid_back(100, 1.0, 1.0) is None


def test_the_breakdown_tells_convolutions_from_norms() -> None:
    x = torch.randn(32, 16, 16, 16)
    layers = {"convolution": nn.Conv2d(16, 16, 3, padding=1), "group norm": nn.GroupNorm(4, 16)}
    for name, layer in layers.items():
        seconds = breakdown(lambda layer=layer: layer(x).sum().backward(), 3)  # type: ignore[misc]
        found = {group: spent for group, spent in seconds.items() if group != REST and spent}
        assert {f"{name}, forward", f"{name}, backward"} <= set(found)
        assert not [group for group in found if group.startswith((*layers.keys() - {name},))]


def test_our_side_of_the_benchmark_is_the_training_step() -> None:
    setting = Setting("tiny", (1, 8, 8), unet(8, 1, 2), batch=4)
    net, other = setting.net(), setting.net()
    our_loop(net, setting.data(), setting.batch)(2)
    moved = [name for name, w in net.named_parameters() if not torch.equal(w, other.get_parameter(name))]
    assert moved
    our_work(setting, 1)()
