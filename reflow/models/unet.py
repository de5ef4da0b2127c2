"""A U-Net for images: x (B, C, H, W), level (B,), label (B,) or None, span (B,) or None.

Residual blocks of two 3 x 3 convolutions with scale and shift from the time features, self-attention
at chosen resolutions, strided convolutions down, nearest-neighbour up, and skip connections joined by
concatenation. With a patch of p pixels all this happens on (C p p, H / p, W / p): the pixels of each
patch become channels (Hoogeboom et al. 2023, arXiv:2301.11093). Weights, and so features, are
channels_last. On a CPU a pass over memory costs as much as a small convolution, so passes are saved
where that changes nothing but rounding.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reflow.models.embedding import Embedding, zero

HEAD = 32  # channels per attention head
GROUP = 8  # smallest number of channels that are normalised together


class GroupNorm(nn.GroupNorm):
    """Torch's group norm, whose forward-mode derivative takes no channels_last features."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features, shaped and, as dropout goes through memory, laid out like x."""
        tangent = torch.autograd.forward_ad.unpack_dual(x).tangent  # type: ignore[no-untyped-call]
        if tangent is None or x.is_contiguous():
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def norm(channels: int) -> GroupNorm:
    """Return a group norm of at most 32 groups of at least GROUP channels."""
    groups = max(1, min(32, channels // GROUP))
    while channels % groups:
        groups -= 1
    return GroupNorm(groups, channels)


def activate(x: Tensor) -> Tensor:
    """Return SiLU of x, which must not be used again: without gradients it is overwritten."""
    return F.silu(x, inplace=not x.requires_grad)


class Upsample(nn.Conv2d):
    """A 3 x 3 convolution of its input enlarged to twice its height and width (nearest neighbour).

    Each of the four pixels made of one sees some of the nine weights on the same pixel. Adding these up
    first, for a transposed convolution of stride 2, saves 5/9 of the multiply-adds.
    """

    sums: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        along = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        self.register_buffer("sums", torch.kron(along, along), persistent=False)  # (16, 9)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, 2 H, 2 W)."""
        kernel = F.linear(self.weight.flatten(2), self.sums).reshape(*self.weight.shape[:2], 4, 4)
        enlarged = F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2, padding=1)
        assert self.bias is not None
        return enlarged.add_(self.bias[:, None, None])  # inside, oneDNN's gradient is 3 times slower


class Attention(nn.Module):
    """Self-attention over all pixels, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD)
        while channels % self.heads:
            self.heads -= 1
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus what each pixel gathered from the others."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, pixels, d)
        gathered = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = x + self.project(gathered.transpose(-1, -2).reshape(b, c, h, w))
        return mixed


class Block(nn.Module):
    """A residual block, with attention after it where asked for."""

    def __init__(
        self, inputs: int, outputs: int, features: int, *, dropout: float, attention: bool
    ) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulate = nn.Linear(features, 2 * outputs)
        self.norm2 = norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.attention = Attention(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return (B, outputs, H, W)."""
        scale, shift = self.modulate(features)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv1(activate(self.norm1(x)))
        hidden = activate(torch.addcmul(shift, self.norm2(hidden), scale + 1))
        hidden = self.conv2(self.dropout(hidden))
        attended: Tensor = self.attention(hidden.add_(self.skip(x)))
        return attended


class Unet(nn.Module):
    """The network; its last convolution starts at zero, so the first guess is the linear one."""

    def __init__(
        self,
        event: tuple[int, int, int],
        *,
        channels: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        patch: int = 1,
        dropout: float,
        labels: int | None,
        spans: bool = False,
    ) -> None:
        super().__init__()
        image_channels, height = event[0] * patch**2, event[1] // patch
        features = 4 * channels
        self.patch = patch
        self.embedding = Embedding(features, labels, spans=spans)
        self.enter = nn.Conv2d(image_channels, channels, 3, padding=1)

        def block(inputs: int, outputs: int, level: int) -> Block:
            attended = height >> level in attention
            return Block(inputs, outputs, features, dropout=dropout, attention=attended)

        widths = [channels * multiplier for multiplier in multipliers]
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        skips, width = [channels], channels
        for level, outputs in enumerate(widths):
            for _ in range(blocks):
                self.down.append(block(width, outputs, level))
                width = outputs
                skips.append(width)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = block(width, width, len(widths) - 1)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, outputs in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(block(width + skips.pop(), outputs, level))
                width = outputs
            if level:
                self.grow.append(Upsample(width, width))
        self.norm = norm(width)
        self.leave = zero(nn.Conv2d(width, image_channels, 3, padding=1))
        self.blocks = blocks

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None, span: Tensor | None = None) -> Tensor:
        """Return F (B, C, H, W)."""
        features = self.embedding(level, label, span)
        x = self.enter(F.pixel_unshuffle(x, self.patch))
        skips = [x]
        for index, block in enumerate(self.down):
            x = block(x, features)
            skips.append(x)
            finished, rest = divmod(index + 1, self.blocks)
            if not rest and finished <= len(self.shrink):
                x = self.shrink[finished - 1](x)
                skips.append(x)
        x = self.middle(x, features)
        for index, block in enumerate(self.up):
            x = block(torch.cat([x, skips.pop()], dim=1), features)
            finished, rest = divmod(index + 1, self.blocks + 1)
            if not rest and finished <= len(self.grow):
                x = self.grow[finished - 1](x)
        residual: Tensor = self.leave(activate(self.norm(x)))
        return F.pixel_shuffle(residual, self.patch)

    def units(self) -> list[nn.Module]:
        """Return the blocks in order, for what is done to a network piece by piece."""
        return [*self.down, self.middle, *self.up]
