"""Noise is a function of (seed, stream, draw number) alone, for ever."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reflow.randomness import draw_seed, generator, noise

CPU = torch.device("cpu")
BIG = 2**63 - 1  # the largest seed of a recipe


def test_the_noise_of_stored_pairs_can_be_drawn_again() -> None:
    """These numbers stand in pairs that exist: a change of them breaks what was made before."""
    first = noise(0, "couple", [0, 1], (4,)).tolist()
    assert first == [
        [0.1950199455022812, 0.4255695939064026, -1.868510127067566, -1.1307642459869385],
        [-0.2512935996055603, 1.2810357809066772, 0.37748438119888306, 1.5266088247299194],
    ]
    assert noise(7, "evaluate", [12_345_678_901], (2,)).tolist() == [
        [0.3146279752254486, -0.7294209599494934]
    ]


def test_the_seeds_of_training_can_be_derived_again() -> None:
    """A state is continued bit for bit only if its generators come back."""
    assert draw_seed(0, "train 1", 0) == 5986618418621277165
    assert torch.rand(2, generator=generator(CPU, 0, "train 1", 3)).tolist() == [
        0.4072500467300415,
        0.02466261386871338,
    ]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=12), st.data())
def test_a_draw_does_not_depend_on_the_batch_around_it(indices: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(indices)))
    order = data.draw(st.permutations(range(len(indices))))
    together = noise(3, "couple", indices, (2, 3))
    parts = [noise(3, "couple", part, (2, 3)) for part in (indices[:cut], indices[cut:])]
    assert torch.equal(torch.cat(parts), together)
    shuffled = noise(3, "couple", [indices[i] for i in order], (2, 3))
    assert torch.equal(shuffled, together[list(order)])


def test_a_range_draws_what_its_numbers_draw() -> None:
    assert torch.equal(noise(0, "couple", range(5, 9), (2,)), noise(0, "couple", [5, 6, 7, 8], (2,)))


def test_no_draws_have_the_shape_of_none() -> None:
    assert noise(0, "couple", [], (3, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("seed", "stream"), [(1, "couple"), (BIG, "couple"), (0, "evaluate"), (0, "couple "), (0, "")]
)
def test_other_seeds_and_streams_draw_unrelated_noise(seed: int, stream: str) -> None:
    n = 20_000
    here = noise(0, "couple", range(n // 100), (100,)).flatten().double()
    there = noise(seed, stream, range(n // 100), (100,)).flatten().double()
    # The correlation of independent draws has standard deviation 1 / sqrt(n); the seed is fixed.
    assert abs(float((here * there).mean())) < 4 / n**0.5


def test_neighbouring_draws_are_unrelated_and_never_overlap() -> None:
    """A draw longer than the distance of two numbers would repeat a neighbour's, were they counters."""
    x = noise(0, "couple", range(50), (3000,)).double()
    assert len(x.flatten().unique()) > 0.98 * x.numel()  # float32 has some values twice
    correlation = (x @ x.T / 3000).fill_diagonal_(0)
    # 1225 correlations of standard deviation 1 / sqrt(3000): the largest is near 3.4 of them.
    assert float(correlation.abs().max()) < 5 / 3000**0.5


def test_noise_is_standard_normal() -> None:
    x = noise(0, "couple", range(500), (1, 10, 10)).flatten().double().numpy()
    n = len(x)
    # Standard errors 1 / sqrt(n), sqrt(2 / n) and sqrt(24 / n); the seed is fixed.
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs(stats.kurtosis(x)) < 4 * (24 / n) ** 0.5
    assert stats.kstest(x, "norm").pvalue > 1e-3


def test_every_place_of_a_sample_is_standard_normal_over_the_draws() -> None:
    x = noise(0, "couple", range(2000), (5,)).double().numpy()
    for place in range(5):
        assert stats.kstest(x[:, place], "norm").pvalue > 1e-3  # the seed is fixed


def test_noise_is_float32() -> None:
    assert noise(0, "couple", [0], (2,)).dtype == torch.float32


def test_generators_are_determined_by_seed_stream_and_position() -> None:
    def draw(seed: int, stream: str, *position: int) -> list[float]:
        return torch.rand(4, generator=generator(CPU, seed, stream, *position)).tolist()

    assert draw(1, "train 1", 5) == draw(1, "train 1", 5)
    others = [
        draw(1, "train 1", 6),
        draw(2, "train 1", 5),
        draw(1, "train 1 dropout", 5),
        draw(1, "train 2", 5),
        draw(1, "train 1", 5, 0),
        draw(1, "train 1"),
    ]
    assert draw(1, "train 1", 5) not in others
    assert len(np.unique(others, axis=0)) == len(others)


def test_seeds_fit_torch_and_are_well_mixed() -> None:
    seeds = [draw_seed(seed, "order", epoch) for seed in (0, 1, BIG) for epoch in range(300)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    ones = np.mean([seed.bit_count() for seed in seeds])
    # 63 fair bits: mean 31.5, standard error sqrt(63 / 4 / 900) = 0.13.
    assert abs(ones - 31.5) < 0.6
