"""Sweeps of evaluate: equal when repeated, going on after a kill, by any solver, with times beside them."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command

from reflow.evaluation.reference import Reference
from reflow.evaluation.samplers import Samplers

QUICK = ("--set", "evaluate.straightness_samples=2", "--set", "evaluate.samples=24", "--nfe", "1,2")


def evaluate(reflow: Command, chain: Path, out: Path, *more: object) -> dict[str, Any]:
    answer = reflow("evaluate", chain / "base", chain / "distill", *QUICK, "--out", out, *more)
    assert answer.code == 0, answer.err
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return which samples are drawn, and what else is computed, as it happens."""
    notes: list[str] = []
    samples, flow = Samplers.samples, Samplers.flow

    def noted(samplers: Samplers, model: Any, method: Any, watch: Any) -> Any:
        notes.append(f"{model.header.stage} {method.solver} {method.steps}")
        return samples(samplers, model, method, watch)

    def followed(samplers: Samplers, model: Any, watch: Any) -> Any:
        notes.append(f"{model.header.stage} flow")
        return flow(samplers, model, watch)

    monkeypatch.setattr(Samplers, "samples", noted)
    monkeypatch.setattr(Samplers, "flow", followed)
    return notes


def test_what_a_student_is_not_drawn_in_is_told_where_it_was_asked_for(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    student, few = chain / "distill", QUICK[:-2]
    note = f"note: {student} was distilled to draw in 1 evaluation; other --nfe values are skipped"
    for words, said in ((("--nfe", "1,2"), True), (("--nfe", "1"), False), ((), False)):
        answer = reflow("evaluate", student, *few, *words, "--out", tmp_path / "e.json")
        assert answer.code == 0, answer.err
        assert (note in answer.err) == said


def test_what_does_nothing_to_a_student_is_told_where_it_was_asked_for(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    student, base, quick = chain / "distill", chain / "base", QUICK[:-2]
    note = f"note: {student} is a student and draws in Euler steps only, so "
    for words, names in (
        (
            ("--solver", "heun", "--nfe", "2", "--tolerance", "1e-1"),
            "evaluate.solver and evaluate.tolerances ",
        ),
        (("--solver", "euler", "--nfe", "1"), None),
    ):
        answer = reflow("evaluate", student, base, *quick, *words, "--out", tmp_path / "e.json")
        assert answer.code == 0, answer.err
        told = [line for line in answer.err.splitlines() if "is a student" in line]
        assert len(told) == (names is not None)
        assert all(line.startswith(note + str(names)) for line in told)


ALL = ["train euler 1", "train euler 2", "train heun 4", "train flow", "distill euler 1"]


def test_a_killed_sweep_goes_on_and_ends_with_the_bytes_of_an_undisturbed_one(
    reflow: Command,
    chain: Path,
    tmp_path: Path,
    drawn: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "e.json"
    evaluate(reflow, chain, whole)
    assert drawn == ALL
    for kills, before in ((2, 2), (1, 4)):  # again, after one more; a flow has no figures
        with monkeypatch.context() as patch:
            _killed_after(patch, kills)
            answer = reflow("evaluate", chain / "base", chain / "distill", *QUICK, "--out", out)
        assert answer.code == 143
        assert not out.exists()
        assert len(list((tmp_path / "e.json.unfinished").iterdir())) == before
    cut, altered = sorted((tmp_path / "e.json.unfinished").glob("*.json"))[:2]
    cut.write_bytes(cut.read_bytes()[:20])  # by a disk that lost it
    content = altered.read_text()
    altered.write_text(re.sub(r"\d(?=[^0-9]*$)", lambda digit: str((int(digit[0]) + 1) % 10), content))
    assert altered.read_text() != content
    drawn.clear()
    evaluate(reflow, chain, out)
    assert len(drawn) == 3
    assert drawn[-1] == ALL[-1]
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("e.json", "e.times.json", "whole.json", "whole.times.json")
    ]


def _killed_after(patch: pytest.MonkeyPatch, figures: int) -> None:
    measured = Reference.figures
    left = [figures]

    def dying(stick: Reference, samples: Any, labels: Any) -> Any:
        if not left[0]:
            raise SystemExit(143)
        left[0] -= 1
        return measured(stick, samples, labels)

    patch.setattr(Reference, "figures", dying)


def test_what_was_finished_under_another_protocol_is_not_taken_for_ours(
    reflow: Command, chain: Path, tmp_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "e.json", ("--set", "evaluate.projections=7")
    with monkeypatch.context() as patch:
        _killed_after(patch, 3)
        assert reflow("evaluate", chain / "base", *QUICK, "--out", out, "--set", "seed=3").code == 143
    drawn.clear()
    assert evaluate(reflow, chain, out, *other)["protocol"]["projections"] == 7
    assert drawn == ALL


def test_times_are_told_beside_the_figures_and_nowhere_in_them(
    reflow: Command, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[float] = []
    samples = Samplers.samples

    def watched(*arguments: Any) -> Any:
        begin = time.perf_counter()
        made = samples(*arguments)
        spent.append(time.perf_counter() - begin)
        return made

    monkeypatch.setattr(Samplers, "samples", watched)
    found = evaluate(reflow, chain, tmp_path / "e.json")
    clock = iter(spent)
    assert "seconds" not in json.dumps(found)
    times = json.loads((tmp_path / "e.times.json").read_text())
    assert (times["device"], times["processes"], times["threads"]) == ("cpu", 1, torch.get_num_threads())
    for model, timed in zip(found["models"], times["models"], strict=True):
        assert (model["path"], model["sha256"]) == (timed["path"], timed["sha256"])
        for figure, seconds in zip(model["figures"], timed["figures"], strict=True):
            assert all(figure[key] == seconds[key] for key in ("nfe", "solver", "tolerance"))
            drawing = next(clock)
            # Ours is measured within theirs, which ends at once after it.
            assert drawing < 24 * seconds["seconds_per_image"] < 10 * drawing
            assert seconds["measuring_seconds"] > 0


def test_solver_and_tolerances_are_swept_for_velocity_fields_and_students_keep_their_own(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    more = ("--nfe", "2,4,2", "--solver", "midpoint", "--tolerance", "0.5,0.05")
    base, student = evaluate(reflow, chain, tmp_path / "e.json", *more)["models"]
    told = [(figure["solver"], figure["tolerance"]) for figure in base["figures"]]
    assert told == [
        ("midpoint", None),
        ("midpoint", None),
        ("heun", None),  # of the recipe's [couple]
        ("adams", 0.5),
        ("adams", 0.05),
    ]
    nfe = [figure["nfe"] for figure in base["figures"]]
    assert nfe[:3] == [2, 4, 8]
    assert 0 < nfe[3] < nfe[4]
    assert [(figure["nfe"], figure["solver"]) for figure in student["figures"]] == [(1, "euler")]


def test_progress_counts_evaluations_with_the_time_left(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    answer = reflow("evaluate", chain / "distill", *QUICK, "--out", tmp_path / "e.json")
    last = [line for line in answer.err.splitlines() if line.startswith("evaluate: ")][-1]
    assert last.startswith("evaluate: 24/24 network evaluations")
    assert last.endswith("0 s left")
