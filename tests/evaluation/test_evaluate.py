"""What evaluate finds: coverage of held-out data and copies of training data, for images and vectors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY, Command
from neighbours import covered_by_sklearn

from reflow.data import DataSet, open_data, split
from reflow.evaluation import reference as module
from reflow.evaluation.floor import draws, strata
from reflow.evaluation.reference import Reference, reference_of
from reflow.evaluation.results import to_json, to_table
from reflow.evaluation.scores import NEUTRAL, evenly
from reflow.metrics.precision_recall import density_coverage
from reflow.models import load_model
from reflow.randomness import draw_seed
from reflow.recipes.read import parse_recipe, read_recipe
from reflow.sampling.generate import generate
from reflow.sampling.methods import fixed_method, usual_method


def measure(**settings: Any) -> tuple[Reference, DataSet, DataSet]:
    content = read_recipe(str(TINY)).model_dump(mode="json")
    content["evaluate"] |= {"classifier_steps": 5} | settings
    recipe = parse_recipe(content)
    data = open_data(recipe.data, 0)
    training, held_out = split(data, 0.2, 0)
    how = {"data": data.digest(), "held_out": 0.2, "seed": 0}
    return reference_of(recipe, training, held_out, how), training, held_out


def test_samples_that_are_copied_stand_out_from_held_out_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 100)
    stick, training, held_out = measure(samples=80)
    reference = stick.reference()
    unseen = reference["nearest_training"]["held_out"]
    assert reference["nearest_training"]["training"] == len(training)
    own, _ = training.take(np.arange(0, 1400, 20))
    assert stick.nearest_training(own) == {"median": 0, "fifth_percentile": 0}
    # Of 8 x 8 pixels some levels apart; one level is 1 / 8.
    assert unseen["median"] > unseen["fifth_percentile"] > 1 / 8
    half = torch.cat([own[:35], held_out.take(np.arange(35))[0]])
    assert stick.nearest_training(half)["fifth_percentile"] == 0


def test_the_nearest_is_looked_for_among_a_stated_number_spread_evenly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_TRAINING", 100)
    stick, training, _ = measure(samples=80)
    assert stick.reference()["nearest_training"]["training"] == 100
    among, _ = training.take(evenly(len(training), 100))
    assert stick.nearest_training(among)["median"] == 0
    left_out, _ = training.take(evenly(len(training), 100) + 1)
    assert stick.nearest_training(left_out)["fifth_percentile"] > 0


def test_figures_that_overflow_are_null_and_warn_of_nothing() -> None:
    recipe = read_recipe("gaussians", {"evaluate.samples": 40})
    data = open_data(recipe.data, 0)
    stick = reference_of(recipe, *split(data, 0.2, 0), {})
    far, _ = data.take(np.arange(40))
    found = stick.figures(far * 1e30) | {"nearest": stick.nearest_training(far * 1e30)}
    one = stick.figures(far[:1])
    written = json.loads(to_json({"far": found, "one": one}), parse_constant=pytest.fail)
    assert written["far"]["recall"] == 0
    assert written["one"]["spread"] is None  # of one sample
    table = {"floor": found, "models": [], "nearest_training": {"held_out": written["far"]["nearest"]}}
    assert "n/a" in to_table(table | {"floor": written["one"]})


def test_real_data_covers_real_data_and_noise_covers_nothing() -> None:
    stick, training, _ = measure(samples=300)
    floor = stick.reference()["floor"]
    assert min(floor["precision"], floor["recall"]) > 0.5
    assert floor["spread"] == pytest.approx(1, abs=0.05)  # 300 samples of 64 pixels
    real, _ = training.take(evenly(len(training), 300))
    mean = real.mean(0)
    shrunk = stick.figures(mean + 0.5 * (real - mean))
    whole = stick.figures(real)["spread"]
    assert shrunk["spread"] == pytest.approx(whole / 2, rel=1e-5)  # of float32
    assert shrunk["recall"] < floor["recall"] - 0.2
    assert stick.figures(mean.expand_as(real))["recall"] == 0


def test_the_noise_of_samples_with_labels_leaves_out_what_classes_add() -> None:
    """Ones are moved out of sight, so that all figures hang on how many there are."""
    stick, training, _ = measure(samples=300)
    assert training.labels is not None
    chosen = np.flatnonzero(training.labels <= 1)[:200]
    labels = np.tile(training.labels[chosen], 3)
    samples = training.take(chosen)[0].tile(3, 1, 1, 1) + 3 * torch.from_numpy(labels)[:, None, None, None]
    assert len(samples) > len(stick.against.balls)
    random, own = (stick.figures(samples, told)["noise"] for told in (None, labels))
    for name in ("sliced_wasserstein", "frechet_classifier"):
        assert own[name] < random[name] / 3, name
    assert own["precision"] < random["precision"] / 1.5  # noughts are not all precise


def test_evaluate_reports_what_scikit_learn_finds_on_vectors(reflow: Command, tmp_path: Path) -> None:
    quick = ("train.steps=30", "model.width=8", "data.points=400", "evaluate.samples=150")
    changes = [word for change in quick for word in ("--set", change)]
    assert reflow("train", "gaussians", "--out", tmp_path / "base", *changes).code == 0
    answer = reflow("evaluate", tmp_path / "base", "--nfe", "2", "--out", tmp_path / "e.json")
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "e.json").read_text())
    neighbours = {"on": "samples", "samples": 80, "precision_recall": 3, "density_coverage": 5}
    assert found["protocol"]["neighbours"] == neighbours  # a fifth of 400 points are held out
    model = load_model(tmp_path / "base")
    how = {"seed": 0, "stream": "evaluate", "batch": 150, "device": torch.device("cpu")}
    (samples,) = generate(model, 150, method=fixed_method(model, 2), **how)  # type: ignore[arg-type]
    x1 = samples.pair.x1.double().numpy()[evenly(150, 80)]
    recipe = model.recipe
    training, held_out = split(open_data(recipe.data, 0), recipe.data.held_out, 0)
    real = held_out.values.astype(np.float64)
    usual = generate(model, 150, method=usual_method(model), **how)  # type: ignore[arg-type]
    counted = torch.cat([batch.nfe for batch in usual]).double()
    assert found["models"][0]["figures"][1]["nfe"] == float(counted.mean())
    assert float(counted.std()) > 0  # the line before says something
    figures, floor = found["models"][0]["figures"][0], found["floor"]
    assert figures["precision"] == covered_by_sklearn(x1, real)
    assert figures["recall"] == covered_by_sklearn(real, x1)
    assert (figures["density"], figures["coverage"]) == density_coverage(x1, real)
    drawn = draws(strata(training, 150, None), np.random.default_rng(draw_seed(0, "floor")))
    assert floor["draws"] == len(drawn) == 3  # of 150 among 320
    among = [training.values.astype(np.float64)[rows][evenly(150, 80)] for rows in drawn]
    precisions, recalls = zip(
        *((covered_by_sklearn(some, real), covered_by_sklearn(real, some)) for some in among), strict=True
    )
    assert floor["precision"] == pytest.approx(np.mean(precisions), rel=1e-12)
    assert floor["recall"] == pytest.approx(np.mean(recalls), rel=1e-12)
    header = answer.out.splitlines()[0].split()
    assert header == ["model", "NFE", "solver", *NEUTRAL]
    near = found["models"][0]["nearest_training"]
    said = f"base: RMS {near['median']:.4g} (median), {near['fifth_percentile']:.4g} (5th percentile)"
    assert said in answer.out


def test_evaluate_looks_at_labelled_images_through_the_classifier(
    reflow: Command, labelled: Path, tmp_path: Path
) -> None:
    answer = reflow("evaluate", labelled, "--nfe", "1", "--out", tmp_path / "e.json", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["protocol"]["neighbours"]["on"] == "classifier"
    names = ["frechet_classifier", "kernel_classifier", "kernel_classifier_spread", *NEUTRAL, "noise"]
    assert list(found["models"][0]["figures"][0]) == ["nfe", "solver", "tolerance", *names]
    assert list(found["floor"]) == ["samples", "draws", *names]
    assert found["floor"]["noise"].keys() == {*names} - {"kernel_classifier_spread", "noise"}
    for shares in (found["classes"], found["models"][0]["classes"]):
        assert list(shares) == [str(digit) for digit in range(10)]
        assert sum(shares.values()) == pytest.approx(1)
