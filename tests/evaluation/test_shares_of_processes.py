"""Processes share an evaluation: every number once, and samples that are those of the whole."""

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from reflow.distributed import World
from reflow.models import load_model
from reflow.sampling.generate import generate
from reflow.sampling.methods import usual_method

CPU = torch.device("cpu")


@given(st.integers(0, 1000), st.integers(1, 40))
def test_shares_are_all_numbers_in_order_and_differ_by_one_at_most(count: int, size: int) -> None:
    shares = [World(rank, size, rank).share(count) for rank in range(size)]
    assert [number for share in shares for number in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_samples_from_a_number_on_are_those_of_the_whole(labelled: Path) -> None:
    model = load_model(labelled)

    def samples(count: int, first: int) -> list[torch.Tensor]:
        how = usual_method(model)
        found = list(
            generate(
                model,
                count,
                method=how,
                seed=3,
                stream="s",
                batch=4,
                device=CPU,
                first=first,
                labels=[7, 1, 4],
            )
        )
        assert [len(batch.nfe) for batch in found] == [4, 4, 1][: len(found)]
        labels = [batch.pair.label for batch in found if batch.pair.label is not None]
        return [
            torch.cat([batch.pair.x0 for batch in found]),
            torch.cat([batch.pair.x1 for batch in found]),
            torch.cat(labels),
            torch.cat([batch.nfe for batch in found]),
        ]

    whole, part = samples(9, 0), samples(4, 5)
    for all_of_it, some in zip(whole, part, strict=True):
        torch.testing.assert_close(some, all_of_it[5:])
