"""Layers of the diffusion transformers: embeddings, rotary position, attention, feed-forward.

Every layer here is deterministic in its input; weights are drawn once, by the network that owns
the layer, from an explicit generator (see `transformer.LatentTransformer.initialise`).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

PERIOD = 10_000.0  # longest wavelength of every sinusoid, in units of 2 pi
NormLayer = Callable[[int], nn.Module]


class Linear(nn.Linear):
    """A linear layer whose weights stay unset until its network draws them.

    `nn.Linear` would draw from the global random state on construction.
    """

    def reset_parameters(self) -> None:
        """Draw nothing."""


def linear_parts(layer: nn.Linear, x: Tensor, parts: int) -> list[Tensor]:
    """Apply a linear layer as `parts` products, each with its own contiguous output.

    Equal to splitting the output of `layer`, and faster in training: what follows reads whole
    memory, and backward adds gradients of the narrow input instead of concatenating those of
    the wide output.

    Args:
        layer: linear map from D to parts * E.
        x: (..., D).
        parts: number of equal parts of the output.

    Returns:
        `parts` tensors (..., E).
    """
    rows = layer.out_features // parts
    weights, biases = layer.weight.split(rows), layer.bias.split(rows)
    return [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm, eps 1e-6, with its weight in the precision of the input.

    Under bfloat16 autocast a float32 weight would keep the fused kernel from being chosen.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., width) over its last axis; same shape and dtype."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Embedding(nn.Embedding):
    """A lookup table whose rows stay unset until its network draws them."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


def forward_mode_attention() -> AbstractContextManager[None]:
    """Switch attention to the kernel that has forward-mode derivatives.

    The fused kernels of `scaled_dot_product_attention` implement the backward pass only, so
    `torch.func.jvp` and double backward need the plain matrix form, which holds the N x N scores::

        with forward_mode_attention():
            value, tangent = torch.func.jvp(network, (x,), (direction,))

    Returns:
        A context manager; outside it the fastest kernel is chosen again.
    """
    return sdpa_kernel(SDPBackend.MATH)


def timestep_sinusoid(t: Tensor, dim: int) -> Tensor:
    """Return cosines and sines of t at geometrically spaced frequencies.

    Args:
        t: (B,) time in [0, 1], unscaled as in SiT.
        dim: even number of features.

    Returns:
        (B, dim): dim/2 cosines, then dim/2 sines, in the dtype of t.
    """
    half = dim // 2
    exponent = torch.arange(half, dtype=t.dtype, device=t.device) / half
    angle = t[:, None] * torch.exp(-math.log(PERIOD) * exponent)  # (B, dim/2)
    return torch.cat((angle.cos(), angle.sin()), dim=1)


class TimestepEmbedding(nn.Module):
    """Time as a vector: sinusoid, then a two-layer SiLU network."""

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.hidden = Linear(frequencies, width)
        self.out = Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """Embed t (B,) in [0, 1] as (B, width)."""
        wave = timestep_sinusoid(t, self.frequencies)  # (B, frequencies)
        return self.out(F.silu(self.hidden(wave)))  # (B, width)


def axis_frequencies(count: int) -> Tensor:
    """Return `count` frequencies 10000^(-i/count), float64, radians per grid cell."""
    return PERIOD ** (-torch.arange(count, dtype=torch.float64) / count)


