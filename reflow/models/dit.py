"""A transformer for images: x (B, C, H, W), level (B,), label (B,) or None, span (B,) or None.

The image is cut into N = (H / p) (W / p) patches of p x p pixels, which become tokens (B, N, width) with
a fixed code of their place. The blocks are told level and label through the scale and shift after each
normalisation and the gate before each sum; the layers that make these start at zero (adaLN-zero), so a
fresh block is the identity. Peebles & Xie 2023 (arXiv:2212.09748), section 3.2.

It differs from the published network in this: the features come from our Embedding, whose first layer
is as wide as its input is here (there 256), and it predicts no variance.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reflow.models.embedding import Embedding, zero

EXPANSION = 4  # hidden units per feature
LONGEST = 10_000.0  # ratio of the longest wavelength of the places to the shortest, 2 pi patches


def positions(rows: int, columns: int, width: int) -> Tensor:
    """Return a fixed code (rows * columns, width) of every place, row after row.

    Half the features are for the row, half for the column: sines, then cosines of the number times
    LONGEST^(-i / n), i = 0 to n - 1 with n = width / 4. Vaswani et al. 2017 (arXiv:1706.03762), section
    3.5, in two dimensions.
    """
    count = width // 4
    frequencies = LONGEST ** -(torch.arange(count, dtype=torch.float64) / count)

    def code(numbers: int) -> Tensor:
        angles = torch.arange(numbers, dtype=torch.float64)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (numbers, width / 2)

    down = code(rows)[:, None].expand(-1, columns, -1)
    across = code(columns)[None].expand(rows, -1, -1)
    return torch.cat([down, across], dim=2).flatten(0, 1).float()


def glorot(layer: nn.Linear) -> nn.Linear:
    """Draw the layer's weights as of Glorot & Bengio 2010, without bias, as the published ones are."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def norm(width: int) -> nn.LayerNorm:
    """Return a layer norm whose scale and shift come from elsewhere."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = glorot(nn.Linear(width, 3 * width))
        self.project = glorot(nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what each token gathers from all (B, N, width)."""
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, d)
        gathered = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.project(gathered.transpose(1, 2).flatten(2))
        return mixed


class DitBlock(nn.Module):
    """Attention, then two layers per token, each on normalised tokens and added behind a gate."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.modulate = zero(nn.Linear(width, 6 * width))
        self.norm1 = norm(width)
        self.attention = Attention(width, heads)
        self.norm2 = norm(width)
        self.expand = glorot(nn.Linear(width, EXPANSION * width))
        self.act = nn.GELU(approximate="tanh")
        self.dropout = nn.Dropout(dropout)
        self.project = glorot(nn.Linear(EXPANSION * width, width))

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Return the block's output (B, N, width) for features (B, width)."""
        modulation = self.modulate(features)[:, None].chunk(6, dim=2)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        gathered = self.attention(torch.addcmul(shift1, self.norm1(tokens), scale1 + 1))
        tokens = torch.addcmul(tokens, gate1, gathered)
        hidden = self.expand(torch.addcmul(shift2, self.norm2(tokens), scale2 + 1))
        return torch.addcmul(tokens, gate2, self.project(self.dropout(self.act(hidden))))


class Dit(nn.Module):
    """The network; its last layer starts at zero, so the first guess is the linear one."""

    positions: Tensor

    def __init__(
        self,
        event: tuple[int, int, int],
        *,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        dropout: float,
        labels: int | None,
        spans: bool = False,
    ) -> None:
        super().__init__()
        image_channels, height, breadth = event
        self.patch, self.rows, self.columns = patch, height // patch, breadth // patch
        self.embedding = Embedding(width, labels, spans=spans)
        self.enter = glorot(nn.Linear(image_channels * patch**2, width))
        self.register_buffer("positions", positions(self.rows, self.columns, width), persistent=False)
        self.blocks = nn.ModuleList(DitBlock(width, heads, dropout) for _ in range(depth))
        self.modulate = zero(nn.Linear(width, 2 * width))
        self.norm = norm(width)
        self.leave = zero(nn.Linear(width, image_channels * patch**2))

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None, span: Tensor | None = None) -> Tensor:
        """Return F (B, C, H, W)."""
        features = self.embedding(level, label, span)
        patches = F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)  # (B, N, C p p)
        tokens = self.enter(patches) + self.positions
        for block in self.blocks:
            tokens = block(tokens, features)
        shift, scale = self.modulate(features)[:, None].chunk(2, dim=2)
        patches = self.leave(torch.addcmul(shift, self.norm(tokens), scale + 1))
        image = patches.transpose(1, 2).unflatten(2, (self.rows, self.columns))
        return F.pixel_shuffle(image, self.patch)

    def units(self) -> list[nn.Module]:
        """Return the blocks in order, for what is done to a network piece by piece."""
        return list(self.blocks)
