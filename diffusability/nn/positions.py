"""Positions of tokens on a grid: sine-cosine embeddings and rotary positions, in two dimensions."""

import torch
from torch import Tensor, nn

PERIOD = 10_000.0  # longest wavelength of every sinusoid, in units of 2 pi


def axis_frequencies(count: int, device: torch.device | None = None) -> Tensor:
    """Return `count` frequencies 10000^(-i/count), float64, radians per grid cell."""
    return PERIOD ** (-torch.arange(count, dtype=torch.float64, device=device) / count)


def grid_angles(grid: tuple[int, int], frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return each token's phase along both axes of the grid.

    Args:
        grid: (rows, columns) of tokens; tokens are numbered row by row.
        frequencies: (F,) radians per grid cell.

    Returns:
        Two (rows * columns, F) tensors: row x frequency, and column x frequency.
    """
    dtype, device = frequencies.dtype, frequencies.device
    rows, columns = (torch.arange(n, dtype=dtype, device=device) for n in grid)
    row = rows.repeat_interleave(grid[1])  # (N,) 0 0 0 ... 1 1 1 ...
    column = columns.repeat(grid[0])  # (N,) 0 1 2 ... 0 1 2 ...
    return row[:, None] * frequencies, column[:, None] * frequencies


def position_embedding(grid: tuple[int, int], width: int) -> Tensor:
    """Return the fixed two-dimensional sine-cosine position embedding.

    Args:
        grid: (rows, columns) of tokens.
        width: channels of a token, a multiple of 4.

    Returns:
        (rows * columns, width): sine and cosine of the column, then of the row.
    """
    row, column = grid_angles(grid, axis_frequencies(width // 4))  # (N, width/4) each
    waves = (column.sin(), column.cos(), row.sin(), row.cos())
    return torch.cat(waves, dim=1).to(torch.get_default_dtype())


def rotary_tables(
    grid: tuple[int, int],
    head_dim: int,
    columns_first: bool,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the factors of `rotate` for every token of a grid.

    Half of a head's channel pairs rotate with the row, half with the column; pair i of an axis by
    position * 10000^(-i / pairs) (Su et al., arXiv 2104.09864, for each axis).

    Args:
        grid: (rows, columns) of tokens.
        head_dim: channels of an attention head, a multiple of 4.
        columns_first: whether the first pairs rotate with the column.
        device: on which they are computed, as a copy from the CPU would wait for a GPU.

    Returns:
        Cosines, and sines negated in the first half, each (N, 1, head_dim) float64.
    """
    frequencies = axis_frequencies(head_dim // 4, device)
    row, column = grid_angles(grid, frequencies)  # (N, head_dim/4) each
    angle = torch.cat((column, row) if columns_first else (row, column), dim=1)
    # the minus sign of the first half is stored here, so `rotate` only swaps halves
    signed = torch.cat((-angle.sin(), angle.sin()), dim=1)
    return angle.cos().repeat(1, 2)[:, None], signed[:, None]


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate channel pair (i, i + head_dim/2) of every token by its angle.

    The dot product of two rotated vectors depends only on the difference of their positions.

    Args:
        x: (B, N, heads, head_dim).
        cosine, sine: `rotary_tables`, (N, 1, head_dim) each.

    Returns:
        The shape of x; norms are unchanged.
    """
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, -1), sine)


class RotaryPosition(nn.Module):
    """Rotary positions on a fixed grid, where the first half of a head rotates with the column."""

    cos: Tensor
    sin: Tensor

    def __init__(self, grid: tuple[int, int], head_dim: int) -> None:
        super().__init__()
        self.grid, self.head_dim = grid, head_dim
        for name in ("cos", "sin"):
            empty = torch.empty(grid[0] * grid[1], 1, head_dim)
            self.register_buffer(name, empty, persistent=False)
        self.fill()

    def fill(self, _generator: torch.Generator | None = None) -> None:
        """Recompute the tables, which depend only on the grid and are not saved."""
        cosine, sine = rotary_tables(self.grid, self.head_dim, columns_first=True)
        self.cos.copy_(cosine)
        self.sin.copy_(sine)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate x (B, N, heads, head_dim) by the positions of its tokens; same shape."""
        return rotate(x, self.cos, self.sin)
