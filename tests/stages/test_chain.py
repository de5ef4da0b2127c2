"""The whole chain through the command line, on every kind of data."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, Command, run_all
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from reflow import integrate, load_model

CLASSES, PER_CLASS = 3, 8
QUICK = ("--set", "evaluate.straightness_samples=2", "--set", "evaluate.straightness_tolerance=0.1")


def coloured_images(size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return RGB images (N, H, W, 3): one colour per class, with noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    images = rng.integers(0, 60, (len(labels), size, size, 3))
    images[np.arange(len(labels)), :, :, labels] += 150
    return images.astype(np.uint8), labels


def as_folder(path: Path) -> Path:
    images, labels = coloured_images(16)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = path / "images" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return path / "images"


def as_zip(path: Path) -> Path:
    images, labels = coloured_images(8)
    names = [f"00000/img{number:08d}.png" for number in range(len(images))]
    with zipfile.ZipFile(path / "images.zip", "w") as archive:
        for name, image in zip(names, images, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            archive.writestr(name, buffer.getvalue())
        pairs = [[name, int(label)] for name, label in zip(names, labels, strict=True)]
        archive.writestr("dataset.json", json.dumps({"labels": pairs}))
    return path / "images.zip"


def as_npz(path: Path) -> Path:
    images, labels = coloured_images(8)
    np.savez(path / "images.npz", images=images[..., 0], labels=labels)
    return path / "images.npz"


@pytest.mark.parametrize(
    ("write", "event", "settings"),
    [
        (as_folder, (3, 16, 16), ["data.labels=true", "data.flip=true", "model.attention=[8]"]),
        (as_zip, (3, 8, 8), []),
        (as_npz, (1, 8, 8), ["data.labels=true"]),
    ],
    ids=["folder-rgb16-labels", "zip-rgb8", "npz-grey8-labels"],
)
def test_chain_runs_on_images_of_the_users_own(
    reflow: Command,
    tmp_path: Path,
    write: Callable[[Path], Path],
    event: tuple[int, ...],
    settings: list[str],
) -> None:
    source, run = write(tmp_path), tmp_path / "run"
    changes = [part for setting in settings for part in ("--set", setting)]
    commands: list[tuple[object, ...]] = [
        ("train", TINY, "--data", source, "--out", run / "base", *changes),
        ("couple", run / "base", "--out", run / "pairs"),
        ("train", "--pairs", run / "pairs", "--init", run / "base", "--out", run / "reflow"),
        ("distill", run / "reflow", "--pairs", run / "pairs", "--out", run / "distill", "--steps", 2),
        (
            *("evaluate", run / "base", run / "distill"),
            *("--data", source, "--out", run / "evaluation.json", *QUICK),
        ),
        ("report", run, "--out", run / "report.html"),
    ]
    for command in commands:
        answer = reflow(*command)
        assert answer.code == 0, (command, answer.err)
    student = load_model(run / "distill")
    labelled = "data.labels=true" in settings
    assert student.event == event
    assert student.classes == (CLASSES if labelled else None)
    assert student.student_steps == 2
    assert student.recipe.data.source == "files"  # no paths in headers
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert [figure["nfe"] for figure in evaluation["models"][0]["figures"]] == [1, 4, 8]
    assert [figure["nfe"] for figure in evaluation["models"][1]["figures"]] == [2]
    page = (run / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")  # namespaces only: self-contained
    assert "distill" in page


def test_chain_runs_on_points(reflow: Command, tmp_path: Path) -> None:
    quick = ["steps=30", "batch=64"]
    changes = [f"{stage}.{item}" for stage in ("train", "reflow", "distill") for item in quick]
    changes += ["couple.count=200", "evaluate.samples=100", "model.width=16", "data.points=500"]
    settings = [part for change in changes for part in ("--set", change)]
    commands: list[tuple[object, ...]] = [
        ("train", "gaussians", "--data", "two-moons", "--out", tmp_path / "base", *settings),
        ("couple", tmp_path / "base", "--out", tmp_path / "pairs", "--tolerance", 0.01),
        (
            *("train", "--pairs", tmp_path / "pairs", "--init", tmp_path / "base"),
            *("--out", tmp_path / "reflow"),
        ),
        ("distill", tmp_path / "reflow", "--pairs", tmp_path / "pairs", "--out", tmp_path / "distill"),
        ("evaluate", tmp_path / "base", tmp_path / "reflow", "--out", tmp_path / "evaluation.json"),
        ("report", tmp_path, "--out", tmp_path / "report.html"),
        ("sample", tmp_path / "distill", "--out", tmp_path / "points.npz", "--count", 5),
    ]
    for command in commands:
        answer = reflow(*command)
        assert answer.code == 0, (command, answer.err)
    assert np.load(tmp_path / "points.npz")["samples"].shape == (5, 2)
    assert "The flow" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("dimension", [1, 5])
def test_vectors_of_any_dimension_train(reflow: Command, tmp_path: Path, dimension: int) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "v.npz", samples=rng.standard_normal((60, dimension)).astype(np.float32))
    quick = ("--set", "train.steps=5", "--set", "model.width=8")
    answer = reflow("train", "gaussians", "--data", tmp_path / "v.npz", "--out", tmp_path / "b", *quick)
    assert answer.code == 0, answer.err
    assert load_model(tmp_path / "b").event == (dimension,)


def test_complete_stages_say_so_and_change_nothing(reflow: Command, run: Path) -> None:
    commands: list[tuple[object, ...]] = [
        ("train", TINY, "--out", run / "base"),
        ("couple", run / "base", "--out", run / "pairs"),
        ("train", "--pairs", run / "pairs", "--init", run / "base", "--out", run / "reflow"),
        ("distill", run / "reflow", "--pairs", run / "pairs", "--out", run / "distill"),
    ]
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.read_bytes() for path in files}
    for command in commands:
        answer = reflow(*command)
        assert answer.code == 0
        assert "nothing to do" in answer.err
    assert {path: path.read_bytes() for path in files} == before


def test_every_sample_format_holds_the_same_images(reflow: Command, chain: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("grid.png", "images.npz", "exact.safetensors", "folder")]
    for out in outs:
        answer = reflow("sample", chain / "distill", "--out", out, "--count", 10, "--seed", 3)
        assert answer.code == 0, answer.err
    images = np.load(outs[1])["images"]
    exact = load_file(outs[2])
    assert images.shape == (10, 8, 8, 1)
    assert images.dtype == np.uint8
    rounded = ((exact["image"].clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
    assert np.array_equal(images[..., 0], rounded[:, 0])
    for number, image in enumerate(images):
        with Image.open(outs[3] / f"{number:05d}.png") as stored:
            assert np.array_equal(np.asarray(stored), image[..., 0])
    with Image.open(outs[0]) as picture:
        assert picture.width > 8 * 4  # four columns, enlarged


def test_sampling_does_not_depend_on_the_batch(reflow: Command, chain: Path, tmp_path: Path) -> None:
    for name, batch in (("a", 64), ("b", 7)):
        out = tmp_path / f"{name}.safetensors"
        reflow("sample", chain / "base", "--out", out, "--count", 20, "--nfe", 4, "--batch", batch)
    a, b = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert torch.equal(a["noise"], b["noise"])
    # The convolutions may sum in another order at another batch size: float32 rounding.
    torch.testing.assert_close(a["image"], b["image"], rtol=0, atol=1e-5)


def test_stored_pairs_are_the_solution_of_the_models_ode(chain: Path) -> None:
    model = load_model(chain / "base")
    first = load_file(chain / "pairs" / "pairs-00000-of-00003.safetensors")
    solved = integrate(model, first["noise"][:16], solver="heun", steps=4).x1
    torch.testing.assert_close(first["image"][:16], solved, rtol=0, atol=1e-5)  # float32 rounding


def test_a_loaded_model_serves_other_solvers(chain: Path) -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    model = load_model(chain / "base")
    x0 = torch.randn(4, *model.event, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.0, 1.0])
    theirs = torchdiffeq.odeint(lambda t, x: model(x, t), x0, times, rtol=1e-6, atol=1e-6)[-1]
    ours = integrate(model, x0, tolerance=1e-3).x1
    assert float((theirs - ours).square().mean().sqrt()) < 2e-3  # the order of what was asked for


def test_inspect_tells_header_and_lineage(reflow: Command, chain: Path) -> None:
    answer = reflow("inspect", chain, "--json")
    assert answer.code == 0
    entries = {entry["stage"]: entry for entry in json.loads(answer.out)["artifacts"]}
    assert entries["reflow"]["parents"]["pairs"] == entries["couple"]["sha256"]
    assert entries["reflow"]["parents"]["init"] == entries["train"]["sha256"]
    assert entries["distill"]["parents"]["model"] == entries["reflow"]["sha256"]
    assert (entries["train"]["rectification"], entries["reflow"]["rectification"]) == (1, 2)
    for path in (chain / "base" / "state.safetensors", chain / "pairs", "digits"):
        assert reflow("inspect", path).code == 0


def test_evaluate_prints_the_table_and_one_object_of_json(
    reflow: Command, chain: Path, tmp_path: Path
) -> None:
    out = tmp_path / "evaluation.json"
    table = reflow("evaluate", chain / "distill", "--out", out)
    assert "real (floor)" in table.out
    answer = reflow("evaluate", chain / "distill", "--out", out, "--json")
    assert json.loads(answer.out) == json.loads(out.read_text())


@pytest.mark.parametrize("objective", ["regress", "consistency", "meanflow"])
def test_every_objective_distills_coloured_images_with_labels(
    reflow: Command, own: Path, tmp_path: Path, objective: str
) -> None:
    out, quick = tmp_path / "student", ("--set", "distill.steps=2", "--set", "distill.batch=8")
    command = ("distill", own / "base", "--pairs", own / "pairs", "--out", out)
    assert reflow(*command, "--set", f"distill.objective={objective}", *quick).code == 0
    student = load_model(out)
    assert (student.event, student.classes) == ((3, 16, 16), CLASSES)
    samples = tmp_path / "samples.safetensors"
    assert reflow("sample", out, "--label", 2, "--count", 3, "--out", samples).code == 0
    drawn = load_file(samples)
    assert drawn["label"].tolist() == [2, 2, 2]
    assert bool(drawn["image"].isfinite().all())


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a base model of coloured images with labels, and its pairs."""
    run = tmp_path_factory.mktemp("own")
    words = (
        "--set",
        "data.labels=true",
        "--set",
        "model.attention=[8]",
        "--set",
        "train.label_dropout=0.1",
    )
    run_all(
        [
            ("train", TINY, "--data", as_folder(run), "--out", run / "base", *words),
            ("couple", run / "base", "--guidance", 1.5, "--count", 16, "--out", run / "pairs"),
        ]
    )
    return run
