"""A mixture of couplings gives each its share of the examples, however the stream is cut."""

import torch
from fields import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import mixture, rng, values

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
