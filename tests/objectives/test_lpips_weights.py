"""Weights of VGG-16 from files: what they become, and which are refused, by stages too."""

import hashlib
import importlib.util
import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command, one_line
from fits import rng
from torch import nn
from torch.nn import functional
from vgg import features, loaded, saved, stand_in  # noqa: F401 (a fixture)

from reflow.artifacts import read_artifact
from reflow.errors import ReflowError
from reflow.recipes.training import DistillSettings, ReflowSettings


@pytest.mark.parametrize("name", ["vgg16.pth", "vgg16.safetensors"])
@pytest.mark.usefixtures("stand_in")
def test_the_weights_of_a_file_make_the_distance(tmp_path: Path, name: str) -> None:
    weights = features()
    path = saved(tmp_path / name, weights)
    perceptual = loaded(path, 32)
    assert perceptual is not None
    assert perceptual.size == 32
    assert perceptual.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    a, b = torch.randn(2, 4, 3, 32, 32, generator=rng())
    seen = [
        functional.conv2d(
            functional.conv2d(x, weights["features.0.weight"], weights["features.0.bias"]),
            weights["features.5.weight"],
            weights["features.5.bias"],
        )
        for x in (a, b)
    ]
    wanted = (seen[0] - seen[1]).square().mean((1, 2, 3))
    torch.testing.assert_close(perceptual(a, b), wanted, rtol=1e-5, atol=0)  # rounding


@pytest.mark.usefixtures("stand_in")
def test_the_network_is_frozen_and_224_pixels_wide_by_default(tmp_path: Path) -> None:
    perceptual = loaded(saved(tmp_path / "vgg16.pth", features()))
    assert perceptual is not None
    assert perceptual.size == 224
    network = perceptual.network
    assert isinstance(network, nn.Module)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def test_without_a_file_nothing_is_compared_and_a_size_is_refused() -> None:
    assert loaded(None) is None
    with pytest.raises(ReflowError, match="perceptual_size = 64 needs --perceptual FILE"):
        loaded(None, 64)


def test_vectors_and_other_channels_are_refused(tmp_path: Path) -> None:
    for event in ((2,), (3,), (4, 8, 8)):
        with pytest.raises(ReflowError, match=r"--perceptual compares grey or RGB images.*leave it out"):
            loaded(tmp_path / "vgg16.pth", event=event)


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ReflowError, match=r"--perceptual: .* pip install 'reflow\[perceptual\]'"):
        loaded(tmp_path / "vgg16.pth")
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '\nperceptual = [\n  "lpips>=' in text


def test_a_torchvision_of_another_torch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lpips.py").write_text("raise RuntimeError('operator torchvision::nms\\ndoes not exist')")
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ReflowError,
        match=r"RuntimeError: operator torchvision::nms does not exist\); reinstall 'reflow\[perceptual",
    ):
        loaded(tmp_path / "vgg16.pth")


