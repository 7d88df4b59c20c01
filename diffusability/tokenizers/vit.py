"""The transformer autoencoder: a ViT encoder and a ViT decoder around a grid of latents.

Network of l-DeTok (Yang et al., Latent Denoising Makes Good Visual Tokenizers, arXiv 2507.15856):
learned absolute positions and 2-D rotary positions, RMSNorm, SwiGLU, pixel-shuffle head.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusability.errors import StudyError
from diffusability.tokenizers.attention import attend
from diffusability.tokenizers.initialisation import normal_weights
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.posterior import Posterior

ROTARY_BASE = 10_000.0
WEIGHT_STD = 0.02


def rotary_angles(grid: tuple[int, int], head_width: int) -> Tensor:
    """Return the rotation angles of 2-D rotary positions.

    Half of the channel pairs of a head turn with the row, half with the column:
    angle = position · base^(-i / pairs), i = 0 … pairs - 1 (Su et al., arXiv 2104.09864, per axis).

    Args:
        grid: rows h and columns w of the tokens.
        head_width: channels of an attention head, a multiple of four.

    Returns:
        (h·w, head_width / 2), float64, radians, row-major.
    """
    pairs = head_width // 4
    frequencies = ROTARY_BASE ** -(torch.arange(pairs, dtype=torch.float64) / pairs)  # (pairs,)
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in grid)
    by_row = (rows[:, None, None] * frequencies).expand(-1, grid[1], -1)  # (h, w, pairs)
    by_column = (columns[None, :, None] * frequencies).expand(grid[0], -1, -1)  # (h, w, pairs)
    return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)  # (h·w, head_width / 2)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn channel pair (i, i + half) of every token by its angle.

    Args:
        x: (..., N, head_width).
        cosine: (N, head_width / 2), of the angles.
        sine: (N, head_width / 2), of the angles.

    Returns:
        The shape of x; norms are unchanged.
    """
    first, second = x.chunk(2, dim=-1)  # (..., N, head_width / 2) twice
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention with rotary queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Map (B, N, width) to the same shape."""
        batch, count, width = x.shape
        qkv = self.qkv(x).view(batch, count, 3, self.heads, width // self.heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, B, heads, N, head_width)
        query, key = rotate(qkv[:2], cosine, sine)  # in the angles' precision
        mixed = attend(query, key, qkv[2])  # (B, heads, N, head_width)
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width))


class SwiGLU(nn.Module):
    """W₃(silu(W₁x) ∘ W₂x) with a hidden width of ⅔ · 4 · width (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(2 / 3 * 4 * width)
        self.gate_and_value = nn.Linear(width, 2 * hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, width) to the same shape."""
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)  # (B, N, hidden) twice
        return self.out(functional.silu(gate) * value)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.RMSNorm(width, eps=1e-6)
        self.mlp = SwiGLU(width)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Map (B, N, width) to the same shape."""
        x = x + self.attention(self.norm1(x), cosine, sine)  # (B, N, width)
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
    """One learned vector in place of every hidden token."""

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
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map (B, h·w, width) to the same shape."""
        x = tokens + self.positions(grid)  # (B, h·w, width)
        angles = rotary_angles(grid, self.head_width)  # (h·w, head_width / 2)
        cosine, sine = angles.cos().to(x), angles.sin().to(x)
        for block in self.blocks:
            x = block(x, cosine, sine)
        return self.norm(x)


class VitAutoencoder(Tokenizer):
    """Transformer autoencoder with one latent vector per image patch.

    The ViT-B/16 pair (patch 16, width 768, depth 12, heads 12, 32 latent channels) has 171.7 M
    parameters.
    """

    def __init__(
        self,
        image_channels: int = 3,
        latent_channels: int = 32,
        patch: int = 16,
        grid: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ) -> None:
        """Build the layers on the meta device; `initialise` or loaded weights fill them.

        Args:
            image_channels: channels C of an image.
            latent_channels: channels d of the latent.
            patch: image pixels per token and latent cell, along one side.
            grid: tokens along one side for which positions are learned (image size / patch);
                other sizes interpolate them.
            width: channels of a token.
            depth: blocks of the encoder, and of the decoder.
            heads: attention heads; width / heads is a multiple of four (two rotary axes).

        Raises:
            StudyError: if width and heads do not fit.
        """
        super().__init__()
        if width % (4 * heads):
            raise StudyError(
                f"VitAutoencoder: width {width} is not a multiple of 4 x {heads} heads, which "
                "2-D rotary positions need; change width or heads"
            )
        self.image_channels = image_channels
        self.latent_channels = latent_channels
        self._factor = patch
        with torch.device("meta"):
            self.patch_embedding = nn.Conv2d(image_channels, width, patch, stride=patch)
            self.mask_token = MaskToken(width)
            self.encoder = Transformer(width, depth, heads, grid)
            self.to_moments = nn.Linear(width, 2 * latent_channels)
            self.from_latent = nn.Linear(latent_channels, width)
            self.decoder = Transformer(width, depth, heads, grid)
            self.to_patches = nn.Linear(width, image_channels * patch * patch)
            self.decoder_out = nn.Conv2d(image_channels, image_channels, 3, padding=1)

    def initialise(self, generator: torch.Generator) -> Self:
        """Draw weights: N(0, 0.02²) for linear and patch layers, as ViTs are; see `SeededModule`.

        The last 3×3 convolution keeps the convolutional default: a weight of 0.02 there would
        scale the first images to almost nothing.
        """
        super().initialise(generator)
        layers = (
            *(self.patch_embedding, self.encoder, self.to_moments),
            *(self.from_latent, self.decoder, self.to_patches),
        )
        for layer in layers:
            normal_weights(layer, WEIGHT_STD, generator)
        return self

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return self._factor

    @property
    def encoder_last_weight(self) -> Tensor:
        """Weight of the linear head that emits the moments."""
        return self.to_moments.weight

    @property
    def decoder_last_weight(self) -> Tensor:
        """Weight of the last 3×3 convolution."""
        return self.decoder_out.weight

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the posterior of the latents; see `Tokenizer.encode`.

        Masked patches are replaced by a learned token before positions are added, and every
        position keeps its latent (MAETok, arXiv 2502.03444).
        """
        grid = self.grid(images)
        tokens = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, h·w, width)
        if mask is not None:
            if mask.shape != (len(images), *grid):
                raise StudyError(
                    f"VitAutoencoder: the mask is {tuple(mask.shape)}, the images have a token "
                    f"grid of {(len(images), *grid)}; build the mask for this grid"
                )
            tokens = self.mask_token(tokens, mask.flatten(1))
        moments = self.to_moments(self.encoder(tokens, grid))  # (B, h·w, 2d)
        return Posterior.from_moments(moments.transpose(1, 2).unflatten(2, grid))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images that latents stand for; see `Tokenizer.decode`."""
        grid = (latents.shape[2], latents.shape[3])
        tokens = self.from_latent(latents.flatten(2).transpose(1, 2))  # (B, h·w, width)
        pixels = self.to_patches(self.decoder(tokens, grid))  # (B, h·w, C·patch²)
        patches = pixels.transpose(1, 2).unflatten(2, grid)  # (B, C·patch², h, w)
        return self.decoder_out(functional.pixel_shuffle(patches, self._factor))  # (B, C, H, W)