def grid_angles(grid: tuple[int, int], frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return each token's phase along both axes of the grid.

    Args:
        grid: (rows, columns) of tokens; tokens are numbered row by row.
        frequencies: (F,) radians per grid cell.

    Returns:
        Two (rows * columns, F) tensors: column x frequency, and row x frequency.
    """
    rows, columns = (torch.arange(n, dtype=frequencies.dtype) for n in grid)
    column = columns.repeat(grid[0])  # (N,) 0 1 2 ... 0 1 2 ...
    row = rows.repeat_interleave(grid[1])  # (N,) 0 0 0 ... 1 1 1 ...
    return column[:, None] * frequencies, row[:, None] * frequencies


def position_embedding(grid: tuple[int, int], width: int) -> Tensor:
    """Return the fixed two-dimensional sine-cosine position embedding.

    Args:
        grid: (rows, columns) of tokens.
        width: channels of a token, a multiple of 4.

    Returns:
        (rows * columns, width): sine and cosine of the column, then of the row.
    """
    column, row = grid_angles(grid, axis_frequencies(width // 4))  # (N, width/4) each
    waves = (column.sin(), column.cos(), row.sin(), row.cos())
    return torch.cat(waves, dim=1).to(torch.get_default_dtype())


class RotaryPosition(nn.Module):
    """Two-dimensional rotary position: half of a head turns with the column, half with the row.

    Channel i of a head is paired with channel i + head_dim/2. A pair turns by an angle
    proportional to the token's position, so a dot product of two turned vectors depends on the
    difference of the positions only.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, grid: tuple[int, int], head_dim: int) -> None:
        super().__init__()
        self.grid, self.head_dim = grid, head_dim
        for name in ("cos", "sin"):
            empty = torch.empty(grid[0] * grid[1], 1, head_dim)
            self.register_buffer(name, empty, persistent=False)
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """Recompute the tables, which are functions of the grid and never stored."""
        angle = torch.cat(grid_angles(self.grid, axis_frequencies(self.head_dim // 4)), dim=1)
        self.cos.copy_(angle.cos().repeat(1, 2)[:, None])  # (N, 1, head_dim)
        # the minus of the first half stands here, so that forward only swaps halves
        self.sin.copy_(torch.cat((-angle.sin(), angle.sin()), dim=1)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Turn x (B, N, heads, head_dim) by the positions of its tokens; same shape."""
        return torch.addcmul(x * self.cos, x.roll(self.head_dim // 2, -1), self.sin)


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys and optional rotary position."""

    def __init__(self, width: int, heads: int, qk_norm: NormLayer | None) -> None:
        super().__init__()
        self.heads = heads
        head_dim = width // heads
        self.qkv = Linear(width, 3 * width)
        self.query_norm = qk_norm(head_dim) if qk_norm else nn.Identity()
        self.key_norm = qk_norm(head_dim) if qk_norm else nn.Identity()
        self.out = Linear(width, width)

    def forward(self, x: Tensor, rotary: RotaryPosition | None = None) -> Tensor:
        """Mix the tokens of x.

        Args:
            x: (B, N, D) tokens.
            rotary: turns queries and keys after their norm; None for no rotary position.

        Returns:
            (B, N, D).
        """
        query, key, value = (
            part.unflatten(-1, (self.heads, -1))  # (B, N, heads, head_dim)
            for part in linear_parts(self.qkv, x, 3)
        )
        query, key = self.query_norm(query), self.key_norm(key)
        if rotary is not None:
            query, key = rotary(query), rotary(key)
        # under autocast norms and rotary answer in float32; the fused kernels want one dtype
        query, key = query.to(value.dtype), key.to(value.dtype)
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )  # (B, heads, N, head_dim)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (B, N, D)


class MLP(nn.Module):
    """The feed-forward layer of SiT: linear, tanh-GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = Linear(width, hidden)
        self.out = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, N, D) to (B, N, D), token by token."""
        return self.out(F.gelu(self.hidden(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """The feed-forward layer of LightningDiT: SiLU(a) * b, both linear in the token."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = Linear(width, 2 * hidden)
        self.out = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, N, D) to (B, N, D), token by token."""
        gate, value = linear_parts(self.hidden, x, 2)  # (B, N, hidden) each
        return self.out(F.silu(gate) * value)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x (1 + scale) + shift, with shift and scale (B, 1, D) shared by the tokens of x."""
    return torch.addcmul(shift, x, 1 + scale)  # one pass over x instead of two


def fill_normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Draw a weight from N(0, std^2) on the generator's device; nothing on meta."""
    if not weight.is_meta:
        draw = torch.empty(weight.shape, device=generator.device)
        weight.copy_(draw.normal_(0, std, generator=generator))


def fill_xavier(weight: Tensor, generator: torch.Generator) -> None:
    """Draw a matrix, or a kernel (out, in, k, k), Xavier-uniformly; nothing on meta."""
    if not weight.is_meta:
        limit = math.sqrt(6 / (sum(weight.shape[:2]) * weight[0, 0].numel()))  # fan in + fan out
        draw = torch.empty(weight.shape, device=generator.device)
        weight.copy_(draw.uniform_(-limit, limit, generator=generator))
