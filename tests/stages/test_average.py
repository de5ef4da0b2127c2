"""The command `average`: snapshots on disk, the models rebuilt from them, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import Answer, Command, digests, one_line
from tracked import Tracked, Weights, flat, store, train

from reflow import load_model
from reflow.artifacts import read_artifact, read_header
from reflow.training.averages import WIDTHS

STEPS, EVERY = 160, 10
SMALL = (
    *(
        "train.batch=32",
        "train.schedule='constant'",
        "model.width=8",
        "data.points=300",
        "couple.count=120",
        "reflow.steps=8",
    ),
    *(
        "reflow.batch=32",
        "distill.steps=8",
        "distill.batch=32",
        "evaluate.samples=40",
        "evaluate.nfe=[1,4]",
    ),
)
SETTINGS = [word for change in (f"train.steps={STEPS}", *SMALL) for word in ("--set", change)]


@pytest.fixture(scope="module")
def tracked() -> Tracked:
    return Tracked(EVERY)


@pytest.fixture(scope="module")
def base(tracked: Tracked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on points with a snapshot every tenth step; tests must not change it."""
    out = tmp_path_factory.mktemp("averages") / "base"
    train(tracked, "gaussians", "--out", out, *SETTINGS)
    store(tracked, out)
    return out


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    """A copy of the training run, to be damaged."""
    return Path(shutil.copytree(base, tmp_path / "copy"))


def average(reflow: Command, folder: Path, out: Path, *options: object, width: float = 0.15) -> Answer:
    return reflow("average", folder, "--width", width, "--out", out, *options)


def weights(out: Path) -> Weights:
    return read_artifact(out / "model.safetensors", "model")[1]


def off(found: Weights, wanted: Weights) -> float:
    """Return the relative difference of two sets of weights."""
    assert found.keys() == wanted.keys()
    return float((flat(found) - flat(wanted)).norm() / flat(wanted).norm())


def snapshot(folder: Path, step: int) -> Path:
    return folder / f"averages-{step:08}.safetensors"


@pytest.mark.parametrize("width", [0.03, 0.08, 0.15, 0.2])
def test_the_rebuilt_model_is_the_average_tracked_in_training(
    reflow: Command, base: Path, tracked: Tracked, tmp_path: Path, width: float
) -> None:
    answer = average(reflow, base, tmp_path / "x", width=width)
    assert answer.code == 0, answer.err
    assert f"width {width:g} at step 160, snapshots: 16; its profile is off by " in answer.err
    assert "warning" not in answer.err
    truth = tracked.kept[STEPS]
    # 16 snapshots of a training run: test_averages has the table.
    error = off(weights(tmp_path / "x"), truth[width])
    assert error < 1e-3
    others = [off(weights(tmp_path / "x"), truth[other]) for other in truth if other != width]
    assert min(others) > 10 * error, (error, others)


