"""Processes that share an evaluation draw the samples of one process and find its figures."""

import json
from pathlib import Path

import pytest
from commands import Command
from jobs import UNEVEN, ended

from reflow.artifacts import read_header


def test_two_processes_find_what_one_finds_and_the_first_one_says_it(
    reflow: Command, labelled: Path, together: Path, tmp_path: Path
) -> None:
    alone = reflow("evaluate", labelled, "--out", tmp_path / "1.json", *UNEVEN)
    assert alone.code == 0, alone.err
    leader, other = ended(together, "evaluate")
    assert (leader.code, other.code) == (0, 0), leader.err + other.err
    out = together / "evaluation.json"
    assert leader.out + other.out == out.read_text()  # once
    said = leader.err + other.err
    assert said.count("classifier:") == 1
    assert len({line for line in said.splitlines() if " 0 s left" in line}) == 1
    one, two = (json.loads(path.read_text()) for path in (tmp_path / "1.json", out))
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
