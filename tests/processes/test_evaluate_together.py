"""Processes that share an evaluation draw the samples of one process and find its figures."""

import json
from pathlib import Path

import pytest
import torch
from commands import Command
from torchrun import launched

from reflow.artifacts import read_header

CHANGES = ("evaluate.samples=41", "evaluate.straightness_samples=3", "evaluate.batch=16")  # uneven shares
CPU = torch.device("cpu")


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
