"""A residual network for vectors: x (B, D), level (B,), label (B,) or None, span (B,) or None."""

from torch import Tensor, nn

from reflow.models.embedding import Embedding


class MlpBlock(nn.Module):
    """x + W2 silu(W1 norm(x) + time features)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, width)
        self.modulate = nn.Linear(width, width)
        self.act = nn.SiLU()
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the block's output (B, width)."""
        hidden = self.expand(self.norm(x)) + self.modulate(features)
        refined: Tensor = x + self.project(self.dropout(self.act(hidden)))
        return refined


class Mlp(nn.Module):
    """The network; its last layer starts at zero, so the first guess is the linear one."""

    def __init__(
        self,
        dimension: int,
        *,
        width: int,
        blocks: int,
        dropout: float,
        labels: int | None,
        spans: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(width, labels, spans=spans)
        self.enter = nn.Linear(dimension, width)
        self.blocks = nn.ModuleList(MlpBlock(width, dropout) for _ in range(blocks))
        self.leave = nn.Linear(width, dimension)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None, span: Tensor | None = None) -> Tensor:
        """Return F (B, D)."""
        features = self.embedding(level, label, span)
        hidden = self.enter(x)
        for block in self.blocks:
            hidden = block(hidden, features)
        residual: Tensor = self.leave(hidden)
        return residual

    def units(self) -> list[nn.Module]:
        """Return the blocks in order, for what is done to a network piece by piece."""
        return list(self.blocks)
