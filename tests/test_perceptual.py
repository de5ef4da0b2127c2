"""The perceptual distance: its objective against closed forms, LPIPS against the package, refusals."""

import hashlib
import importlib.machinery
import importlib.util
import io
import os
import pickle
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import Command, one_line
from fields import batch_of, reflowed_gaussian
from fits import CPU, fit_settings, rng
from torch import Tensor, nn
from torch.nn import functional

from reflow.artifacts import read_artifact
from reflow.distances import pseudo_huber, squared, total
from reflow.distillation import regression_objective
from reflow.draws import Draws
from reflow.errors import ReflowError
from reflow.flow import Distance, Pair, per_sample, perceptual_objective
from reflow.hyperparameters import DistillSettings, PairFitSettings, ReflowSettings
from reflow.perceptual import Perceptual, enlarged, load_perceptual
from reflow.times import stratified, uniform

EVENT = (1, 8, 8)


def times(draws: Draws) -> Tensor:
    return stratified(uniform)(draws).double()


def in_features(matrix: Tensor) -> Distance:
    """Return a perceptual distance that is known: squared, in a linear space of features."""
    return lambda a, b: ((a - b).flatten(1) @ matrix.T).square().sum(1)


def linear(features: int, size: int) -> tuple[Tensor, Distance]:
    matrix = torch.randn(features, size, generator=rng(5), dtype=torch.float64)
    return matrix, in_features(matrix)


def pairs(n: int, *event: int) -> Pair:
    return Pair(*torch.randn(2, n, *event, generator=rng(), dtype=torch.float64))


def test_an_error_of_the_velocity_costs_t_times_itself_and_1_less_t_in_the_image() -> None:
    """With v = x1 - x0 + e the image is off by (1 - t) e, whose features are then known."""
    matrix, images = linear(7, 12)
    pair = pairs(50, 3, 2, 2)
    error = torch.randn(50, 3, 2, 2, generator=rng(1), dtype=torch.float64)

    def off(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return pair.x1 - pair.x0 + error

    loss, t = perceptual_objective(times, pseudo_huber, images)(off, pair, batch_of(50, rng(2)))
    assert t is not None
    c = 0.00054 * 12
    of_velocity = ((error.square().flatten(1).sum(1) + c**2).sqrt() - c) / 12
    of_image = (1 - t) ** 2 * (error.flatten(1) @ matrix.T).square().sum(1)
    torch.testing.assert_close(loss, t * of_velocity + of_image, rtol=1e-12, atol=0)  # rounding


def test_gradients_of_both_parts_reach_the_field() -> None:
    """For v constant and squared distances the derivative is 2 t e / d + 2 (1 - t)^2 A^T A e."""
    matrix, images = linear(4, 3)
    v = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    pair = pairs(20, 3)

    def constant(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return v.expand_as(x)

    loss, t = perceptual_objective(times, squared, images)(constant, pair, batch_of(20, rng()))
    assert t is not None
    loss.sum().backward()
    error = v.detach() - (pair.x1 - pair.x0)
    wanted = 2 * t[:, None] * error / 3 + 2 * (1 - t[:, None]) ** 2 * (error @ matrix.T @ matrix)
    torch.testing.assert_close(v.grad, wanted.sum(0), rtol=1e-12, atol=1e-12)  # rounding


def test_the_exact_field_of_straight_paths_costs_nothing() -> None:
    mean, std = torch.tensor([0.7, -1.0]).double(), torch.tensor([0.2, 1.5]).double()
    x0 = torch.randn(1000, 2, generator=rng(), dtype=torch.float64)
    objective = perceptual_objective(times, squared, linear(5, 2)[1])
    loss = objective(reflowed_gaussian(mean, std), Pair(x0, mean + std * x0), batch_of(1000, rng())).each
    assert float(loss.max()) < 1e-27  # the square of the rounding of float64


def test_the_perceptual_objective_hands_labels_to_the_field() -> None:
    def labelled(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        assert label is not None
        return per_sample(label, x).expand_as(x).double()

    label = torch.arange(4)
    x0 = torch.zeros(4, 2, dtype=torch.float64)
    pair = Pair(x0, label[:, None].expand(4, 2).double(), label)
    loss = perceptual_objective(times, squared, linear(3, 2)[1])(labelled, pair, batch_of(4, rng())).each
    assert float(loss.max()) < 1e-27  # rounding


@pytest.mark.parametrize("steps", [1, 2])
def test_a_student_is_compared_by_all_of_its_distances(steps: int) -> None:
    """For v = 1 every student arrives at x0 + 1."""
    matrix, images = linear(7, 12)
    pair = pairs(9, 3, 2, 2)

    def one(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return torch.ones_like(x)

    objective = regression_objective(steps, total(squared, images))
    error = (pair.x0 + 1 - pair.x1).flatten(1)
    wanted = error.square().mean(1) + (error @ matrix.T).square().sum(1)
    found = objective(one, pair, batch_of(9, rng())).each
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)  # rounding


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 32, 32), (2, 3, 20, 30), (1, 3, 23, 40)])
def test_small_images_are_enlarged_as_torch_does(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=rng(), dtype=torch.float64)
    height, width = shape[2:]
    larger = (round(height * 48 / min(height, width)), round(width * 48 / min(height, width)))
    wanted = functional.interpolate(x, larger, mode="bilinear")
    # torch computes positions between pixels in another order, of some 1e-15 of 48.
    torch.testing.assert_close(enlarged(x, 48), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 48, 48), (2, 3, 100, 50)])
