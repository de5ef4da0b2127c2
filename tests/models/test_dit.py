"""The diffusion transformer: its parts in closed form, its sizes, what it refuses, the whole chain."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from commands import TINY, Command
from networks import awake, either
from safetensors.torch import load_file
from torch import Tensor, nn

from reflow import load_model
from reflow.errors import ReflowError
from reflow.models import build
from reflow.models.dit import DitBlock, positions
from reflow.recipes.read import parse_overrides, read_recipe
from reflow.recipes.recipe import DitSettings

KIND = ("model.kind=dit", "model.channels=none", "model.multipliers=none")
SHAPE = ("model.width=16", "model.depth=2", "model.heads=2")
PATCH, COLUMNS = 2, 3  # of the transformer of `either`, on images of 4 x 6 pixels


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=rng())


def transformer(**changed: Any) -> tuple[nn.Module, Tensor, Tensor]:
    """Return F itself in float64, as after a first step, with images and noise levels for it."""
    net, x = either("dit", **changed)
    return awake(net).network, x, drawn(len(x))


def patch_of(x: Tensor, number: int) -> Tensor:
    """Return a view of one patch, counted row after row."""
    row, column = divmod(number, COLUMNS)
    return x[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]


def permuted(x: Tensor, order: list[int]) -> Tensor:
    result = x.clone()
    for place, number in enumerate(order):
        patch_of(result, place).copy_(patch_of(x, number))
    return result


def test_places_are_coded_by_sines_and_cosines_of_row_and_column() -> None:
    rows, columns, width = 3, 5, 12
    table = positions(rows, columns, width)
    assert table.shape == (rows * columns, width)
    for row in range(rows):
        for column in range(columns):
            wanted = [
                wave(number / 10_000 ** (index / 3))
                for number in (row, column)
                for wave in (math.sin, math.cos)
                for index in range(3)
            ]
            assert table[row * columns + column].tolist() == pytest.approx(wanted, abs=1e-7)  # float32


def test_a_block_is_the_pre_norm_encoder_layer_of_torch_with_its_modulation_absorbed() -> None:
    """Scale and shift are the norms' weight and bias there, the gate multiplies the last weights."""
    width, heads = 24, 3
    torch.manual_seed(0)
    block = DitBlock(width, heads, dropout=0.0).double()
    for layer in (
        block.modulate,
        block.attention.qkv,
        block.attention.project,
        block.expand,
        block.project,
    ):
        nn.init.normal_(layer.weight, std=0.3)
        nn.init.normal_(layer.bias, std=0.3)
    tokens, features = drawn(3, 10, width), drawn(3, width)
    found = block(tokens, features)
    for sample in range(3):
        shift1, scale1, gate1, shift2, scale2, gate2 = block.modulate(features[sample]).chunk(6)
        reference = nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            dropout=0.0,
            activation=partial(F.gelu, approximate="tanh"),
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
            dtype=torch.float64,
        )
        attention = block.attention
        reference.load_state_dict(
            {
                "norm1.weight": 1 + scale1,
                "norm1.bias": shift1,
                "self_attn.in_proj_weight": attention.qkv.weight,
                "self_attn.in_proj_bias": attention.qkv.bias,
                "self_attn.out_proj.weight": gate1[:, None] * attention.project.weight,
                "self_attn.out_proj.bias": gate1 * attention.project.bias,
                "norm2.weight": 1 + scale2,
                "norm2.bias": shift2,
                "linear1.weight": block.expand.weight,
                "linear1.bias": block.expand.bias,
                "linear2.weight": gate2[:, None] * block.project.weight,
                "linear2.bias": gate2 * block.project.bias,
            }
        )
        wanted = reference(tokens[sample : sample + 1])[0]
        torch.testing.assert_close(found[sample], wanted, rtol=1e-11, atol=1e-11)  # rounding of float64


def test_a_fresh_transformer_is_zero_and_its_blocks_are_the_identity() -> None:
    net, x = either("dit", classes=3)
    network = net.network
    assert torch.equal(network(x, drawn(4), torch.tensor([0, 1, 2, 0])), torch.zeros_like(x))
    tokens = drawn(4, 6, 24)
    for block in network.units():
        assert torch.equal(block(tokens, drawn(4, 24)), tokens)


def test_without_its_places_the_transformer_permutes_with_the_patches() -> None:
    network, x, level = transformer()
    order = [4, 0, 5, 3, 1, 2]
    moved, still = network(permuted(x, order), level, None), network(x, level, None)
    assert not torch.allclose(moved, permuted(still, order), atol=1e-3)
    network.positions.zero_()
    moved, still = network(permuted(x, order), level, None), network(x, level, None)
    torch.testing.assert_close(moved, permuted(still, order), rtol=1e-11, atol=1e-11)  # rounding


