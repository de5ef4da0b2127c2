"""Permutations: true ones for any number of rows, as irregular as drawn ones, in little memory."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reflow.couplings.permutation import Permutation


def drawn(rows: int, key: int) -> Permutation:
    return Permutation(rows, np.random.Generator(np.random.Philox(key)))


def orders(rows: int, keys: int) -> NDArray[np.int64]:
    """Return the whole order (keys, rows) of so many permutations."""
    return np.stack([drawn(rows, key)(np.arange(rows)) for key in range(keys)])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rows=st.integers(1, 5000), key=st.integers(0, 2**63))
def test_every_row_is_reached_once(rows: int, key: int) -> None:
    visited = drawn(rows, key)(np.arange(rows))
    assert np.array_equal(np.sort(visited), np.arange(rows))


def test_every_row_is_reached_once_around_squares() -> None:
    for side in range(1, 40):
        for rows in {max(side * side + step, 1) for step in (-1, 0, 1)}:
            assert set(drawn(rows, 0)(np.arange(rows)).tolist()) == set(range(rows))


def test_a_row_depends_on_its_position_alone() -> None:
    permutation = drawn(100_003, 1)
    whole = permutation(np.arange(100_003))
    for first in (0, 7, 99_000):
        assert np.array_equal(permutation(np.arange(first, first + 256)), whole[first : first + 256])


def test_positions_are_left_as_they_were() -> None:
    positions = np.arange(10)
    drawn(10, 0)(positions)
    assert positions.tolist() == list(range(10))


def test_a_trillion_rows_take_little_memory() -> None:
    rows = 10**12
    permutation = drawn(rows, 0)
    assert permutation.tables.nbytes < 100 * math.sqrt(rows)  # 12 tables of 8 bytes
    visited = permutation(np.arange(rows - 5000, rows))
    assert len(set(visited.tolist())) == 5000
    assert visited.min() >= 0
    assert visited.max() < rows
    # The mean of 5,000 uniforms has a standard deviation of rows / sqrt(12 * 5000).
    assert abs(visited.mean() - rows / 2) < 4 * rows / math.sqrt(12 * 5000)


def test_all_orders_of_four_rows_are_equally_frequent() -> None:
    keys = 6000
    _, counts = np.unique(orders(4, keys), axis=0, return_counts=True)
    assert len(counts) == 24
    chi_squared = ((counts - keys / 24) ** 2 / (keys / 24)).sum()
    assert chi_squared < 23 + 4 * math.sqrt(2 * 23)  # 23 degrees of freedom; 4 rounds give 130


@pytest.mark.parametrize("rows", [50, 1000])
def test_fixed_points_and_neighbours_are_as_rare_as_by_chance(rows: int) -> None:
    keys = 1500
    visited = orders(rows, keys)
    fixed = (visited == np.arange(rows)).sum(1)
    neighbours = (np.abs(np.diff(visited, axis=1)) == 1).sum(1)
    # Both are Poisson up to terms in 1 / rows; the standard error of its variance is sqrt((m + 2 m^2) / n).
    for counts, mean in ((fixed, 1.0), (neighbours, 2 * (1 - 1 / rows))):
        assert abs(counts.mean() - mean) < 4 * math.sqrt(mean / keys)
        assert abs(counts.var() - mean) < 4 * math.sqrt((mean + 2 * mean**2) / keys) + 4 / rows


def test_rows_are_not_correlated_with_positions_or_with_the_row_before() -> None:
    rows, keys = 1000, 500
    standard = (orders(rows, keys) - (rows - 1) / 2) / math.sqrt((rows**2 - 1) / 12)
    places = (np.arange(rows) - (rows - 1) / 2) / math.sqrt((rows**2 - 1) / 12)
    for products in (standard * places, standard[:, 1:] * standard[:, :-1]):
        correlations = products.sum(1) / math.sqrt(rows)  # about N(0, 1); with the row before a mean of
        # -1 / sqrt(rows), as what has been drawn does not come again
        assert abs(correlations.mean()) < 4 / math.sqrt(keys) + 1 / math.sqrt(rows)
        assert abs(correlations.var() - 1) < 4 * math.sqrt(2 / keys)


def test_batches_of_two_epochs_share_as_many_rows_as_by_chance() -> None:
    rows, batch = 20_000, 200
    epochs = orders(rows, 40).reshape(40, rows // batch, batch)
    shared = [
        len(np.intersect1d(before, after))
        for earlier, later in itertools.pairwise(epochs)
        for before, after in zip(earlier, later, strict=True)
    ]
    # Hypergeometric: mean batch^2 / rows = 2, variance that of Poisson less two shares of batch / rows.
    assert abs(np.mean(shared) - 2) < 4 * math.sqrt(2 / len(shared))
    assert abs(np.var(shared) - 2) < 4 * math.sqrt(10 / len(shared)) + 2 * 2 * batch / rows
