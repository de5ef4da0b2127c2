"""Features of networks: what they are of, that they are computed once, and which files are refused."""

import hashlib
import importlib.machinery
import importlib.util
import io
import json
import math
import pickle
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY, Command
from graphs import averaging
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reflow.artifacts import file_digest
from reflow.data import DataSet, open_data, split
from reflow.errors import ReflowError
from reflow.evaluation.reference import Reference, reference_of
from reflow.evaluation.resume import PartialResults
from reflow.metrics.features import classifier as classifier_module
from reflow.metrics.features import inception as inception_module
from reflow.metrics.features.cache import Cached, cached
from reflow.metrics.features.extractor import UNPREPARED, Names, Preparation, names_of
from reflow.metrics.features.files import open_extractor
from reflow.metrics.features.inception import as_bytes
from reflow.recipes.read import parse_recipe, read_recipe

CPU = torch.device("cpu")
EVENT = (1, 8, 8)


class Pooled(nn.Module):
    """Features that a test can compute: quarters of the images, averaged."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(x, 2).flatten(1)


def scripted(path: Path, module: nn.Module, event: tuple[int, ...] = EVENT) -> Path:
    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(module, torch.zeros(2, *event))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)
    return path


def images(n: int = 7, event: tuple[int, ...] = EVENT) -> Tensor:
    return torch.rand(n, *event, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_torchscript_file_gives_its_features_of_images_as_they_are(tmp_path: Path) -> None:
    path = scripted(tmp_path / "pooled.pt", Pooled())
    found = open_extractor(path, EVENT, CPU)
    assert (found.name, found.size, found.digest) == ("torchscript", 4, file_digest(path))
    assert found.preparation == Preparation("none", "none")
    np.testing.assert_array_equal(found.features(images(1203)), Pooled()(images(1203)).numpy())  # in parts
    assert names_of(found) == Names("frechet_torchscript", "kernel_torchscript")


def test_an_onnx_file_gives_its_features_of_images_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "pooled.onnx"
    path.write_bytes(averaging())
    found = open_extractor(path, EVENT, CPU)
    assert (found.name, found.size, found.digest) == ("onnx", 1, file_digest(path))
    wanted = images().mean((2, 3)).numpy()
    np.testing.assert_allclose(found.features(images()), wanted, rtol=0, atol=1e-6)  # of float32


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Coloured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).mean((2, 3))  # type: ignore[no-any-return]


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) / x.flatten(1).abs().sum(1, keepdim=True)  # of images that are zero


@pytest.mark.parametrize(
    ("module", "event", "said"),
    [
        (Wrong(), EVENT, r"to float32 of \(2, 1, 8, 8\); it has to give a vector of features for each"),
        (Coloured(), (3, 8, 8), r"fails on images of \(2, 1, 8, 8\).*put them into the file"),
        (Broken(), EVENT, "NaN or infinite"),
    ],
    ids=["no vectors", "other channels", "nan"],
)
def test_networks_that_give_no_features_are_refused(
    tmp_path: Path, module: nn.Module, event: tuple[int, ...], said: str
) -> None:
    path = scripted(tmp_path / "x.pt", module, event)
    with pytest.raises(ReflowError, match=said):
        open_extractor(path, EVENT, CPU)


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["evil.pt", "evil.pth"])
def test_no_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    target, stored = tmp_path / "target", io.BytesIO()
    torch.save({"x": Evil(target)}, stored)
    stand_in(monkeypatch, stored.getvalue())
    for content in (stored.getvalue(), pickle.dumps(Evil(target))):
        (tmp_path / name).write_bytes(content)
        monkeypatch.setattr(inception_module, "PUBLISHED", hashlib.sha256(content).hexdigest())
        with pytest.raises(ReflowError, match=r"is not (TorchScript|a file of weights alone)"):
            open_extractor(tmp_path / name, EVENT, CPU)
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.h5", b"", r"is of no known kind; give a TorchScript file \(\.pt\), an ONNX file \(\.onnx\) or"),
        ("absent.pt", None, r"cannot be read \(No such file or directory\); give a TorchScript file"),
        ("x.pt", b"PK nothing", "is not TorchScript"),
        ("x.pth", b"weights", "has SHA-256 .*, not those of FID; give weights-inception"),
    ],
)
def test_files_of_no_known_kind_are_refused(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ReflowError, match=said):
        open_extractor(tmp_path / name, EVENT, CPU)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("x.onnx", "onnxruntime", "onnx"), ("x.pth", "torch_fidelity", "inception")],
)
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda wanted: None if wanted == package else real(wanted)
    )
    monkeypatch.setattr(inception_module, "PUBLISHED", "")
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ReflowError, match=rf"is not installed; pip install 'reflow\[{extra}\]'"):
        open_extractor(tmp_path / name, EVENT, CPU)


class StandIn(nn.Module):
    """What the network of torch-fidelity is built like: bytes of RGB in, a tuple of features out."""

    def __init__(self, name: str, layers: list[str], feature_extractor_weights_path: Any) -> None:
        super().__init__()
        assert (name, layers) == ("inception", ["2048"])
        self.scale = torch.load(feature_extractor_weights_path, weights_only=False)["scale"]

    def forward(self, x: Tensor) -> tuple[Tensor]:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (self.scale * x.float().flatten(1),)


def stand_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Put the stand-in in the place of torch-fidelity, and take the content for the published weights."""
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        package: Any = types.ModuleType(name)
        package.__spec__ = importlib.machinery.ModuleSpec(name, None)
        package.FeatureExtractorInceptionV3 = StandIn
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(inception_module, "PUBLISHED", hashlib.sha256(content).hexdigest()[:8])


def test_only_inceptions_distances_are_fid_and_kid_and_it_sees_bytes_of_rgb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"scale": torch.tensor(0.5)}, path)
    stand_in(monkeypatch, path.read_bytes())
    found = open_extractor(path, (1, 2, 2), CPU)
    assert (found.name, found.size, found.digest) == ("inception", 12, file_digest(path))
    assert found.preparation.rounding == "8 bits"
    assert names_of(found) == Names("fid", "kid")
    grey = torch.tensor([-1.0, 1.0, 0.5, 3.0]).reshape(1, 1, 2, 2)
    wanted = 0.5 * np.tile([0.0, 255.0, 191.0, 255.0], 3)  # 1.5 x 127.5 = 191.25; 3 is cut
    np.testing.assert_array_equal(found.features(grey), wanted[None])
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_bytes(levels.float() / 127.5 - 1), levels)
    with pytest.raises(ReflowError, match="for grey or RGB images"):
        open_extractor(path, (2,), CPU)


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
