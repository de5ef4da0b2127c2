"""Label dropout: which labels, how many, what the null label then means, and who may ask for it."""

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, Command
from fields import batch_of, examples, gaussian, mixture
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from reflow import load_model
from reflow.artifacts import read_header
from reflow.errors import ReflowError
from reflow.flow import Losses, Pair, VelocityField, interpolate, velocity_objective
from reflow.guidance import drop_labels, guided
from reflow.models import build
from reflow.objectives import objective_of
from reflow.objectives.distances import squared
from reflow.objectives.times import stratified, uniform
from reflow.randomness import Draws, draw_seed
from reflow.recipes.read import read_recipe
from reflow.recipes.recipe import GuidanceSettings, MlpSettings
from reflow.recipes.training import VelocityFitSettings
from reflow.training.fit import Fit

MEANS, STDS = torch.tensor([[0.8, 0.2], [-0.6, -0.4]]), torch.tensor([0.15, 0.3])
NULL = 2
LOSS = velocity_objective(stratified(uniform), squared)
CPU = torch.device("cpu")


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


class TwoClasses:
    """Two labelled Gaussians with fresh noise."""

    def draw(self, examples: NDArray[np.int64], draws: Draws) -> Pair:  # noqa: ARG002
        label = (draws.uniform() < 0.5).long()
        x0, x1 = draws.normal((2,)), draws.normal((2,))
        return Pair(x0, MEANS[label] + STDS[label][:, None] * x1, label)


@dataclass
class Looking:
    """An objective that keeps the pairs that it was given."""

    seen: list[Pair] = field(default_factory=list)

    def __call__(self, net: VelocityField, pair: Pair, draws: Draws) -> Losses:  # noqa: ARG002
        self.seen.append(pair)
        return Losses(pair.x0.sum(1))