def test_the_rebuilt_model_says_what_it_is(reflow: Command, base: Path, tmp_path: Path) -> None:
    assert average(reflow, base, tmp_path / "x").code == 0
    found = read_header(tmp_path / "x" / "model.safetensors", "model")
    original = read_header(base / "model.safetensors", "model")
    fact = {"average": {"width": 0.15, "step": STEPS, "snapshots": 16}}
    assert found == replace(original, facts=original.facts | fact)
    shown = reflow("inspect", tmp_path / "x").out
    assert "average           width 0.15 at step 160, snapshots: 16" in shown
    assert [path.name for path in (tmp_path / "x").iterdir() if path.name != ".lock"] == [
        "model.safetensors"
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_width_that_was_stored_is_that_snapshot_bit_for_bit(
    reflow: Command, base: Path, tracked: Tracked, tmp_path: Path, width: float
) -> None:
    for step in (STEPS, 40):
        out = tmp_path / f"{step}"
        answer = average(reflow, base, out, "--step", step, width=width)
        assert f"at step {step}, snapshots: 1; its profile is off by 0 %" in answer.err
        found = weights(out)
        assert all(torch.equal(found[name], value) for name, value in tracked.kept[step][width].items())


def test_an_earlier_step_can_be_asked_for(
    reflow: Command, base: Path, tracked: Tracked, tmp_path: Path
) -> None:
    assert average(reflow, base, tmp_path / "x", "--step", 100, width=0.08).code == 0
    assert off(weights(tmp_path / "x"), tracked.kept[100][0.08]) < 1e-3
    assert off(weights(tmp_path / "x"), tracked.kept[STEPS][0.08]) > 0.01
    line = one_line(average(reflow, base, tmp_path / "y", "--step", 161))
    assert f"--step 161: the last snapshot in {base} is of step 160" in line
    assert average(reflow, base, tmp_path / "y", "--step", 0).code == 2


def test_fewer_snapshots_are_used_as_they_are(
    reflow: Command, copy: Path, tracked: Tracked, tmp_path: Path
) -> None:
    for step in range(EVERY, STEPS, EVERY):
        if step % 40:
            snapshot(copy, step).unlink()
    answer = average(reflow, copy, tmp_path / "x")
    assert "snapshots: 4" in answer.err
    error = off(weights(tmp_path / "x"), tracked.kept[STEPS][0.15])
    assert 1e-4 < error < 1e-2


def test_the_same_command_again_does_nothing_and_another_is_refused(
    reflow: Command, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    assert average(reflow, base, out).code == 0
    before = digests(out)
    assert f"{out} is complete; nothing to do" in average(reflow, base, out).err
    line = one_line(average(reflow, base, out, width=0.08))
    assert "average.width is 0.15 there and 0.08 now" in line
    assert "--fresh" in line
    line = one_line(average(reflow, base, out, "--step", 80))
    assert "average.step is 160 there and 80 now" in line
    assert digests(out) == before
    assert average(reflow, base, out, "--fresh", width=0.08).code == 0
    assert digests(out) != before
    assert average(reflow, base, out, "--fresh").code == 0
    assert digests(out) == before


def test_an_average_and_a_training_do_not_take_each_other_for_their_own(
    reflow: Command, copy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    assert average(reflow, copy, out).code == 0
    line = one_line(reflow("train", "gaussians", "--out", out, *SETTINGS))
    assert "average.width is 0.15 there and None now" in line
    before = digests(copy)
    fit, early = (Path(shutil.copytree(copy, tmp_path / name)) for name in ("fit", "early"))
    for path in (*fit.glob("averages-*"), early / "state.safetensors"):
        path.unlink()
    for taken in (copy, fit, early):
        for fresh in ((), ("--fresh",)):  # weeks of training are not for an average to discard
            line = one_line(average(reflow, copy, taken, *fresh))
            assert f"--out {taken} holds a training run; give another --out" in line
    assert digests(copy) == before
    assert (fit / "state.safetensors").exists()
    assert snapshot(early, STEPS).exists()


@pytest.mark.parametrize(("width", "support"), [(0.03, "0.05 to 0.12"), (0.2, "0.05 to 0.12")])
def test_a_width_outside_what_the_snapshots_support_is_made_with_a_warning(
    reflow: Command, copy: Path, tmp_path: Path, width: float, support: str
) -> None:
    for step in range(EVERY, STEPS, EVERY):
        if step % 40:
            snapshot(copy, step).unlink()
    answer = average(reflow, copy, tmp_path / "x", width=width)
    assert answer.code == 0
    assert f"warning: --width {width:g} at step 160: its profile is off by" in answer.err
    assert f"these snapshots support widths of {support}" in answer.err


def test_what_the_snapshots_cannot_give_is_refused(reflow: Command, copy: Path, tmp_path: Path) -> None:
    line = one_line(average(reflow, copy, tmp_path / "x", width=0.005))
    assert "--width 0.005" in line
    assert "these snapshots support widths of 0.03 to 0.2" in line
    for step in range(60, STEPS, EVERY):
        snapshot(copy, step).unlink()
    line = one_line(average(reflow, copy, tmp_path / "x", "--step", 100))
    assert "no width is supported there, --step 50 is the nearest with a snapshot" in line
    assert "choose a number between" in one_line(average(reflow, copy, tmp_path / "x", width=0.3))
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_read_is_refused_and_nothing_written(
    reflow: Command, copy: Path, tmp_path: Path
) -> None:
    assert f"{tmp_path} holds no snapshots" in one_line(average(reflow, tmp_path, tmp_path / "x"))
    path = snapshot(copy, 80)
    path.write_bytes(path.read_bytes()[:-4])
    assert f"{path} is damaged" in one_line(average(reflow, copy, tmp_path / "x"))
    assert not (tmp_path / "x" / "model.safetensors").exists()


def test_an_unfinished_training_has_averages_too(reflow: Command, copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    answer = average(reflow, copy, tmp_path / "x")
    assert answer.code == 0, answer.err
    assert load_model(tmp_path / "x").event == (2,)


def test_training_anew_discards_old_snapshots_and_what_a_kill_left(reflow: Command, copy: Path) -> None:
    (copy / ".averages-00000010.safetensors.0123456789abcdef.part").touch()
    quick = ("--set", "train.steps=2", "--set", "train.snapshots=0", "--set", "data.points=100", "--fresh")
    assert reflow("train", "gaussians", "--out", copy, *quick).code == 0
    assert not [path for path in copy.iterdir() if "averages" in path.name]


def test_training_leaves_as_many_snapshots_as_asked_for_and_the_last_at_its_end(
    reflow: Command, tmp_path: Path
) -> None:
    quick = ("--set", "data.points=100", "--set", "train.batch=8", "--set", "train.steps=50")
    assert reflow("train", "gaussians", "--out", tmp_path, *quick, "--set", "train.snapshots=3").code == 0
    steps = [int(path.stem.rpartition("-")[2]) for path in sorted(tmp_path.glob("averages-*"))]
    assert steps == [17, 34, 50]
    answer = average(reflow, tmp_path, tmp_path / "x", width=0.1)
    assert answer.code == 0, answer.err
    _, kept = read_artifact(tmp_path / "averages-00000050.safetensors", "averages")
    _, rebuilt = read_artifact(tmp_path / "x" / "model.safetensors", "model")
    assert rebuilt
    assert all(torch.equal(kept[f"0.1.{name}"], weight) for name, weight in rebuilt.items())


def test_inspect_shows_a_snapshot(reflow: Command, base: Path) -> None:
    shown = reflow("inspect", snapshot(base, 40)).out
    assert "averages of stage train, 1-rectified flow, complete and sound" in shown
    assert "widths            [0.05, 0.1]" in shown


def test_an_average_is_a_model_like_any_other(reflow: Command, base: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(base.parent, tmp_path / "run"))
    mine = run / "average"
    commands: list[tuple[object, ...]] = [
        ("average", run / "base", "--width", 0.08, "--out", mine),
        ("couple", mine, "--out", run / "pairs", "--tolerance", 0.05),
        ("train", "--pairs", run / "pairs", "--init", mine, "--out", run / "reflow"),
        ("distill", run / "reflow", "--pairs", run / "pairs", "--out", run / "distill"),
        ("evaluate", run / "base", mine, run / "distill", "--out", run / "evaluation.json"),
        ("report", run, "--out", run / "report.html"),
        ("sample", mine, "--count", 3, "--out", run / "points.npz"),
    ]
    for command in commands:
        answer = reflow(*command)
        assert answer.code == 0, (command, answer.err)
    own = load_model(mine).digest
    assert read_header(run / "reflow" / "model.safetensors").parents["init"] == own
    listed = json.loads(reflow("inspect", run, "--json").out)["artifacts"]
    names = [Path(entry["path"]).parent.name for entry in listed if entry["kind"] == "model"]
    assert names == ["base", "average", "reflow", "distill"]  # the base model before its averages
    page = (run / "report.html").read_text()
    assert "base model, another average" in page
    assert "average of width 0.08 at step 160, snapshots: 16" in page
    assert "init: average" in page
