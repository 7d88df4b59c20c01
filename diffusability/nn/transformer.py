"""The transformer over a grid of image tokens that tokenizers and encoders share.

Learned absolute positions and 2-D rotary positions, RMSNorm, SwiGLU.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusability.nn import recomputation
from diffusability.nn.attention import Attention, Rotary
from diffusability.nn.layers import RMSNorm, SwiGLU
from diffusability.nn.positions import rotary_tables, rotate

WEIGHT_STD = 0.02


class Block(recomputation.Block):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = RMSNorm(width)
        self.mlp = SwiGLU(width)

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        """Map (B, N, width) to the same shape."""
        x = x + self.attention(self.norm1(x), rotary)  # (B, N, width)
        return x + self.mlp(self.norm2(x))  # (B, N, width)


class PositionEmbedding(nn.Module):
    """Learned absolute positions of a reference grid, interpolated to any other grid."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(1, width, grid, grid))

    def fill(self, generator: torch.Generator) -> None:
        """Draw the table from N(0, 0.02²)."""
        nn.init.normal_(self.table, std=WEIGHT_STD, generator=generator)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Return (1, h·w, width), row-major."""
        table: Tensor = self.table  # (1, width, g, g)
        if table.shape[-2:] != grid:
            table = functional.interpolate(table, size=grid, mode="bicubic", align_corners=False)
        return table.flatten(2).transpose(1, 2)


class MaskToken(nn.Module):
    """One learned vector that replaces every hidden token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(width))

    def fill(self, generator: torch.Generator) -> None:
        """Draw the vector from N(0, 0.02²)."""
        nn.init.normal_(self.value, std=WEIGHT_STD, generator=generator)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Replace tokens (B, N, width) where mask (B, N) is True."""
        return torch.where(mask.unsqueeze(-1), self.value.to(tokens.dtype), tokens)


class Transformer(nn.Module):
    """Absolute positions, a stack of blocks, and a final norm, over a grid of tokens."""

    def __init__(self, width: int, depth: int, heads: int, grid: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.positions = PositionEmbedding(width, grid)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = RMSNorm(width)

    def forward(self, tokens: Tensor, grid: tuple[int, int], kept: Tensor | None = None) -> Tensor:
        """Map tokens to the same shape.

        Args:
            tokens: (B, n, width): all h·w tokens of the grid, row by row, or the kept ones.
            grid: (h, w).
            kept: (B, n) int64, numbers of the tokens that are given; None for all of them.
        """
        absolute = self.positions(grid)  # (1, h·w, width)
        device = tokens.device
        tables = rotary_tables(grid, self.head_width, columns_first=False, device=device)
        cosine, sine = (table.to(tokens) for table in tables)  # (h·w, 1, head_width) each
        if kept is not None:
            absolute = absolute[0, kept]  # (B, n, width)
            cosine, sine = cosine[kept], sine[kept]  # (B, n, 1, head_width) each
        x = tokens + absolute  # (B, n, width)

        def rotary(heads: Tensor) -> Tensor:
            return rotate(heads, cosine, sine)

        for block in self.blocks:
            x = block(x, rotary)
        return self.norm(x)
