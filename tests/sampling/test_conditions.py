"""Labels by name or number, methods, and guidance in an interval of t, as sample and couple take them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, Answer, Command, one_line
from networks import model_of
from safetensors.torch import load_file
from torch import nn

from reflow import integrate, load_model
from reflow.artifacts import read_header
from reflow.artifacts.facts import ModelFacts
from reflow.errors import ReflowError
from reflow.guidance import guided
from reflow.models import Model
from reflow.pairs.store import open_pairs
from reflow.recipes.recipe import GuidanceSettings
from reflow.sampling.generate import labels_called
from reflow.sampling.methods import tolerant_method


def model_with(classes: int | None, *names: str) -> Model:
    """Return a model that knows its classes and nothing else."""
    return model_of(nn.Identity(), ModelFacts((1,), classes, None, class_names=names))


def test_classes_are_known_by_name_and_by_number() -> None:
    assert labels_called(model_with(2, "cat", "dog"), ["dog", "0", "cat"], "--labels") == [1, 0, 0]
    assert labels_called(model_with(3), ["2", "0"], "--labels") == [2, 0]  # of before names were noted


def test_a_number_is_a_name_only_where_some_class_is_called_so() -> None:
    """Else both `0` and `1` would give the first of the classes 1 to 10."""
    counted = model_with(10, *(str(number) for number in range(1, 11)))
    assert labels_called(counted, ["1", "10"], "--label") == [0, 9]
    assert labels_called(model_with(3, "1", "2", "ten"), ["ten", "2"], "--label") == [2, 1]
    for model, last in ((counted, "9, 10"), (model_with(11, *"abcdefghij", "7"), "i, j and 1 others")):
        with pytest.raises(ReflowError, match=f"^--label 0: no class of this model; give one of .*{last}$"):
            labels_called(model, ["0"], "--label")


@pytest.mark.parametrize("name", ["2", "-1", "Dog", "", "x"])
def test_other_names_and_numbers_are_refused_with_those_there_are(name: str) -> None:
    for names, ways in (
        (("cat", "dog"), "one of cat, dog, or its number, 0 to 1"),
        ((), "its number, 0 to 1"),
    ):
        with pytest.raises(ReflowError, match=f"^--labels {name}: no class of this model; give {ways}$"):
            labels_called(model_with(2, *names), ["0", name], "--labels")
    with pytest.raises(ReflowError, match="trained without labels"):
        labels_called(model_with(None), [name], "--labels")


def test_students_take_no_tolerance_and_are_told_in_how_many_steps_they_draw() -> None:
    for spans, steps in (
        (False, "to draw in 1 Euler step and"),
        (True, "for Euler steps, in any number; give"),
    ):
        model = model_of(nn.Identity(), ModelFacts((1,), None, 1, spans=spans), "distill")
        with pytest.raises(ReflowError, match=f"this model was distilled {steps}"):
            tolerant_method(model, 1e-3)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write grey pictures of two classes, an .npz with labels 3 and 8."""
    path = tmp_path_factory.mktemp("named") / "pictures.npz"
    labels = np.repeat([3, 8], 12)
    images = np.random.default_rng(0).integers(0, 100, (24, 8, 8)) + 100 * (labels == 8)[:, None, None]
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


def test_the_names_of_classes_travel_and_choose_labels(
    reflow: Command, named: Path, tmp_path: Path
) -> None:
    base, pairs, later = (tmp_path / name for name in ("base", "pairs", "reflow"))
    quick = [word for stage in ("train", "reflow") for word in ("--set", f"{stage}.steps=2")]
    train = ("train", TINY, "--data", named, *quick)
    assert reflow(*train, "--set", "data.labels=true", "--out", base).code == 0
    answer = reflow("couple", base, "--out", pairs, "--count", 6, "--labels", "8, 3,8")
    assert answer.code == 0, answer.err
    assert open_pairs(pairs).take(np.arange(6)).label.tolist() == [1, 0, 1] * 2  # type: ignore[union-attr]
    assert reflow("train", "--pairs", pairs, "--init", base, "--out", later, *quick[2:]).code == 0
    assert load_model(later).class_names == ("3", "8")
    for label, wanted in (("8", 1), ("3", 0)):
        out = tmp_path / f"{label}.safetensors"
        answer = reflow("sample", later, "--out", out, "--count", 3, "--nfe", 1, "--label", label)
        assert answer.code == 0, answer.err
        assert load_file(out)["label"].tolist() == [wanted] * 3
    line = one_line(reflow("sample", later, "--out", tmp_path / "x.npz", "--label", "1"))
    assert "--label 1: no class of this model; give one of 3, 8" in line
    assert reflow(*train, "--out", tmp_path / "plain").code == 0
    assert "class_names" not in read_header(tmp_path / "plain" / "model.safetensors").facts


