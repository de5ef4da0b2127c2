"""Processes that share an evaluation draw the samples of one process and find its figures."""

import json
from pathlib import Path

import pytest
import torch
from commands import Command
from hypothesis import given
from hypothesis import strategies as st
from torchrun import launched

from reflow.artifacts import read_header
from reflow.distributed import World
from reflow.models import load_model
from reflow.sampling.generate import generate
from reflow.sampling.methods import usual_method

CHANGES = ("evaluate.samples=41", "evaluate.straightness_samples=3", "evaluate.batch=16")  # uneven shares
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


def test_two_processes_find_what_one_finds_and_the_first_one_says_it(
    reflow: Command, labelled: Path, tmp_path: Path
) -> None:
    changes = [word for change in CHANGES for word in ("--set", change)]
    alone = reflow("evaluate", labelled, "--out", tmp_path / "1.json", *changes)
    assert alone.code == 0, alone.err
    arguments = ("evaluate", labelled, "--out", tmp_path / "2.json", *changes, "--json")
    answer = launched("--standalone", "-m", "reflow", *arguments)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == (tmp_path / "2.json").read_text()  # once
    assert answer.stderr.count("classifier:") == 1
    assert len({line for line in answer.stderr.splitlines() if " 0 s left" in line}) == 1
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert read_header(labelled / "model.safetensors").facts["classes"] == 10  # labels travel, too
    (first,), (second,) = one.pop("models"), two.pop("models")
    assert len(first["figures"]) == len(second["figures"]) == 3
    assert two == one
    assert second.pop("straightness") == pytest.approx(first.pop("straightness"), rel=1e-5)  # rounding
    for name, value in first.pop("flow").items():
        told = value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-5)
        assert second["flow"][name] == told, name
    del second["flow"]
    for ours, theirs in zip(second.pop("figures"), first.pop("figures"), strict=True):
        # Other sizes of batches round otherwise; a kernel distance is a difference of large sums.
        spread = theirs.pop("kernel_classifier_spread")
        assert ours.pop("kernel_classifier_spread") == pytest.approx(spread, rel=1e-4)
        assert ours.pop("kernel_classifier") == pytest.approx(
            theirs.pop("kernel_classifier"), abs=spread / 1e3
        )
        assert ours.pop("noise") == pytest.approx(theirs.pop("noise"), rel=1e-3)
        for name in ("sliced_wasserstein", "frechet_classifier", "spread"):
            assert ours.pop(name) == pytest.approx(theirs.pop(name), rel=1e-5)
        assert ours == theirs
    near = first.pop("nearest_training")
    assert second.pop("nearest_training") == pytest.approx(near, rel=1e-5)
    assert second == first
