"""Batches made ahead are those that were asked for."""

import threading
import time

import pytest

from reflow.training.prefetch import Prefetch


def test_batches_come_in_any_order_asked_for() -> None:
    batches = Prefetch(lambda number: number * number)
    assert [batches(number) for number in (0, 1, 2, 7, 8, 3)] == [0, 1, 4, 49, 64, 9]


def test_the_next_batch_is_made_while_this_one_is_used() -> None:
    made, first = threading.Event(), Prefetch(lambda number: made.set() if number == 1 else None)
    first(0)
    assert made.wait(timeout=10)


def test_one_batch_at_most_is_made_ahead() -> None:
    numbers: list[int] = []
    batches = Prefetch(numbers.append)
    batches(0)
    time.sleep(0.05)
    assert numbers == [0, 1]


def test_what_goes_wrong_is_raised_with_the_batch_that_is_asked_for() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise OSError("the disk is gone")
        return number

    batches = Prefetch(make)
    assert [batches(0), batches(1)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        batches(2)