@pytest.mark.parametrize("number", [0, 2, 4])
def test_without_its_blocks_the_transformer_maps_each_patch_to_itself(number: int) -> None:
    network, x, level = transformer()
    network.blocks = nn.ModuleList()
    before = network(x, level, None)
    patch_of(x, number).add_(1)
    changed = network(x, level, None) != before
    assert bool(patch_of(changed, number).all())
    patch_of(changed, number).fill_(False)
    assert not bool(changed.any())


def test_the_sizes_have_the_published_numbers_of_parameters() -> None:
    """Peebles & Xie 2023, table 1; 675,129,632 is what their code reports for XL/2.

    Theirs has a first layer of 256 inputs in the embedding of time and predicts a variance for each of
    the four channels; the fixed table of places is among their parameters and not among ours.
    """
    published = {"S": (33, 6), "B": (130, 12), "L": (458, 16), "XL": (675, 16)}  # millions, heads
    for size, (millions, heads) in published.items():
        settings = DitSettings.model_validate({"kind": "dit", "size": size})
        with torch.device("meta"):
            net = build(settings, (4, 32, 32), 1000, unconditional=True)
        width = settings.shape.width
        assert settings.shape.heads == heads
        ours = sum(weight.numel() for weight in net.parameters())
        theirs = ours + (256 - width) * width + 4 * 4 * (width + 1)
        assert round(theirs / 1e6) == millions
        assert abs(ours / theirs - 1) < 0.004
    assert theirs + 16 * 16 * width == 675_129_632


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("model.size=S", "model.width=8"),
            "model: size = S sets the width, too; leave out one of the two",
        ),
        (("model.size=XL", "model.heads=8"), "model: size = XL sets the heads, too"),
        ((), r"model: give width, depth and heads, or only a size \(S, B, L, XL\)"),
        (("model.width=8", "model.heads=2"), "model: give depth, or only a size"),
        (("model.depth=2",), "model: give width and heads, or only a size"),
        ((*SHAPE, "model.heads=3"), "model: heads = 3 do not divide width = 16; choose a divisor"),
        ((*SHAPE, "model.width=6"), "model.width = 6: input should be a multiple of 4"),
        (("model.size=M",), 'model.size = "M"'),
        ((*SHAPE, "model.patches=2"), "unknown key model.patches; the nearest known key is model.patch"),
    ],
)
def test_shapes_that_say_too_much_or_too_little_are_refused(changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ReflowError, match=message):
        read_recipe(str(TINY), parse_overrides([*KIND, *changes]))


def test_every_setting_of_the_transformer_has_a_meaning() -> None:
    fields = DitSettings.model_fields
    assert [name for name, field in fields.items() if name != "kind" and not field.description] == []


@pytest.mark.parametrize("labelled", [False, True], ids=["plain", "labels"])
def test_the_whole_chain_runs_with_a_transformer(reflow: Command, tmp_path: Path, labelled: bool) -> None:
    changes = [*KIND, *SHAPE, "model.dropout=0.1", "couple.count=6"]
    changes += [f"{stage}.steps=2" for stage in ("train", "reflow", "distill")]
    if labelled:
        changes += ["data.labels=true", "train.label_dropout=0.2", "couple.guidance=2.0"]
    base, pairs, student = tmp_path / "base", tmp_path / "pairs", tmp_path / "distill"
    commands: list[tuple[object, ...]] = [
        ("train", TINY, "--out", base, *(part for change in changes for part in ("--set", change))),
        ("couple", base, "--out", pairs),
        ("train", "--pairs", pairs, "--init", base, "--out", tmp_path / "reflow"),
        ("distill", tmp_path / "reflow", "--pairs", pairs, "--out", student),
        ("sample", student, "--out", tmp_path / "x.safetensors", "--count", 5),
        ("inspect", base),
    ]
    for command in commands:
        answer = reflow(*command)
        assert answer.code == 0, (command, answer.err)
    model = load_model(student)
    assert (model.recipe.model.kind, model.event, model.classes) == (
        "dit",
        (1, 8, 8),
        10 if labelled else None,
    )
    assert not any("positions" in name for name in model.state_dict())  # a formula, not a weight
    drawn_images = load_file(tmp_path / "x.safetensors")["image"]
    assert drawn_images.shape == (5, 1, 8, 8)
    assert bool(drawn_images.isfinite().all())
