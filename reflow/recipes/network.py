"""[model]: the settings of the networks, one class for each kind.

This module does not import torch.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from reflow.recipes.fields import Count, Positive, Settings


class MlpSettings(Settings):
    """[model] with kind = "mlp": a residual network for vectors."""

    kind: Literal["mlp"]
    width: Count = Field(128, description="units per layer")
    blocks: Count = Field(3, description="number of residual blocks")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of units silenced in training"
    )
    sigma_data: Positive = Field(0.5, description="standard deviation of the data")


class UnetSettings(Settings):
    """[model] with kind = "unet": a convolutional network for images."""

    kind: Literal["unet"]
    channels: Annotated[int, Field(gt=0, multiple_of=4)] = Field(
        32, description="feature channels at full resolution"
    )
    multipliers: tuple[Count, ...] = Field(
        (1, 2), min_length=1, description="channels per level, in units of `channels`"
    )
    blocks: Count = Field(1, description="residual blocks per level, each way")
    attention: tuple[Count, ...] = Field(
        (), description="resolutions with self-attention, in pixels of height (with a patch: in patches)"
    )
    patch: Count = Field(
        1,
        exclude_if=lambda side: side == 1,  # headers without it keep the bytes they always had
        description="side of the patches whose pixels the network takes as channels: 2 saves three "
        "quarters of its arithmetic and memory",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of features silenced in training"
    )
    sigma_data: Positive = Field(0.5, description="standard deviation of the data, in [-1, 1]")


class DitShape(NamedTuple):
    """What a size of transformer stands for."""

    width: int
    depth: int
    heads: int


DIT_SIZES: dict[str, DitShape] = {  # Peebles & Xie 2023 (arXiv:2212.09748), table 1
    "S": DitShape(384, 12, 6),
    "B": DitShape(768, 12, 12),
    "L": DitShape(1024, 24, 16),
    "XL": DitShape(1152, 28, 16),
}


class DitSettings(Settings):
    """[model] with kind = "dit": a transformer over the patches of images."""

    kind: Literal["dit"]
    size: Literal["S", "B", "L", "XL"] | None = Field(
        None,
        description="a published size, in place of width, depth and heads: "
        + ", ".join(f"{name} {'/'.join(map(str, shape))}" for name, shape in DIT_SIZES.items()),
    )
    width: Annotated[int, Field(gt=0, multiple_of=4)] | None = Field(None, description="features per patch")
    depth: Count | None = Field(None, description="number of transformer blocks")
    heads: Count | None = Field(None, description="attention heads, which share the width")
    patch: Count = Field(2, description="side of a patch, in pixels; it divides height and width")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of hidden units silenced in training"
    )
    sigma_data: Positive = Field(0.5, description="standard deviation of the data, in [-1, 1]")

    @property
    def shape(self) -> DitShape:
        """Width, depth and heads, given or of the size."""
        if self.size is not None:
            return DIT_SIZES[self.size]
        assert self.width is not None and self.depth is not None and self.heads is not None
        return DitShape(self.width, self.depth, self.heads)

    @model_validator(mode="after")
    def _have_one_shape(self) -> "DitSettings":
        given = [name for name in DitShape._fields if getattr(self, name) is not None]
        missing = [name for name in DitShape._fields if name not in given]
        if self.size is not None and given:
            raise ValueError(f"size = {self.size} sets the {given[0]}, too; leave out one of the two")
        if self.size is None and missing:
            wanted = "width, depth and heads" if not given else " and ".join(missing)
            raise ValueError(f"give {wanted}, or only a size ({', '.join(DIT_SIZES)})")
        if self.shape.width % self.shape.heads:
            raise ValueError(f"heads = {self.heads} do not divide width = {self.width}; choose a divisor")
        return self