def nothing(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:  # noqa: ARG001
    return torch.zeros_like(x)


def fit_settings(**chosen: object) -> VelocityFitSettings:
    usual = {
        "steps": 400,
        "batch": 256,
        "lr": 5e-3,
        "warmup": 30,
        "schedule": "cosine",
        "ema_halflife": 30.0,
    }
    return VelocityFitSettings.model_validate(usual | chosen)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_labels_are_dropped_sample_by_sample_with_the_odds_asked_for(share: float) -> None:
    n, batches = 50, 400
    looking, source = Looking(), rng()
    objective = drop_labels(looking, share, null_label=7)
    for _ in range(batches):
        objective(
            nothing, Pair(torch.zeros(n, 2), torch.zeros(n, 2), torch.arange(n) % 7), batch_of(n, source)
        )
    dropped = torch.stack([pair.label == 7 for pair in looking.seen if pair.label is not None]).double()
    assert len(dropped) == batches
    # Standard deviations of binomial laws, times four; the seed is fixed.
    assert abs(float(dropped.mean()) - share) < 4 * math.sqrt(share * (1 - share) / dropped.numel())
    # Within a batch samples are independent: the counts have the variance of a binomial law.
    counts = dropped.sum(1)
    variance = n * share * (1 - share)
    assert abs(float(counts.var()) / variance - 1) < 4 * math.sqrt(2 / batches)
    # No place in the batch is preferred.
    assert float((dropped.mean(0) - share).abs().max()) < 4 * math.sqrt(share * (1 - share) / batches)


def test_only_labels_change() -> None:
    pair = examples(TwoClasses(), 0, 1000, rng())
    looking = Looking()
    drop_labels(looking, 0.3, NULL)(nothing, pair, batch_of(1000, rng(1)))
    (found,) = looking.seen
    assert found.label is not None
    assert pair.label is not None
    kept = found.label != NULL
    assert 0 < int(kept.sum()) < 1000
    assert torch.equal(found.label[kept], pair.label[kept])
    assert torch.equal(found.x0, pair.x0)
    assert torch.equal(found.x1, pair.x1)
    assert NULL not in pair.label  # the caller's pair stays as it was


def test_dropping_depends_on_the_steps_generator_alone() -> None:
    """So that a resumed training repeats the undisturbed one."""
    pair, found = examples(TwoClasses(), 0, 100, rng()), []
    for seed, elsewhere in ((0, 1), (0, 2), (3, 1)):
        torch.manual_seed(elsewhere)
        looking = Looking()
        drop_labels(looking, 0.5, NULL)(nothing, pair, batch_of(100, rng(seed)))
        assert looking.seen[0].label is not None
        found.append(looking.seen[0].label.tolist())
    assert found[0] == found[1] != found[2]


def test_without_dropout_training_draws_what_it_always_drew() -> None:
    pair = examples(TwoClasses(), 0, 100, rng())
    plain, settled = rng(5), rng(5)
    wanted = LOSS(gaussian(MEANS[0], STDS[0]), pair, batch_of(100, plain)).each
    for null_label in (None, NULL):
        settled = rng(5)
        found = objective_of(fit_settings(), null_label)(
            gaussian(MEANS[0], STDS[0]), pair, batch_of(100, settled)
        ).each
        assert torch.equal(found, wanted)
        assert torch.equal(settled.get_state(), plain.get_state())


def trained(share: float) -> nn.Module:
    """Return the averaged network after a short training on both classes."""
    torch.manual_seed(0)
    settings = fit_settings(label_dropout=share)
    net = build(MlpSettings(kind="mlp", width=32, blocks=2, sigma_data=0.7), (2,), 2, unconditional=True)
    average = copy.deepcopy(net).requires_grad_(False)
    objective = objective_of(settings, NULL)
    fit = Fit(net, average, TwoClasses(), objective, settings, seed=0, stream="test", device=CPU)
    for _ in range(settings.steps):
        fit.advance()
    return fit.average


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def test_the_null_label_learns_the_mixture_and_labels_their_class() -> None:
    n = 4000
    x0, x1, label = examples(TwoClasses(), 0, n, rng(99))
    t = 0.05 + 0.9 * torch.rand(n, generator=rng(98))
    xt = interpolate(x0, x1, t)
    net, ignorant = trained(0.3), trained(0.0)
    null = torch.full((n,), NULL)
    of_all = mixture(torch.full((2,), 0.5), MEANS, STDS)(xt, t)
    # The velocity has an RMS of 0.78. Measured over three seeds: 0.09 to 0.11; untrained 0.86 to 0.95.
    assert rms(net(xt, t, null) - of_all) < 0.2
    assert rms(ignorant(xt, t, null) - of_all) > 0.5
    for k in (0, 1):
        of_class = gaussian(MEANS[k], STDS[k].expand(2))(xt, t)
        mine = label == k
        assert rms((net(xt, t, torch.full((n,), k)) - of_class)[mine]) < 0.2  # measured: 0.05 to 0.09
        # Measured over three seeds: 0.96 to 1.17.
        assert rms(net(xt, t, null) - net(xt, t, torch.full((n,), k))) > 0.5


LABELS = ("--set", "data.labels=true")
DROP = ("--set", "train.label_dropout=0.3")
QUICK = tuple(part for stage in ("train", "reflow", "distill") for part in ("--set", f"{stage}.steps=3"))


def null_vector(path: Path) -> Tensor:
    vector: Tensor = load_model(path).net.network.embedding.classes.weight[10]
    return vector


def test_the_null_label_stays_with_a_model_through_all_stages(reflow: Command, tmp_path: Path) -> None:
    base, pairs, again, student = (tmp_path / name for name in ("base", "pairs", "reflow", "distill"))
    more = ("--set", "reflow.label_dropout=0.2")
    commands: list[tuple[object, ...]] = [
        ("train", TINY, "--out", base, *LABELS, *DROP, *QUICK),
        ("couple", base, "--out", pairs),
        ("train", "--pairs", pairs, "--init", base, "--out", again, *more),
        ("distill", again, "--pairs", pairs, "--out", student),
    ]
    for command in commands:
        answer = reflow(*command)
        assert answer.code == 0, answer.err
    for path, share in ((base, 0.3), (again, 0.2), (student, 0.0)):
        model = load_model(path)
        assert (model.classes, model.null_label, model.label_dropout) == (10, 10, share)
        assert model.header.facts["unconditional"] is True
        assert tuple(model.net.network.embedding.classes.weight.shape) == (11, 32)
        assert model.header.facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    guidance, rough = GuidanceSettings(guidance=3.0), tmp_path / "rough"
    x, t = torch.randn(10, 1, 8, 8, generator=rng()), torch.full((10,), 0.5)
    label, null = torch.arange(10), torch.full((10,), 10)
    for path in (base, again):
        model = load_model(path)
        wanted = model(x, t, null) + 3 * (model(x, t, label) - model(x, t, null))
        # Rounding of float32 in batches of another size.
        torch.testing.assert_close(guided(model, guidance)(x, t, label), wanted, rtol=0, atol=1e-5)
    assert reflow("train", "--pairs", pairs, "--init", base, "--out", rough).code == 0
    torch.manual_seed(draw_seed(0, "weights"))
    start = build(read_recipe(str(TINY)).model, (1, 8, 8), 10, unconditional=True)
    # Adam leaves a vector alone that no sample uses: it moves in the stages that drop labels only.
    assert not torch.equal(null_vector(base), start.network.embedding.classes.weight[10])
    assert not torch.equal(null_vector(again), null_vector(base))
    assert torch.equal(null_vector(rough), null_vector(base))
    assert torch.equal(null_vector(student), null_vector(again))
    for path in (rough, student):
        with pytest.raises(ReflowError, match="last stage did not train"):
            guided(load_model(path), guidance)


def test_without_dropout_headers_are_as_they_always_were(reflow: Command, tmp_path: Path) -> None:
    assert reflow("train", TINY, "--out", tmp_path / "a", *LABELS, *QUICK).code == 0
    off = ("--set", "train.label_dropout=0.0")
    assert reflow("train", TINY, "--out", tmp_path / "b", *LABELS, *QUICK, *off).code == 0
    files = [tmp_path / name / "model.safetensors" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    header = read_header(files[0]).to_json()
    assert "label_dropout" not in header
    assert "unconditional" not in header
    assert "guidance" not in header
    model = load_model(tmp_path / "a")
    assert (model.classes, model.null_label, model.label_dropout) == (10, None, 0.0)
    assert tuple(model.net.network.embedding.classes.weight.shape) == (10, 32)


def test_a_header_that_claims_a_null_label_falsely_is_noticed(reflow: Command, tmp_path: Path) -> None:
    assert reflow("train", TINY, "--out", tmp_path, *LABELS, *DROP, *QUICK).code == 0
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'\\"unconditional\\":true', b'\\"unconditional\\":null'))
    with pytest.raises(ReflowError, match="is damaged: its header does not match its digest"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (DROP, "train.label_dropout = 0.3 needs labels; set data.labels = true"),
        (("--set", "reflow.label_dropout=0.2"), "reflow.label_dropout = 0.2 needs labels"),
        (
            (*LABELS, "--set", "reflow.label_dropout=0.2"),
            "needs a base model that was trained with train",
        ),
        ((*LABELS, "--set", "train.label_dropout=1.0"), "train.label_dropout = 1.0"),
        ((*LABELS, "--set", "train.label_dropout=-0.1"), "train.label_dropout = -0.1"),
    ],
)
def test_recipes_that_could_not_drop_labels_are_refused(
    reflow: Command, tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    answer = reflow("train", TINY, "--out", tmp_path / "base", *changes)
    assert answer.code == 2
    assert message in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "base").exists()


def test_reflow_drops_no_labels_for_a_model_without_a_null_label(reflow: Command, tmp_path: Path) -> None:
    base, pairs, out = tmp_path / "base", tmp_path / "pairs", tmp_path / "reflow"
    assert reflow("train", TINY, "--out", base, *LABELS, *QUICK).code == 0
    assert reflow("couple", base, "--out", pairs).code == 0
    change = ("--set", "reflow.label_dropout=0.2")
    for more in ((), DROP):  # also when the recipe pretends that the base model dropped labels
        answer = reflow("train", "--pairs", pairs, "--init", base, "--out", out, *change, *more)
        assert answer.code == (1 if more else 2)  # the model's fault, or that of --set alone
        assert "label_dropout = 0.2 needs a" in answer.err
        assert len(answer.err.strip().splitlines()) == 1
        assert not out.exists()
