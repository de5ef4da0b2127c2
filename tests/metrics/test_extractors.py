"""Features of networks: what they are of, that they are computed once, and which files are refused."""

import hashlib
import importlib.machinery
import importlib.util
import io
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extractors import CPU, EVENT, Pooled, images, scripted
from graphs import averaging
from torch import Tensor, nn

from reflow.artifacts import file_digest
from reflow.errors import ReflowError
from reflow.metrics.features import inception as inception_module
from reflow.metrics.features.extractor import Names, Preparation, names_of
from reflow.metrics.features.files import open_extractor
from reflow.metrics.features.inception import as_bytes


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
