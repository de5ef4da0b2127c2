"""Bad input: one line that says what, where and what to do; exit code 1 or 2; nothing damaged."""

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Answer, Command, digests, one_line

from reflow.workspace import claim


@pytest.fixture
def run(chain: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run, to be damaged."""
    return Path(shutil.copytree(chain, tmp_path / "run"))


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


@pytest.mark.parametrize("content", [b"", b"\x00" * 4, b"PK\x03\x04 some zip or other", b'{"a": 1}'])
def test_empty_and_foreign_files_are_not_models(reflow: Command, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    line = one_line(reflow("sample", path, "--out", tmp_path / "x.png"))
    assert "is not a reflow artifact" in line
    assert str(path) in line


def test_truncated_model(reflow: Command, run: Path) -> None:
    path = run / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "is damaged" in one_line(reflow("sample", path, "--out", run / "x.png"))


def test_altered_model(reflow: Command, run: Path) -> None:
    path = run / "base" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "do not match its digest" in one_line(reflow("sample", path, "--out", run / "x.png"))


def test_a_model_of_another_format_asks_for_another_version(reflow: Command, run: Path) -> None:
    path = run / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'\\"format\\":1', b'\\"format\\":9'))
    assert "artifact format 9" in one_line(reflow("sample", path, "--out", run / "x.png"))


def test_a_state_is_not_a_model(reflow: Command, run: Path) -> None:
    line = one_line(reflow("sample", run / "base" / "state.safetensors", "--out", run / "x.png"))
    assert "holds a state, not a model" in line
    (run / "base" / "model.safetensors").unlink()
    line = one_line(reflow("sample", run / "base", "--out", run / "x.png"))
    assert "unfinished model" in line


def again(reflow: Command, run: Path, out: str = "again") -> Answer:
    return reflow("train", "--pairs", run / "pairs", "--init", run / "base", "--out", run / out)


def test_missing_shard(reflow: Command, run: Path) -> None:
    (run / "pairs" / "pairs-00001-of-00003.safetensors").unlink()
    line = one_line(again(reflow, run))
    assert "pairs-00001-of-00003.safetensors is missing" in line


def test_altered_shard(reflow: Command, run: Path) -> None:
    shard = run / "pairs" / "pairs-00001-of-00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    line = one_line(again(reflow, run))
    assert str(shard) in line
    assert "do not match the index" in line


def test_unfinished_pairs(reflow: Command, run: Path) -> None:
    (run / "pairs" / "pairs.json").unlink()
    assert "unfinished" in one_line(again(reflow, run))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": 3}', "not json"])
def test_a_foreign_index_is_refused(reflow: Command, run: Path, content: str) -> None:
    (run / "pairs" / "pairs.json").write_text(content)
    assert "pairs.json" in one_line(again(reflow, run))


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


def test_two_commands_do_not_write_one_directory(reflow: Command, tmp_path: Path) -> None:
    with claim(tmp_path / "base", "model", fresh=False):
        line = one_line(reflow("train", TINY, "--out", tmp_path / "base"))
    assert "being written by another reflow" in line


@pytest.mark.parametrize("command", ["train", "couple", "distill"])
def test_other_settings_are_refused_by_name_and_leave_everything(
    reflow: Command, run: Path, command: str
) -> None:
    before = digests(run)
    arguments: dict[str, tuple[object, ...]] = {
        "train": ("train", TINY, "--out", run / "base", "--set", "train.lr=0.5"),
        "couple": ("couple", run / "base", "--out", run / "pairs", "--count", 60),
        "distill": (
            *("distill", run / "reflow", "--pairs", run / "pairs", "--out", run / "distill"),
            *("--set", "distill.batch=8"),
        ),
    }
    line = one_line(reflow(*arguments[command]))
    name = {"train": "train.lr is 0.002", "couple": "couple.count is 50", "distill": "distill.batch is 16"}
    assert name[command] in line
    assert "--fresh" in line
    assert digests(run) == before
    assert reflow(*arguments[command], "--fresh").code == 0
    assert digests(run) != before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.stepz=3", "unknown key train.stepz; the nearest known key is train.steps"),
        ("channels=3", "unknown key channels; write model.channels"),
        ("trian.steps=3", "unknown key trian; the nearest known key is train"),
        ("train.steps=0", "train.steps = 0"),
        ("train.lr=-1.0", "train.lr = -1.0"),
        ("train.lr=fast", 'train.lr = "fast"'),
        ("model.kind=mlp", "model"),
        ("model.multipliers=[1,1,1,1,1]", "cannot be halved"),
        ("data.held_out=0.00001", "data.held_out"),
        ("data.source=nowhere", "there is no such path"),
        ("steps", "section.key=value"),
        ("couple.solver=heun", "takes steps"),
    ],
)
def test_impossible_settings(reflow: Command, tmp_path: Path, setting: str, message: str) -> None:
    changes = ["--set", setting]
    if setting.startswith("couple."):
        changes += ["--set", "couple.steps=none"]
    line = one_line(reflow("train", TINY, "--out", tmp_path / "base", *changes))
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
        reflow("train", "digitz", "--out", tmp_path / "x")
    )
    line = one_line(reflow("train", TINY, "--out", tmp_path / "x", "--device", "cuda:77"))
    assert "--device cuda:77" in line
    one_line(reflow("train", TINY, "--out", tmp_path / "x", "--device", "gpu"), code=2)
    line = one_line(reflow("train", tmp_path / "no.toml", "--out", tmp_path / "x"))
    assert "cannot be read" in line
    (tmp_path / "bad.toml").write_text("[train\n")
    line = one_line(reflow("train", tmp_path / "bad.toml", "--out", tmp_path / "x"))
    assert "is not TOML" in line


def test_a_directory_that_cannot_be_made(reflow: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = one_line(reflow("train", TINY, "--out", tmp_path / "file" / "base"))
    assert "cannot be written" in line


def test_a_full_disk_leaves_nothing_half_written(reflow: Command, run: Path) -> None:
    before = digests(run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # no file may grow past 2,000 bytes
    try:
        answer = reflow("couple", run / "base", "--out", run / "more")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in one_line(answer)
    assert {path.name for path in (run / "more").iterdir()} == {".lock", ".plan.lock", "plan.json"}
    assert {path: digest for path, digest in digests(run).items() if "/more/" not in path} == before
    assert reflow("couple", run / "base", "--out", run / "more").code == 0


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


def test_outputs_never_fall_on_inputs_or_other_artifacts(reflow: Command, run: Path) -> None:
    before = digests(run)
    pairs, base = run / "pairs", run / "base"
    for arguments in (
        ("couple", base, "--out", base, "--fresh"),
        ("couple", run / "reflow", "--out", base),
        ("train", "--pairs", pairs, "--init", base, "--out", pairs, "--fresh"),
        ("train", "--pairs", pairs, "--init", base, "--out", base, "--fresh"),
        ("train", TINY, "--out", pairs, "--fresh"),
        ("sample", base, "--out", base / "model.safetensors"),
        ("sample", base, "--out", base),
    ):
        one_line(reflow(*arguments))
    assert digests(run) == before


def test_files_of_others_survive(reflow: Command, tmp_path: Path) -> None:
    quick = ("train", TINY, "--out", tmp_path, "--set", "train.steps=1")
    assert reflow(*quick).code == 0
    (tmp_path / "movie.part").write_text("not ours")
    (tmp_path / "folder.part").mkdir()
    assert reflow(*quick, "--fresh").code == 0
    assert (tmp_path / "movie.part").read_text() == "not ours"


def test_shards_of_another_count_are_refused(reflow: Command, run: Path) -> None:
    (run / "pairs" / "pairs.json").unlink()
    line = one_line(reflow("couple", run / "base", "--out", run / "pairs", "--count", 100))
    assert "another --count" in line


def test_settings_that_would_do_nothing_are_refused(reflow: Command, run: Path) -> None:
    arguments = ("distill", run / "reflow", "--pairs", run / "pairs", "--out", run / "x")
    line = one_line(reflow(*arguments, "--set", "model.sigma_data=3.0"))
    assert "[model] stays as it is" in line
    line = one_line(reflow("train", TINY, "--out", run / "base", "--set", "distill.steps=7"))
    assert "distill.steps is 20" in line


@pytest.mark.parametrize("facts", ['{"classes": null}', '{"event": null, "classes": null}', "[]"])
def test_an_incomplete_index_is_damaged(reflow: Command, run: Path, facts: str) -> None:
    path = run / "pairs" / "pairs.json"
    content = json.loads(path.read_text()) | {"facts": json.loads(facts)}
    path.write_text(json.dumps(content))
    assert "is damaged" in one_line(again(reflow, run))


def test_a_foreign_evaluation_is_not_reported(reflow: Command, run: Path) -> None:
    for text in ("{}", "[]", "x"):
        (run / "evaluation.json").write_text(text)
        assert "evaluation.json" in one_line(reflow("report", run, "--out", run / "r.html"))


def test_a_report_without_a_run(reflow: Command, tmp_path: Path) -> None:
    assert "is not a run directory" in one_line(reflow("report", tmp_path / "x", "--out", "r.html"))
    assert "holds no complete model" in one_line(reflow("report", tmp_path, "--out", "r.html"))


def test_labels_are_refused_by_models_without_classes(reflow: Command, run: Path) -> None:
    line = one_line(reflow("sample", run / "base", "--label", 3, "--out", run / "x.png"))
    assert "without labels" in line


def test_debug_shows_the_traceback(reflow: Command, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        reflow("--debug", "sample", tmp_path / "nothing", "--out", tmp_path / "x.png")


def test_an_evaluation_of_other_models_is_not_reported_as_ours(reflow: Command, run: Path) -> None:
    assert reflow("evaluate", run / "distill", "--out", run / "evaluation.json").code == 0
    content = json.loads((run / "evaluation.json").read_text())
    content["models"][0]["sha256"] = "0" * 64
    (run / "evaluation.json").write_text(json.dumps(content))
    assert reflow("report", run, "--out", run / "report.html").code == 0
    assert "There is no evaluation of these models yet" in (run / "report.html").read_text()
