"""Bad input: one line that says what, where and what to do; exit code 1 or 2; nothing damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, Command, one_line


def test_missing_model(reflow: Command, tmp_path: Path) -> None:
    line = one_line(reflow("couple", tmp_path / "nothing", "--out", tmp_path / "pairs"))
    assert "nothing does not exist" in line
    assert not (tmp_path / "pairs").exists()


def test_folders_of_the_other_kind_are_named(reflow: Command, run: Path) -> None:
    base, pairs, out = run / "base", run / "pairs", run / "x"
    line = one_line(reflow("sample", pairs, "--out", out))
    assert f"{pairs} holds pairs, not a model" in line
    line = one_line(reflow("distill", base, "--pairs", base, "--out", out))
    assert f"{base} holds a model, not pairs; make them: reflow couple {base}" in line


def test_pairs_of_another_model(reflow: Command, run: Path) -> None:
    other = run / "other"
    assert reflow("train", TINY, "--out", other, "--seed", 1).code == 0
    answer = reflow("train", "--pairs", run / "pairs", "--init", other, "--out", run / "x")
    line = one_line(answer)
    assert "made by another model" in line
    answer = reflow("distill", other, "--pairs", run / "pairs", "--out", run / "x")
    assert "made by another model" in one_line(answer)
    assert not (run / "x").exists()


def test_pairs_of_another_shape(reflow: Command, run: Path) -> None:
    points = run / "points"
    quick = ("--set", "train.steps=2", "--set", "data.points=100")
    assert reflow("train", "gaussians", "--out", points, *quick).code == 0
    answer = reflow("train", "--pairs", run / "pairs", "--init", points, "--out", run / "x")
    assert "(1, 8, 8)" in one_line(answer)


def test_distilled_models_do_not_make_pairs(reflow: Command, run: Path) -> None:
    line = one_line(reflow("couple", run / "distill", "--out", run / "x"))
    assert "is a distilled generator" in line


def test_students_draw_in_their_own_steps_only(reflow: Command, run: Path) -> None:
    line = one_line(reflow("sample", run / "distill", "--nfe", 4, "--out", run / "x.png"))
    assert "--nfe 1" in line
    one_line(reflow("sample", run / "distill", "--tolerance", 0.1, "--out", run / "x.png"))


@pytest.mark.parametrize(
    ("setting", "message", "code"),
    [
        ("train.stepz=3", "unknown key train.stepz; the nearest known key is train.steps", 2),
        ("channels=3", "unknown key channels; write model.channels", 2),
        ("trian.steps=3", "unknown key trian; the nearest known key is train", 2),
        ("train.steps=0", "train.steps = 0", 2),
        ("train.lr=-1.0", "train.lr = -1.0", 2),
        ("train.lr=fast", 'train.lr = "fast"', 2),
        ("model.kind=mlp", "model", 1),
        ("model.multipliers=[1,1,1,1,1]", "cannot be halved", 1),
        ("data.held_out=0.00001", "data.held_out", 1),
        ("data.source=nowhere", "there is no such path", 1),
        ("steps", "section.key=value", 2),
        ("couple.solver=heun", "takes steps", 2),
    ],
)
def test_impossible_settings(
    reflow: Command, tmp_path: Path, setting: str, message: str, code: int
) -> None:
    """What no recipe can have is wrong usage; what the data or the network cannot have is a failure."""
    changes = ["--set", setting]
    if setting.startswith("couple."):
        changes += ["--set", "couple.steps=none"]
    line = one_line(reflow("train", TINY, "--out", tmp_path / "base", *changes), code)
    assert message in line
    assert not (tmp_path / "base" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--out", "x"), "give a RECIPE"),
        (("train", "digits", "--out", "x", "--pairs", "p"), "both --pairs and --init"),
        (("train", "digits", "--out", "x", "--pairs", "p", "--init", "m"), "leave out RECIPE"),
        (("couple", "m", "--out", "x", "--steps", 3, "--tolerance", 0.1), "not both"),
        (("sample", "m", "--out", "x.jpeg"), "use .png"),
    ],
)
def test_wrong_usage_exits_with_two(
    reflow: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in one_line(reflow(*arguments), code=2)
    assert reflow("train", "digits").code == 2  # --out is missing
    assert reflow("tarin").code == 2


def test_unknown_recipes_and_devices(reflow: Command, tmp_path: Path) -> None:
    assert "cifar10, digits, fashion-mnist, gaussians, images64" in one_line(
        reflow("train", "digitz", "--out", tmp_path / "x"), code=2
    )
    line = one_line(reflow("train", TINY, "--out", tmp_path / "x", "--device", "cuda:77"))
    assert "--device cuda:77" in line
    one_line(reflow("train", TINY, "--out", tmp_path / "x", "--device", "gpu"), code=2)
    line = one_line(reflow("train", tmp_path / "no.toml", "--out", tmp_path / "x"))
    assert "cannot be read" in line
    (tmp_path / "bad.toml").write_text("[train\n")
    line = one_line(reflow("train", tmp_path / "bad.toml", "--out", tmp_path / "x"))
    assert "is not TOML" in line


def test_nan_in_the_data(reflow: Command, tmp_path: Path) -> None:
    points = np.zeros((50, 2), np.float32)
    points[17, 1] = np.nan
    np.savez(tmp_path / "points.npz", samples=points)
    line = one_line(
        reflow("train", "gaussians", "--data", tmp_path / "points.npz", "--out", tmp_path / "base")
    )
    assert "sample 17" in line
    assert "points.npz" in line


def test_a_diverging_loss_stops_with_the_last_good_state(reflow: Command, tmp_path: Path) -> None:
    base = tmp_path / "base"
    settings = ("--set", "train.lr=1e30", "--set", "train.warmup=20", "--set", "train.log_every=1")
    line = one_line(reflow("train", TINY, "--out", base, *settings))
    assert "not finite in 5 steps in a row" in line
    assert "Lower the learning rate" in line
    assert not (base / "model.safetensors").exists()


def test_the_wrong_data_for_a_model(reflow: Command, run: Path) -> None:
    line = one_line(reflow("evaluate", run / "base", "--data", "two-moons", "--out", run / "e.json"))
    assert "is not the data that the model was trained on" in line
    assert not (run / "e.json").exists()


def test_models_of_another_split_are_not_compared(reflow: Command, run: Path) -> None:
    assert reflow("train", TINY, "--out", run / "other", "--set", "data.held_out=0.5").code == 0
    line = one_line(reflow("evaluate", run / "base", run / "other", "--out", run / "e.json"))
    assert "other data, split or classes" in line


def test_the_seed_of_an_evaluation_leaves_the_held_out_data_alone(reflow: Command, run: Path) -> None:
    found = []
    for seed in (0, 1):
        out = run / f"{seed}.json"
        assert reflow("evaluate", run / "distill", "--out", out, "--seed", seed).code == 0
        found.append(json.loads(out.read_text()))
    assert found[0]["data"] == found[1]["data"]
    assert found[0]["models"][0]["figures"] != found[1]["models"][0]["figures"]


def test_settings_that_would_do_nothing_are_refused(reflow: Command, run: Path) -> None:
    arguments = ("distill", run / "reflow", "--pairs", run / "pairs", "--out", run / "x")
    line = one_line(reflow(*arguments, "--set", "model.sigma_data=3.0"))
    assert "[model] stays as it is" in line
    line = one_line(reflow("train", TINY, "--out", run / "base", "--set", "distill.steps=7"))
    assert "distill.steps is 20" in line


def test_a_report_without_a_run(reflow: Command, run: Path, tmp_path: Path) -> None:
    assert "is not a run directory" in one_line(reflow("report", tmp_path / "x", "--out", "r.html"))
    assert "holds no complete model" in one_line(reflow("report", tmp_path, "--out", "r.html"))
    assert "the directory that it lies in" in one_line(reflow("report", run / "base", "--out", "r.html"))


def test_labels_are_refused_by_models_without_classes(reflow: Command, run: Path) -> None:
    line = one_line(reflow("sample", run / "base", "--label", 3, "--out", run / "x.png"))
    assert "without labels" in line


def test_debug_shows_the_traceback(reflow: Command, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        reflow("--debug", "sample", tmp_path / "nothing", "--out", tmp_path / "x.png")
