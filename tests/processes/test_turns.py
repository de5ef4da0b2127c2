"""Benchmarks take turns in processes of their own."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from rounds import alternate


def asleep(seconds: float, path: Path, name: str) -> Callable[[], None]:
    """Return work that takes so long and leaves its name."""

    def sleep() -> None:
        time.sleep(seconds)
        with path.open("a") as file:
            file.write(name)

    return sleep


def test_all_take_turns_and_twice_the_time_is_half_the_speed(tmp_path: Path) -> None:
    order = tmp_path / "order"
    lasting = {"a": 0.05, "b": 0.1}
    timings = alternate({name: partial(asleep, lasting[name], order, name) for name in "ab"}, rounds=3)
    assert order.read_text() == "ab" + "ab" + "ba" + "ab"  # the first piece does not count
    assert timings["a"].faster_than(timings["b"]) == pytest.approx(2, rel=0.2)  # a sleep may be late
    assert timings["b"].best == pytest.approx(0.1, rel=0.2)


def test_processor_time_does_not_count_sleep(tmp_path: Path) -> None:
    timing = alternate({"a": partial(asleep, 0.2, tmp_path / "order", "a")}, rounds=1, clock="cpu")["a"]
    assert timing.median < 0.05
    assert timing.first > 0.2