def test_larger_images_stay_as_they_are(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=rng())
    assert enlarged(x, 48) is x


@pytest.mark.parametrize("channels", [1, 3])
def test_the_network_sees_three_channels_of_enlarged_images(channels: int) -> None:
    weights = torch.randn(2, 3, 3, 3, generator=rng(7))
    seen: list[tuple[int, ...]] = []

    def network(a: Tensor, b: Tensor) -> Tensor:
        seen.append(tuple(a.shape))
        features = functional.conv2d(a, weights) - functional.conv2d(b, weights)
        return features.square().mean((1, 2, 3), keepdim=True)

    a, b = torch.randn(2, 5, channels, 8, 8, generator=rng())
    a.requires_grad_()
    found = Perceptual(network, 32, "")(a, b)
    rgb = [functional.interpolate(x, 32, mode="bilinear").repeat(1, 3 // channels, 1, 1) for x in (a, b)]
    wanted = network(*rgb).flatten()
    assert seen == [(5, 3, 32, 32)] * 2
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)  # rounding of float32
    gradients = [torch.autograd.grad(loss.sum(), a)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


class StandIn(nn.Module):
    """What lpips.LPIPS is built like, with two convolutions in place of thirteen, as linear features."""

    def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
        super().__init__()
        assert (net, pnet_rand, verbose) == ("vgg", True, False)
        self.net = nn.Sequential()
        for name, convolution in {"slice1": nn.Conv2d(3, 4, 3), "slice2": nn.Conv2d(4, 6, 3)}.items():
            part = nn.Sequential()
            part.add_module(str(5 * (name == "slice2")), convolution)
            self.net.add_module(name, part)
        self.lin = nn.Linear(1, 1)  # of the package's own weights

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.net(a) - self.net(b)).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in in the place of the package."""
    package: Any = types.ModuleType("lpips")
    package.__spec__ = importlib.machinery.ModuleSpec("lpips", None)
    package.LPIPS = StandIn
    monkeypatch.setitem(sys.modules, "lpips", package)


def features(seed: int = 0) -> dict[str, Tensor]:
    """Return weights by torchvision's names, with some of a classifier that LPIPS does not have."""
    shapes = {
        "features.0.weight": (4, 3, 3, 3),
        "features.0.bias": (4,),
        "features.5.weight": (6, 4, 3, 3),
        "features.5.bias": (6,),
        "classifier.0.weight": (2, 2),
    }
    return {name: torch.randn(shape, generator=rng(seed)) for name, shape in shapes.items()}


def saved(path: Path, weights: object) -> Path:
    if path.suffix == ".safetensors":
        assert isinstance(weights, dict)
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


def loaded(path: Path | None, size: int | None = None, event: tuple[int, ...] = EVENT) -> Perceptual | None:
    common = {k: v for k, v in dict(fit_settings()).items() if k in PairFitSettings.model_fields}
    settings = PairFitSettings.model_validate(common | {"perceptual_size": size})
    return load_perceptual(path, settings, event, CPU)


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
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert '\nperceptual = [\n  "lpips>=' in text


def test_a_torchvision_of_another_torch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lpips.py").write_text("raise RuntimeError('operator torchvision::nms\\ndoes not exist')")
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ReflowError, match=r"\(RuntimeError: operator torchvision::nms does not exist\); install the"
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


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return lpips with random weights of VGG-16, and the file that they are in."""
    lpips = pytest.importorskip("lpips", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
    models = importlib.import_module("torchvision.models")
    torch.manual_seed(0)
    vgg = models.vgg16(weights=None)
    held = {name: weight for name, weight in vgg.state_dict().items() if name.startswith("features.")}
    path = saved(tmp_path_factory.mktemp("vgg") / "vgg16.pth", held)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own about torchvision
        network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    for part in network.net.children():
        for name, module in part.named_children():
            module.load_state_dict(vgg.features[int(name)].state_dict())
    return network.requires_grad_(False), path


@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_is_what_the_package_gives(real: tuple[Any, Path], channels: int) -> None:
    network, path = real
    perceptual = loaded(path, 32, (channels, 16, 16))
    assert perceptual is not None
    a, b = torch.rand(2, 3, channels, 16, 16, generator=rng()) * 2 - 1
    a.requires_grad_()
    found = perceptual(a, b)
    rgb = [functional.interpolate(x, 32, mode="bilinear").repeat(1, 3 // channels, 1, 1) for x in (a, b)]
    wanted = network(*(x * 0.5 + 0.5 for x in rgb), normalize=True).flatten()  # from [0, 1], as it asks
    assert found.shape == (3,)
    assert float(wanted.detach().min()) > 0
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)  # rounding of float32, 13 layers deep
    gradients = [torch.autograd.grad(loss.sum(), a)[0] for loss in (found, wanted)]
    scale = float(gradients[1].abs().max())
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-3 * scale)  # maxima may change hands


def test_lpips_has_a_gradient_where_the_features_are_zero(real: tuple[Any, Path], tmp_path: Path) -> None:
    """The square root of a sum of squares has none there, but nothing below it is alive."""
    weights = torch.load(real[1], weights_only=True)
    weights["features.28.bias"].fill_(-100.0)
    perceptual = loaded(saved(tmp_path / "dead.pth", weights), 32)
    assert perceptual is not None
    a, b = torch.rand(2, 3, 1, 32, 32, generator=rng())
    perceptual(a.requires_grad_(), b).sum().backward()
    assert a.grad is not None
    assert bool(a.grad.isfinite().all())
    assert bool((a.grad != 0).any())
    at_rest = b.clone().requires_grad_()
    perceptual(at_rest, b).sum().backward()
    assert torch.equal(at_rest.grad, torch.zeros_like(b))


@pytest.mark.parametrize("objective", ["consistency", "meanflow"])
@pytest.mark.usefixtures("stand_in")
def test_objectives_that_compare_velocities_are_no_case_for_it(
    chain: Path, tmp_path: Path, reflow: Command, objective: str
) -> None:
    path = saved(tmp_path / "vgg.pth", features(0))
    command = (*stage(chain, "distill", tmp_path / "out"), "--perceptual", path, "--objective", objective)
    assert f"objective = {objective} velocities" in one_line(reflow(*command))
    assert not (tmp_path / "out").exists()