class Payload:
    """What an unpickler that trusts a file would make a directory of."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.mark.usefixtures("stand_in")
def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    place = tmp_path / "run"
    pickled = tmp_path / "pickled.pth"
    pickled.write_bytes(pickle.dumps(Payload(place)))
    for path in (saved(tmp_path / "vgg16.pth", features() | {"more": Payload(place)}), pickled):
        with pytest.raises(ReflowError, match="is not a file of weights alone; give the state dict"):
            loaded(path)
        assert not place.exists()
        pickle.load(io.BytesIO(pickle.dumps(Payload(place))))  # it would have
        place.rmdir()


@pytest.mark.parametrize("name", ["vgg16.pth", "vgg16.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02}q\x00.", b"PK\x03\x04" + b"\0" * 99])
@pytest.mark.usefixtures("stand_in")
def test_files_of_something_else_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ReflowError, match="give the state dict of torchvision's VGG-16") as caught:
        loaded(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("stand_in")
def test_a_missing_file_and_other_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReflowError, match=r"nothing.pth cannot be read \(No such file"):
        loaded(tmp_path / "nothing.pth")
    lacking = features()
    del lacking["features.5.bias"]
    with pytest.raises(ReflowError, match=r"is not a VGG-16: it has no features\.5\.bias; give"):
        loaded(saved(tmp_path / "lacking.pth", lacking))
    wider = features() | {"features.5.weight": torch.zeros(7, 4, 3, 3)}
    with pytest.raises(ReflowError, match=r"it has features\.5\.weight of shape \(7, 4, 3, 3\); give"):
        loaded(saved(tmp_path / "wider.safetensors", wider))
    with pytest.raises(ReflowError, match=r"it has features\.0\.bias of shape \(\)"):
        loaded(saved(tmp_path / "words.pth", features() | {"features.0.bias": "a word"}))
    with pytest.raises(ReflowError, match=r"it has no features\.0\.weight"):
        loaded(saved(tmp_path / "list.pth", [1, 2]))


def stage(chain: Path, name: str, out: Path) -> tuple[object, ...]:
    pairs = ("--pairs", chain / "pairs", "--out", out, "--set", f"{name}.perceptual_size=16")
    return {
        "reflow": ("train", "--init", chain / "base", *pairs),
        "distill": ("distill", chain / "reflow", *pairs),
    }[name]


@pytest.mark.parametrize("name", ["reflow", "distill"])
@pytest.mark.usefixtures("stand_in")
def test_a_model_knows_the_weights_that_compared_its_images(
    chain: Path, tmp_path: Path, reflow: Command, name: str
) -> None:
    path, other = (saved(tmp_path / f"vgg-{seed}.pth", features(seed)) for seed in (0, 1))
    command = stage(chain, name, tmp_path / name)
    assert reflow(*command, "--perceptual", path).code == 0
    made = tmp_path / name / "model.safetensors"
    header, tensors = read_artifact(made, "model")
    assert header.parents["perceptual-weights"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stem.encode() not in made.read_bytes()
    assert header.recipe[name]["perceptual_size"] == 16
    without, plain = read_artifact(chain / name / "model.safetensors", "model")
    assert "perceptual-weights" not in without.parents
    assert "perceptual_size" not in without.recipe[name]
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in tensors.items())
    moved = path.rename(tmp_path / "elsewhere.pth")  # the same bytes under another name
    assert "is complete" in reflow(*command, "--perceptual", moved).err
    refusal = one_line(reflow(*command, "--perceptual", other))
    assert "it was made from other perceptual-weights" in refusal
    assert "perceptual_size = 16 needs --perceptual FILE" in one_line(reflow(*command))
    before = made.read_bytes()
    assert reflow(*command, "--perceptual", moved, "--fresh").code == 0
    assert made.read_bytes() == before


def test_the_base_model_has_no_images_to_compare(reflow: Command, tmp_path: Path) -> None:
    answer = reflow("train", "digits", "--out", tmp_path / "base", "--perceptual", tmp_path / "vgg16.pth")
    assert "it goes with --pairs and --init" in one_line(answer, code=2)


def test_both_stages_on_pairs_have_a_size_of_at_least_16() -> None:
    usual = {"steps": 1, "batch": 1, "lr": 1, "ema_halflife": 1}
    for section in (ReflowSettings, DistillSettings):
        assert section.model_validate(usual | {"perceptual_size": 16}).perceptual_size == 16
        with pytest.raises(ValueError, match="perceptual_size"):
            section.model_validate(usual | {"perceptual_size": 15})


@pytest.mark.parametrize("objective", ["consistency", "meanflow"])
@pytest.mark.usefixtures("stand_in")
def test_objectives_that_compare_velocities_are_no_case_for_it(
    chain: Path, tmp_path: Path, reflow: Command, objective: str
) -> None:
    path = saved(tmp_path / "vgg.pth", features(0))
    command = (*stage(chain, "distill", tmp_path / "out"), "--perceptual", path, "--objective", objective)
    assert f"objective = {objective} velocities" in one_line(reflow(*command))
    assert not (tmp_path / "out").exists()
