"""Features are computed once for data and network, and figures of them do not depend on their unit."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY, Command
from extractors import Pooled, images, scripted
from numpy.typing import NDArray
from torch import Tensor

from reflow.artifacts import file_digest
from reflow.data import DataSet, open_data, split
from reflow.evaluation.reference import Reference, reference_of
from reflow.evaluation.resume import PartialResults
from reflow.metrics.features import classifier as classifier_module
from reflow.metrics.features.cache import Cached, cached
from reflow.metrics.features.extractor import UNPREPARED, Preparation
from reflow.recipes.read import parse_recipe, read_recipe


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluate"


def measure(extractor: Any = None, held_out: float = 0.2, **settings: Any) -> Reference:
    content = read_recipe(str(TINY)).model_dump(mode="json")
    content["data"]["labels"] = True
    content["evaluate"] |= {"classifier_steps": 3} | settings
    recipe = parse_recipe(content)
    data = open_data(recipe.data, 0)
    how = {"data": data.digest(), "seed": 0, "held_out": held_out}
    return reference_of(recipe, *split(data, held_out, 0), how, extractor)


def test_a_classifier_is_trained_once_for_data_split_and_settings(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    real = classifier_module.train_classifier

    def noted(*arguments: Any, **options: Any) -> Any:
        trained.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(classifier_module, "train_classifier", noted)
    first, second = measure().classifier, measure(samples=30).classifier
    assert first is not None
    assert second is not None
    assert len(trained) == 1
    assert (first.digest, first.accuracy) == (second.digest, second.accuracy)
    np.testing.assert_array_equal(first.features(images()), second.features(images()))
    np.testing.assert_array_equal(first.classes(images()), second.classes(images()))
    for other in ({"classifier_steps": 4}, {"held_out": 0.3}):
        measure(**other)
    assert len(trained) == 3
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")  # damaged
    again = measure().classifier
    assert len(trained) == 4
    assert again is not None
    assert again.digest == first.digest  # the same seed


def test_where_nothing_can_be_written_the_classifier_is_trained_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("REFLOW_CACHE", str(tmp_path / "file"))  # no place for a folder
    assert measure().classifier is not None


def test_kept_features_are_those_of_the_data_and_network_that_their_header_names(cache: Path) -> None:
    first = kept_of("a", 1.0)
    (path,) = cache.iterdir()
    assert kept_of("a", 2.0) == first == 1.0
    assert kept_of("b", 3.0) == 3.0
    (other,) = set(cache.iterdir()) - {path}
    path.write_bytes(other.read_bytes())  # under a name that is not its own
    assert kept_of("a", 4.0) == 4.0
    path.unlink()
    path.mkdir()  # where no file can be written
    assert kept_of("a", 5.0) == 5.0


def kept_of(parent: str, value: float) -> float:
    """Return the one number that is kept of a parent; a new one becomes `value`."""
    found = cached(
        "features",
        parents={"data": parent},
        settings={},
        make=lambda: Cached({"features": torch.tensor(value)}, {}),
    )
    return float(found.tensors["features"])


class Counting:
    """An extractor that counts the images it has seen."""

    name, size, preparation = "counting", 4, Preparation()

    def __init__(self, digest: str) -> None:
        self.digest, self.seen = digest, 0

    def features(self, images: Tensor) -> NDArray[np.float32]:
        self.seen += len(images)
        return Pooled()(images).numpy()  # type: ignore[no-any-return]


@dataclass
class Scaled:
    """An extractor in another unit."""

    factor: float
    name: str = "scaled"
    digest: str = ""
    size: int = 4
    preparation: Preparation = UNPREPARED

    def features(self, images: Tensor) -> NDArray[np.float32]:
        return self.factor * Pooled()(images).numpy()  # type: ignore[no-any-return]


@pytest.mark.usefixtures("cache")
def test_the_kernel_distance_does_not_depend_on_the_unit_of_features_and_kid_takes_them_as_they_are() -> (
    None
):
    one, eight = (measure(Scaled(factor, digest=f"{factor}")) for factor in (1.0, 8.0))
    real, _ = one.held_out.take(np.arange(60))
    shifted = real + 0.1
    first, second = (stick.figures(shifted) for stick in (one, eight))
    for name in ("kernel_scaled", "kernel_scaled_spread"):
        assert second[name] == pytest.approx(first[name], rel=1e-4)  # of float32
    assert second["frechet_scaled"] == pytest.approx(64 * first["frechet_scaled"], rel=1e-4)
    held_out, _ = one.held_out.take(np.arange(len(one.held_out)))
    rms = float(Pooled()(held_out).square().mean().sqrt())
    assert one.protocol()["kernel"] == {"subsets": 100, "size": 20, "unit": pytest.approx(rms)}
    kid = measure(Scaled(8.0, name="inception", digest="k"))
    assert kid.protocol()["kernel"]["unit"] == 1
    assert kid.figures(shifted)["kid"] > 10 * first["kernel_scaled"]
    for found in (first, second):  # 100 subsets of 20 out of 60
        assert found["noise"]["kernel_scaled"] == found["kernel_scaled_spread"] * math.sqrt(0.51) > 0


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_features_that_are_zero_and_few_samples_have_finite_figures(samples: int) -> None:
    stick = measure(Scaled(0.0, digest="0"), samples=samples)
    found = stick.figures(stick.held_out.take(np.arange(samples))[0])
    assert (found["frechet_scaled"], found["kernel_scaled"]) == (0, 0)
    assert (found["precision"], found["recall"]) == (1, 1)
    noise = found.pop("noise")
    assert all(map(math.isfinite, [*found.values(), *noise.values()]))
    assert ("spread" in noise) == (samples == 4)


@pytest.mark.usefixtures("cache")
def test_features_of_held_out_data_are_computed_once_for_data_and_network() -> None:
    first, second, other = Counting("a"), Counting("a"), Counting("b")
    sticks = [measure(extractor) for extractor in (first, second, other)]
    held_out = len(sticks[0].held_out)
    assert (first.seen, second.seen, other.seen) == (held_out, 0, held_out)
    real, _ = sticks[0].held_out.take(np.arange(60))
    figures = [stick.figures(real) for stick in sticks]
    assert figures[0] == figures[1] == figures[2]
    more = Counting("a")
    assert isinstance(measure(more, 0.3).held_out, DataSet)
    assert more.seen > held_out  # of other data


def test_evaluate_compares_the_features_of_a_file_and_tells_which(
    reflow: Command, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PartialResults, "clear", lambda _: None)
    path = scripted(tmp_path / "pooled.pt", Pooled())
    out = tmp_path / "e.json"
    command = ("evaluate", labelled, "--nfe", 1, "--features", path, "--out", out)
    answer = reflow(*command)
    assert answer.code == 0, answer.err
    found = json.loads(out.read_text())
    assert found["features"] == {"name": "torchscript", "sha256": file_digest(path), "size": 4}
    assert found["protocol"]["neighbours"]["on"] == "torchscript"
    assert "frechet_torchscript" in answer.out
    figure = found["models"][0]["figures"][0]
    assert figure.keys() >= {"frechet_torchscript", "kernel_torchscript", "kernel_torchscript_spread"}
    assert not [name for name in figure if "classifier" in name]
    assert found["models"][0]["classes"] is not None  # which the classifier tells all the same
    assert reflow(*command, "--set", "evaluate.classifier_steps=3").code == 0
    assert len(list((tmp_path / "e.json.unfinished").iterdir())) == 2 * 3  # and another one tells anew