def draw(reflow: Command, model: Path, out: Path, *options: object) -> Answer:
    return reflow("sample", model, "--out", out, "--count", 10, "--nfe", 5, *options)


def test_guidance_of_samples_and_pairs_acts_in_its_interval(
    reflow: Command, labelled: Path, tmp_path: Path
) -> None:
    answer = draw(
        reflow, labelled, tmp_path / "s.safetensors", "--guidance", 4, "--guidance-interval", "0.3,0.7"
    )
    assert answer.code == 0, answer.err
    options = ("--steps", 5, "--solver", "euler", "--count", 10)
    chosen = ("--guidance", 4, "--guidance-interval", "0.3,0.7")
    answer = reflow("couple", labelled, "--out", tmp_path / "p", *options, *chosen)
    assert answer.code == 0, answer.err
    assert open_pairs(tmp_path / "p").header.recipe["couple"]["guidance_interval"] == [0.3, 0.7]
    model = load_model(labelled)
    inside = GuidanceSettings(guidance=4.0, guidance_interval=(0.3, 0.7))
    for found in (
        load_file(tmp_path / "s.safetensors"),
        load_file(tmp_path / "p" / "pairs-00000-of-00001.safetensors"),
    ):
        noise, label = found["noise"], found["label"]
        solved = integrate(guided(model, inside), noise, solver="euler", steps=5, label=label).x1
        torch.testing.assert_close(found["image"], solved, rtol=0, atol=1e-5)  # rounding
        everywhere = guided(model, GuidanceSettings(guidance=4.0))
        other = integrate(everywhere, noise, solver="euler", steps=5, label=label).x1
        assert float((other - solved).square().mean().sqrt()) > 1e-3  # the interval is felt


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (("--guidance", 2, "--guidance-interval", "0.4"), "write the first and the last t", 2),
        (("--guidance", 2, "--guidance-interval", "a,b"), "write the first and the last t", 2),
        (("--guidance", 2, "--guidance-interval", "0.6,0.4"), "begins at 0.6 and must end later", 2),
        (("--guidance", 2, "--guidance-interval", "0.6,1.4"), "guidance_interval.1 = 1.4", 2),
        (("--guidance-interval", "0.4,0.6"), "does nothing without guidance", 2),
    ],
)
def test_impossible_intervals_are_refused(
    reflow: Command, labelled: Path, tmp_path: Path, options: tuple[object, ...], message: str, code: int
) -> None:
    assert message in one_line(draw(reflow, labelled, tmp_path / "x.npz", *options), code)
    assert message in one_line(reflow("couple", labelled, "--out", tmp_path / "x", *options), code)
    assert not list(tmp_path.iterdir())


def test_students_are_not_guided(reflow: Command, labelled: Path, tmp_path: Path) -> None:
    pairs, student = tmp_path / "pairs", tmp_path / "student"
    assert reflow("couple", labelled, "--out", pairs, "--count", 8).code == 0
    quick = ("--set", "distill.steps=2")
    assert reflow("distill", labelled, "--pairs", pairs, "--out", student, *quick).code == 0
    answer = reflow("sample", student, "--out", tmp_path / "x.npz", "--guidance", 2)
    assert "guidance = 2 needs the null label, which this model's last stage did not train" in one_line(
        answer
    )
