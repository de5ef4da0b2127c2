"""What a recipe costs, against counts by hand, other counters and what runs really spent."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TINY, Command, one_line
from fields import batch_of
from fits import rng
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from reflow.artifacts import PAIRS, read_header, tensor_layout
from reflow.cost import bytes_of, cost_of, network_of, nfe_of, samples_of
from reflow.data import BUILT_IN, SETS, fashion, open_data
from reflow.errors import ReflowError
from reflow.flow import Pair, VelocityField
from reflow.models import build
from reflow.models.checkpointing import checkpoint_activations
from reflow.objectives.distances import squared
from reflow.objectives.distillation import STUDENTS
from reflow.pairs.store import read_index
from reflow.recipes.choices import FIXED_SOLVERS
from reflow.recipes.network import DitSettings, MlpSettings, UnetSettings
from reflow.recipes.read import built_in_recipes, parse_overrides, read_recipe
from reflow.recipes.recipe import CoupleSettings, DataSettings
from reflow.solvers import integrate

UNET = UnetSettings(kind="unet", channels=16, multipliers=(1, 2), blocks=1, attention=(4,), patch=2)


def block(inputs: int, outputs: int, features: int, pixels: int, *, attention: bool) -> int:
    """Return the multiply-adds of a residual block of the U-Net."""
    convolutions = 9 * (inputs + outputs) * outputs * pixels
    skip = inputs * outputs * pixels * (inputs != outputs)
    mixing = 4 * outputs**2 * pixels + 2 * pixels**2 * outputs  # 1 x 1 convolutions; scores and sums
    return convolutions + skip + 2 * features * outputs + mixing * attention


def test_multiply_adds_of_a_unet_are_those_counted_by_hand() -> None:
    colours, c, f = 3 * 4, 16, 64  # of 16 x 16 pixels in patches of 2: 8 x 8, then 4 x 4 with attention
    fine, coarse = 64, 16
    by_hand = 2 * f * f + 9 * colours * c * fine  # embedding; the first convolution
    by_hand += block(c, c, f, fine, attention=False) + 9 * c * c * coarse  # down, and a stride of 2
    by_hand += block(c, 2 * c, f, coarse, attention=True)
    by_hand += block(2 * c, 2 * c, f, coarse, attention=True)  # in the middle
    by_hand += block(4 * c, 2 * c, f, coarse, attention=True)
    by_hand += block(3 * c, 2 * c, f, coarse, attention=True)
    by_hand += 16 * (2 * c) ** 2 * coarse  # enlarging: four by four weights on each coarse pixel
    by_hand += block(3 * c, c, f, fine, attention=False) + block(2 * c, c, f, fine, attention=False)
    by_hand += 9 * c * colours * fine
    found = network_of(UNET, (3, 16, 16), None)
    assert found.multiply_adds == by_hand
    labelled = network_of(UNET, (3, 16, 16), 5, unconditional=True)
    assert labelled.multiply_adds == by_hand  # looking up a label multiplies nothing
    assert labelled.parameters == found.parameters + 6 * f


def test_multiply_adds_of_a_transformer_are_those_counted_by_hand() -> None:
    w, depth, n, pixels = 24, 3, 16, 3 * 4
    each = 6 * w * w + n * (3 + 1 + 4 + 4) * w * w + 2 * n * n * w
    by_hand = 2 * w * w + 2 * n * pixels * w + depth * each + 2 * w * w
    settings = DitSettings(kind="dit", width=w, depth=depth, heads=4, patch=2)
    assert network_of(settings, (3, 8, 8), 10).multiply_adds == by_hand


def test_multiply_adds_of_an_mlp_are_its_matrices() -> None:
    settings = MlpSettings(kind="mlp", width=32, blocks=2)
    with torch.device("meta"):
        net = build(settings, (2,), None)
    matrices = sum(weight.numel() for weight in net.parameters() if weight.ndim == 2)
    assert network_of(settings, (2,), None).multiply_adds == matrices


@pytest.mark.parametrize(("recompute", "passes"), [(False, 3), (True, 4)])
def test_a_training_example_costs_three_evaluations_and_four_with_recompute(
    recompute: bool, passes: int
) -> None:
    recipe = read_recipe(
        "cifar10",
        parse_overrides(["train.steps=1", "train.batch=2", f"train.recompute={recompute}".lower()]),
    )
    cost = cost_of(recipe)
    assert cost.stages[0].evaluations == 2 * passes
    with torch.device("meta"):
        net = build(recipe.model, (3, 32, 32), None)
        if recompute:
            checkpoint_activations(net)
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(2, 3, 32, 32), torch.empty(2)).square().mean().backward()
    counted = counter.get_total_flops() / (2 * cost.network.multiply_adds)
    # The samples need no gradient; of the last layer of a block no features are needed again.
    assert counted == pytest.approx(2 * passes, rel=0.05)


def test_examples_pairs_and_hours_follow_the_settings() -> None:
    changes = ["distill.objective=regress", "distill.student_steps=3", "couple.count=7"]
    cost = cost_of(read_recipe("digits", parse_overrides(changes)))
    train, couple, reflow, distill = cost.stages
    assert (train.examples, train.evaluations) == (1500 * 128, 3 * 1500 * 128)
    assert (couple.examples, couple.evaluations, cost.nfe_assumed) == (7, 7 * 25, True)
    assert (reflow.examples, reflow.evaluations) == (800 * 128, 3 * 800 * 128)
    assert (distill.examples, distill.evaluations) == (400 * 128, 9 * 400 * 128)
    assert cost.evaluations == sum(stage.evaluations for stage in cost.stages)
    flop = 2.0 * cost.network.multiply_adds * cost.evaluations
    assert cost.gflop(cost.evaluations) == pytest.approx(flop / 1e9, rel=1e-12)
    assert cost.hours(cost.evaluations, 0.1) == pytest.approx(flop / 1e11 / 3600, rel=1e-12)


@pytest.mark.parametrize("solver", FIXED_SOLVERS)
def test_the_evaluations_of_a_fixed_grid_are_those_counted(solver: Any) -> None:
    solution = integrate(lambda x, t, label=None: -x, torch.ones(2, 3), solver=solver, steps=5)  # noqa: ARG005
    couple = CoupleSettings(count=1, solver=solver, steps=5)
    assert nfe_of(couple) == solution.nfe.max()
    assert nfe_of(couple.model_copy(update={"guidance": 2.0})) == 2 * nfe_of(couple)
    assert nfe_of(couple.model_copy(update={"guidance": 1.0})) == nfe_of(couple)


def test_a_real_run_had_these_parameters_evaluations_and_bytes(chain: Path) -> None:
    cost = cost_of(read_recipe(str(TINY)))
    assert read_header(chain / "base" / "model.safetensors").facts["parameters"] == cost.network.parameters
    header, _ = read_index(chain / "pairs" / PAIRS)
    assert (cost.nfe, cost.nfe_assumed) == (header.facts["nfe_mean"], False)
    shards = sorted((chain / "pairs").glob("pairs-*.safetensors"))
    starts = (tensor_layout(shard)[0] for shard in shards)
    assert cost.pair_bytes == sum(shard.stat().st_size for shard in shards) - sum(starts)


def test_labels_and_shorter_images_change_the_size_of_pairs() -> None:
    recipe = read_recipe("fashion-mnist", parse_overrides(["couple.image_dtype=bfloat16"]))
    assert bytes_of(recipe.couple, samples_of(recipe.data, recipe.model)) == 28 * 28 * (4 + 2) + 8


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_sets_are_as_announced(name: str) -> None:
    if name == "fashion-mnist" and not fashion.PLACE.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    data = open_data(DataSettings(source=name), seed=0)
    assert (data.event, len(data.class_names)) == (SETS[name].event, SETS[name].classes)


def test_what_is_not_known_of_the_samples_is_assumed_or_refused() -> None:
    unet, mlp = UNET, MlpSettings(kind="mlp")
    grey = DataSettings(source="x", size=8, mode="grey")
    assert samples_of(grey, unet) == ((1, 8, 8), None, ())
    event, classes, assumed = samples_of(DataSettings(source="x", size=8, labels=True), unet)
    assert (event, classes, len(assumed)) == ((3, 8, 8), 10, 2)
    enlarged = DataSettings(source="digits", size=16, mode="rgb", labels=True)
    assert samples_of(enlarged, unet) == ((3, 16, 16), 10, ())
    assert samples_of(DataSettings(source="two-moons", labels=True), mlp) == ((2,), 2, ())
    for model, word in ((unet, r"data\.size"), (mlp, "vectors")):
        with pytest.raises(ReflowError, match=word):
            samples_of(DataSettings(source="x"), model)


def test_inspect_estimates_a_recipe_with_other_settings(reflow: Command) -> None:
    answer = json.loads(reflow("inspect", "digits", "--json", "--rate", 2, "--set", "train.steps=3").out)
    cost, known = answer["cost"], cost_of(read_recipe("digits", parse_overrides(["train.steps=3"])))
    assert answer["recipe"]["train"]["steps"] == 3
    assert (cost["event"], cost["multiply_adds"]) == ([1, 8, 8], known.network.multiply_adds)
    assert cost["stages"]["train"]["examples"] == 3 * 128
    assert cost["hours"] == known.hours(known.evaluations, 2)
    assert (cost["rate_tflops"], cost["assumed"]) == (2, ["nfe"])
    text = reflow("inspect", "digits", "--set", "couple.steps=9", "--set", "couple.solver=heun").out
    for words in ("609,601", "12.6 M", "18 evaluations each\n", "at 0.1 TFLOP/s", "train.steps"):
        assert words in text
    assert "assumed; with a tolerance" in reflow("inspect", "digits").out


@pytest.mark.parametrize("name", built_in_recipes())
def test_without_a_rate_hours_are_those_of_what_the_recipe_is_for(reflow: Command, name: str) -> None:
    """Two cores trained the digits at 1,384 images/s (README.md), an image being three evaluations."""
    usual = json.loads(reflow("inspect", name, "--json").out)["cost"]
    if name in ("cifar10", "images64"):  # for GPUs, as their comments say
        assert usual["rate_tflops"] == 50
    else:
        assert usual["rate_tflops"] == pytest.approx(1384 * 6 * 12_562_432 / 1e12, rel=0.1)
    assert "no --rate" in reflow("inspect", name).out
    assert "no --rate" not in reflow("inspect", name, "--rate", 3).out


def test_inspect_says_what_it_cannot_know(reflow: Command) -> None:
    own = ("inspect", "digits", "--set", "data.source=files")
    assert "cost: unknown; the size of the images" in reflow(*own).out
    answer = json.loads(reflow(*own, "--json").out)
    assert answer["cost"] is None
    assert "data.size" in answer["cost_unknown"]
    assert "3 channels" in reflow(*own, "--set", "data.size=8").out


def test_inspect_refuses_what_an_artifact_cannot_answer(reflow: Command, chain: Path) -> None:
    for option in (("--rate", 3), ("--set", "seed=1")):
        assert "are for recipes" in one_line(reflow("inspect", chain, *option), code=2)
    assert "above 0" in one_line(reflow("inspect", "digits", "--rate", 0), code=2)


@pytest.mark.parametrize(
    ("objective", "evaluations"), [("regress", 3), ("consistency", 6), ("meanflow", 6)]
)
def test_a_students_example_costs_what_is_called_for_it(objective: str, evaluations: int) -> None:
    """Counted by running the objective: a gradient is two evaluations, a derivative in it one."""
    calls: list[str] = []

    def watched(name: str) -> VelocityField:
        def field(x: Tensor, t: Tensor, label: Tensor | None = None, *end_time: Tensor) -> Tensor:  # noqa: ARG001
            derived = torch.autograd.forward_ad.unpack_dual(x).tangent is not None
            calls.extend([name] * (2 if derived else 3 if torch.is_grad_enabled() else 1))
            return x * t[:, None]

        return field

    settings = read_recipe("digits", parse_overrides([f"distill.objective={objective}"])).distill
    x0 = torch.zeros(4, 2)
    student = STUDENTS[objective].objective(settings, watched("teacher"), squared)
    student(watched("student"), Pair(x0, x0), batch_of(4, rng()))
    assert len(calls) == evaluations
    recipe = read_recipe("digits", parse_overrides([f"distill.objective={objective}"]))
    distill = cost_of(recipe).stages[-1]
    assert distill.evaluations == evaluations * distill.examples
