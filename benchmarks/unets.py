"""U-Nets of other libraries with as many parameters and multiply-adds as ours, none with attention.

Each network here takes (x, t). Costs are counted by torch's FlopCounterMode, forward and backward. Ours
is compared as its definition says: enlarging, then convolving. It computes the same with fewer operations.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchcfm.models.unet import UNetModel

from reflow.models.unet import Upsample

Event = tuple[int, int, int]
COUNTED = 128  # images
TOLERATED = 0.03  # relative difference of parameters, and of operations


class Cost(NamedTuple):
    """Parameters, and operations (two per multiply-add) of one image, forward and backward."""

    parameters: int
    operations: int


class Shape(NamedTuple):
    """Channels per level, and residual blocks per level each way."""

    widths: tuple[int, ...]
    blocks: int


class TorchCfm(nn.Module):
    """torchcfm's UNetModel, its attention in the middle taken out."""

    def __init__(self, event: Event, shape: Shape) -> None:
        super().__init__()
        first = shape.widths[0]
        multipliers = [width // first for width in shape.widths]
        nowhere = str(2 * event[1])  # a resolution that the network does not have
        self.net = UNetModel(
            event,
            num_channels=first,
            num_res_blocks=shape.blocks,
            channel_mult=multipliers,
            attention_resolutions=nowhere,
        )
        self.net.middle_block[1] = nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        velocity: Tensor = self.net(t, x)
        return velocity


class Diffusers(nn.Module):
    """diffusers' UNet2DModel of blocks without attention."""

    def __init__(self, event: Event, shape: Shape) -> None:
        super().__init__()
        levels = len(shape.widths)
        self.net = UNet2DModel(
            sample_size=event[1:],
            in_channels=event[0],
            out_channels=event[0],
            layers_per_block=shape.blocks,
            block_out_channels=shape.widths,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            add_attention=False,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        velocity: Tensor = self.net(x, t).sample
        return velocity


Family = Callable[[Event, Shape], nn.Module]

FAMILIES: dict[str, Family] = {"torchcfm UNetModel": TorchCfm, "diffusers UNet2DModel": Diffusers}
SHAPES = [  # both normalise 32 groups, so widths are multiples of 32; torchcfm's also of the first one
    Shape((32, 32 * second, 32 * third), blocks)
    for second, third, blocks in itertools.product((1, 2, 3), (1, 2, 3, 4), (1, 2))
]


def cost(net: nn.Module, event: Event) -> Cost:
    """Return what the network costs, by running it on a device without values."""
    net = copy.deepcopy(net).to("meta")
    with FlopCounterMode(display=False) as counter:
        x = torch.empty(COUNTED, *event, device="meta")
        net(x, torch.empty(COUNTED, device="meta")).sum().backward()
    return Cost(
        sum(weight.numel() for weight in net.parameters()), round(counter.get_total_flops() / COUNTED)
    )


@contextmanager
def as_defined() -> Iterator[None]:
    """Let our U-Net enlarge and convolve, as its definition says."""

    def forward(layer: Upsample, x: Tensor) -> Tensor:
        doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.conv2d(doubled, layer.weight, layer.bias, padding=1)

    short, Upsample.forward = Upsample.forward, forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        Upsample.forward = short  # type: ignore[method-assign]


def distance(one: Cost, other: Cost) -> float:
    """Return the largest relative difference of two costs."""
    return max(abs(a / b - 1) for a, b in zip(one, other, strict=True))


def equal(family: Family, event: Event, wanted: Cost) -> Shape:
    """Return the shape of a family's network whose cost is the one wanted.

    Raises ValueError where none comes near.
    """
    found = {shape: distance(cost(family(event, shape), event), wanted) for shape in SHAPES}
    best = min(found, key=lambda shape: found[shape])
    if found[best] > TOLERATED:
        raise ValueError(f"the nearest network, {best}, differs by {found[best]:.1%}")
    return best
