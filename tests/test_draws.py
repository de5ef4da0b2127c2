"""Random numbers of a batch are the same whoever draws them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reflow.randomness import Draws, draws

CPU = torch.device("cpu")
BATCH = 12


def chosen(rows: list[int] | None = None, *, step: int = 3) -> Draws:
    own = None if rows is None else np.array(rows, dtype=np.int64)
    return draws(CPU, BATCH, own, seed=5, stream="test", step=step)


def numbers(source: Draws) -> list[Tensor]:
    """Return draws of every kind, one after another."""
    return [
        source.uniform(),
        source.normal((2, 3)),
        source.places(),
        torch.from_numpy(source.shuffled()),
        source.uniform(),
    ]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rows=st.sets(st.integers(0, BATCH - 1), min_size=1))
def test_every_part_of_a_batch_draws_what_the_whole_batch_draws_there(rows: set[int]) -> None:
    own = sorted(rows)
    for part, whole in zip(numbers(chosen(own)), numbers(chosen()), strict=True):
        assert torch.equal(part, whole[own])


def test_parts_that_are_chosen_later_draw_the_same() -> None:
    inside = np.arange(BATCH) % 3 == 1
    for part, whole in zip(numbers(chosen().at(inside)), numbers(chosen()), strict=True):
        assert torch.equal(part, whole[torch.from_numpy(inside)])


def test_steps_draw_other_numbers() -> None:
    for kind, (one, other) in enumerate(zip(numbers(chosen()), numbers(chosen(step=4)), strict=True)):
        assert torch.equal(one, other) == (kind == 2)  # places are no random numbers


def test_what_is_read_from_disk_is_unrelated_to_noise_and_times() -> None:
    alike = torch.randperm(BATCH, generator=chosen().generator).tolist()
    assert chosen().shuffled().tolist() != alike


def test_the_whole_batch_is_shuffled_into_a_permutation() -> None:
    assert sorted(chosen().shuffled().tolist()) == list(range(BATCH))


@pytest.mark.parametrize("rows", [[3, 4, 5], [0, 5, 9]])
def test_parts_keep_no_more_than_their_rows_in_memory(rows: list[int]) -> None:
    assert chosen(rows).normal((2, 3)).untyped_storage().nbytes() == 4 * 3 * 6


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    numbers(chosen())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("event", [(), (3,), (1, 4, 4)])
def test_normal_numbers_have_the_shape_of_the_event(event: tuple[int, ...]) -> None:
    assert chosen([0, 5]).normal(event).shape == (2, *event)
