"""Couplings: what is drawn is a function of the example number, however the stream is cut."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from fields import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Generator, Tensor

from reflow.couplings import Drawn, Independent, Mixture, Order, Stored
from reflow.draws import draws
from reflow.flow import Pair

Rows = NDArray[np.int64]


@dataclass
class Numbered:
    """Samples or pairs whose values tell their row."""

    data: Tensor  # (N, *event)
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.data)

    def raw(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        chosen = torch.from_numpy(rows)
        return self.data[chosen], None if self.labels is None else self.labels[chosen]


@dataclass
class NumberedPairs:
    """Pairs whose noise, image and label tell their row."""

    pairs: Pair

    def __len__(self) -> int:
        return len(self.pairs.x0)

    def take(self, rows: Rows) -> Pair:
        chosen = torch.from_numpy(rows)
        x0, x1, label = self.pairs
        return Pair(x0[chosen], x1[chosen], None if label is None else label[chosen])


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def row_numbers(n: int, width: int = 2) -> Tensor:
    return torch.arange(n, dtype=torch.float32)[:, None].expand(n, width).clone()


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


def numbered(n: int, offset: int = 0, *, labelled: bool = False) -> NumberedPairs:
    """Return n pairs whose values are offset, offset + 1, ..."""
    x0 = offset + row_numbers(n)
    return NumberedPairs(Pair(x0, x0 + 0.25, offset + torch.arange(n) if labelled else None))


def mixture(lengths: list[int], shares: list[int], *, labelled: bool = False) -> Mixture:
    """Return a mixture of numbered pairs; those of component i begin at 1000 i."""
    parts = [numbered(n, 1000 * i, labelled=labelled) for i, n in enumerate(lengths)]
    return Mixture([Stored(part, seed=i) for i, part in enumerate(parts)], shares)


def values(pair: Pair) -> list[float]:
    return sorted(pair.x0[:, 0].tolist())


SHARES = st.lists(st.integers(1, 9), min_size=2, max_size=4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shares=SHARES, first=st.integers(0, 300), n=st.integers(1, 100))
def test_a_mixture_keeps_its_proportions_over_any_stretch(shares: list[int], first: int, n: int) -> None:
    mixed = mixture([7] * len(shares), shares)
    component = examples(mixed, first, n, rng()).x0[:, 0].long() // 1000
    counts = torch.bincount(component, minlength=len(shares))
    for count, share in zip(counts.tolist(), shares, strict=True):
        # Both ends of the stretch are off by less than one for each further coupling.
        assert abs(count - n * share / sum(shares)) < 2 * (len(shares) - 1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(shares=SHARES, periods=st.integers(1, 5))
def test_a_mixture_is_exact_over_whole_periods(shares: list[int], periods: int) -> None:
    mixed = mixture([7] * len(shares), shares)
    assert mixed.given(periods * sum(shares)) == [periods * share for share in shares]
    assert mixed.given((10**20 + 1) * sum(shares)) == [(10**20 + 1) * share for share in shares]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shares=SHARES,
    first=st.integers(0, 200),
    parts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
def test_a_mixture_does_not_depend_on_how_it_is_cut(
    shares: list[int], first: int, parts: list[int]
) -> None:
    lengths = [5, 3, 11, 2][: len(shares)]
    whole = values(examples(mixture(lengths, shares), first, sum(parts), rng()))
    pieces, position = [], first
    for part in parts:  # each by a mixture that has drawn nothing before, as after an interruption
        pieces += values(examples(mixture(lengths, shares), position, part, rng(position)))
        position += part
    assert sorted(pieces) == whole


def test_every_pair_of_a_mixture_is_visited_once_in_each_epoch_of_its_own() -> None:
    mixed = mixture([6, 4], [1, 3])
    drawn = examples(mixed, 0, 96, rng()).x0[:, 0]  # 24 and 72 examples: 4 and 18 epochs
    rows, visits = drawn.unique(return_counts=True)
    assert dict(zip(rows.tolist(), visits.tolist(), strict=True)) == {
        **{float(row): 4 for row in range(6)},
        **{1000.0 + row: 18 for row in range(4)},
    }


def test_a_mixture_by_numbers_of_pairs_visits_each_pair_once() -> None:
    lengths = [13, 5, 8]
    mixed = mixture(lengths, lengths)
    for epoch in range(3):
        drawn = examples(mixed, 26 * epoch, 26, rng()).x0[:, 0]
        assert len(drawn.unique()) == 26


def test_no_component_has_a_favourite_place_in_the_batch() -> None:
    """Training stratifies t over the places: a component with places of its own would miss some t."""
    mixed, draws, n = mixture([50, 50], [3, 1]), 2000, 8
    source = rng()
    second = torch.stack([examples(mixed, n * k, n, source).x0[:, 0] >= 1000 for k in range(draws)])
    counts = second.sum(0)
    # Each draw holds two of them among eight places: mean 500, standard deviation sqrt(2000 * 3 / 16) = 19.
    assert float((counts - 500).abs().max()) < 4 * 19


def test_pairs_of_a_mixture_stay_matched() -> None:
    x0, x1, label = examples(mixture([5, 9], [2, 3], labelled=True), 3, 40, rng())
    assert torch.equal(x1, x0 + 0.25)
    assert label is not None
    assert torch.equal(label, x0[:, 0].long())
    assert examples(mixture([5, 9], [2, 3]), 0, 4, rng()).label is None


def test_a_rare_component_may_miss_a_batch() -> None:
    mixed = mixture([5, 5], [1, 99])
    batches = [examples(mixed, 10 * k, 10, rng()).x0[:, 0] < 1000 for k in range(10)]
    assert sum(int(batch.sum()) for batch in batches) == 1


PARTS = {
    "independent": Independent(Numbered(row_numbers(7)), seed=0),
    "mirrored": Independent(Numbered(torch.rand(7, 1, 2, 4, generator=rng())), seed=0, flip=True),
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
