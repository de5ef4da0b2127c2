"""Couplings: what is drawn is a function of the example number, however the stream is cut."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from fields import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import Numbered, NumberedPairs, mixture, numbered, rng, row_numbers

from reflow.couplings import Drawn, Independent, Order, Stored
from reflow.couplings.transport import Transported
from reflow.flow import Pair
from reflow.randomness import draws


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_an_epoch_visits_every_row_once(rows: int) -> None:
    order = Order(rows, seed=0)
    for epoch in range(5):
        visited = order(np.arange(epoch * rows, (epoch + 1) * rows))
        assert sorted(visited.tolist()) == list(range(rows))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    rows = 50
    orders = [
        Order(rows, seed)(np.arange(epoch * rows, (epoch + 1) * rows)).tolist()
        for seed in (0, 1)
        for epoch in range(4)
    ]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert list(range(rows)) not in orders


def test_the_order_of_an_unfinished_training_can_be_derived_again() -> None:
    """A state keeps no position beyond its step: other numbers here would change what resumes."""
    assert Order(6, seed=0)(np.arange(0, 12)).tolist() == [0, 4, 2, 3, 5, 1, 3, 0, 5, 1, 4, 2]


def test_no_row_has_a_favourite_place() -> None:
    rows, epochs = 4, 3000
    first = Order(rows, seed=0)(np.arange(0, rows * epochs)).reshape(epochs, rows)[:, 0]
    counts = np.bincount(first, minlength=rows)
    # Binomial: mean 750, standard deviation sqrt(3000 * 3 / 16) = 24; the seed is fixed.
    assert np.abs(counts - 750).max() < 4 * 24


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 30),
    first=st.integers(0, 200),
    parts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
def test_the_stream_does_not_depend_on_how_it_is_cut(rows: int, first: int, parts: list[int]) -> None:
    whole = Order(rows, seed=9)(np.arange(first, first + sum(parts)))
    order, pieces, position = Order(rows, seed=9), [], first
    for part in parts:
        pieces.append(order(np.arange(position, position + part)))
        position += part
    assert np.concatenate(pieces).tolist() == whole.tolist()


def test_going_back_in_the_stream_finds_the_same_rows() -> None:
    order = Order(10, seed=0)
    early = order(np.arange(3, 23)).tolist()
    order(np.arange(500, 520))
    assert order(np.arange(3, 23)).tolist() == early


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    visited = Order(3, seed=0)(np.arange(0, 10))
    assert np.bincount(visited).min() >= 3


def test_independent_noise_is_fresh_at_every_visit_of_a_row() -> None:
    coupling = Independent(Numbered(row_numbers(4)), seed=0)
    source = rng()
    visits: dict[float, list[tuple[float, ...]]] = {}
    for epoch in range(50):
        x0, x1, _ = examples(coupling, 4 * epoch, 4, source)
        for noise, sample in zip(x0, x1, strict=True):
            visits.setdefault(float(sample[0]), []).append(tuple(noise.tolist()))
    assert sorted(visits) == [0.0, 1.0, 2.0, 3.0]
    drawn = [noise for noises in visits.values() for noise in noises]
    assert len(set(drawn)) == len(drawn) == 200


def test_independent_noise_is_standard_normal_and_unrelated_to_the_data() -> None:
    n = 20_000
    data = torch.randn(n, 2, generator=rng(1))
    x0, x1, _ = examples(Independent(Numbered(data), seed=0), 0, n, rng())
    # Standard errors: 1 / sqrt(2n) of mean and correlation, sqrt(2 / 2n) of the variance.
    assert abs(float(x0.mean())) < 4 / (2 * n) ** 0.5
    assert abs(float(x0.var()) - 1) < 4 / n**0.5
    assert abs(float((x0 * x1).mean())) < 4 / (2 * n) ** 0.5
    assert sorted(x1[:, 0].tolist()) == sorted(data[:, 0].tolist())


def test_independent_draws_are_a_function_of_example_number_and_generator() -> None:
    data = Numbered(row_numbers(7), torch.arange(7))
    coupling = Independent(data, seed=0)
    examples(coupling, 0, 30, rng(8))
    again = Independent(data, seed=0)
    for a, b in zip(examples(coupling, 30, 6, rng(1)), examples(again, 30, 6, rng(1)), strict=True):
        assert a is not None and b is not None
        assert torch.equal(a, b)


def test_labels_stay_with_their_samples() -> None:
    data = Numbered(row_numbers(9), 100 + torch.arange(9))
    _, x1, label = examples(Independent(data, seed=0), 5, 20, rng())
    assert label is not None
    assert torch.equal(label, 100 + x1[:, 0].long())
    assert examples(Independent(Numbered(row_numbers(9)), seed=0), 0, 4, rng()).label is None


def test_half_of_the_images_are_mirrored() -> None:
    n = 4000
    images = torch.arange(6.0).reshape(1, 1, 2, 3).expand(n, 1, 2, 3)
    _, x1, _ = examples(Independent(Numbered(images), seed=0, flip=True), 0, n, rng())
    plain = (x1 == images).flatten(1).all(1)
    mirrored = (x1 == images.flip(-1)).flatten(1).all(1)
    assert bool((plain ^ mirrored).all())  # left-right as a whole, never up-down
    # Binomial: standard deviation sqrt(n) / 2; the seed is fixed.
    assert abs(int(mirrored.sum()) - n / 2) < 4 * n**0.5 / 2


def test_images_are_not_mirrored_unless_asked_for() -> None:
    images = torch.arange(6.0).reshape(1, 1, 2, 3).expand(100, 1, 2, 3)
    _, x1, _ = examples(Independent(Numbered(images), seed=0), 0, 100, rng())
    assert torch.equal(x1, images)


@pytest.mark.parametrize("labelled", [True, False])
def test_stored_pairs_stay_matched(labelled: bool) -> None:
    n = 11
    x0 = row_numbers(n)
    stored = Pair(x0, x0 + 0.25, torch.arange(n) % 3 if labelled else None)
    coupling = Stored(NumberedPairs(stored), seed=0)
    drawn = examples(coupling, 4, 30, rng())
    assert torch.equal(drawn.x1, drawn.x0 + 0.25)
    if labelled:
        assert drawn.label is not None
        assert torch.equal(drawn.label, drawn.x0[:, 0].long() % 3)
    else:
        assert drawn.label is None


def test_stored_pairs_are_visited_once_an_epoch_whatever_the_generator() -> None:
    x0 = row_numbers(8)
    coupling = Stored(NumberedPairs(Pair(x0, x0)), seed=0)
    first = examples(coupling, 8, 8, rng(0)).x0[:, 0]
    assert sorted(first.tolist()) == list(range(8))
    assert torch.equal(examples(coupling, 8, 8, rng(1)).x0[:, 0], first)


MIRRORED = Independent(
    Numbered(torch.rand(7, 1, 2, 4, generator=rng()), torch.arange(7) % 2), seed=0, flip=True
)
PARTS = {
    "independent": Independent(Numbered(row_numbers(7)), seed=0),
    "mirrored": MIRRORED,
    "transported": Transported(MIRRORED, 12),
    "transported in groups": Transported(MIRRORED, 4),
    "transported in unequal groups": Transported(MIRRORED, 5),
    "stored": Stored(numbered(7, labelled=True), seed=0),
    "mixture": mixture([5, 3, 11], [2, 1, 4], labelled=True),
}


@pytest.mark.parametrize("name", PARTS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(step=st.integers(0, 9), cuts=st.sets(st.integers(1, 11), max_size=4))
def test_parts_of_a_batch_are_drawn_as_the_whole(name: str, step: int, cuts: set[int]) -> None:
    """As in processes that share a batch of 12."""
    coupling, limits = PARTS[name], [0, *sorted(cuts), 12]
    whole, *parts = (
        coupling.draw(
            12 * step + rows, draws(torch.device("cpu"), 12, rows, seed=1, stream="test", step=step)
        )
        for rows in (np.arange(12), *(np.arange(*ends) for ends in pairwise(limits)))
    )
    for end in range(3):
        if whole[end] is not None:
            assert torch.equal(torch.cat([part[end] for part in parts]), whole[end])


def test_parts_of_a_store_share_no_pair_and_leave_none_out() -> None:
    store = numbered(50)
    kept, trained_on = Drawn(store, 3, 0, 8), Drawn(store, 3, 8, 50)
    first, second = (part.take(np.arange(len(part))).x0[:, 0].tolist() for part in (kept, trained_on))
    assert (len(first), len(second)) == (8, 42)
    assert sorted(first + second) == list(range(50))
    assert sorted(first) != first  # in a random order
