"""The residual U-Net of EDM on latents (DDPM++ in arXiv 2206.00364), at any size.

Two things differ from EDM's FFHQ 64 x 64 network: the noise embedding scales and shifts after the
second norm, as in its ImageNet network, rather than being added before it; and what ends a branch
starts at zero rather than near it.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusability.diffusion.layers import (
    Attention,
    Embedding,
    Linear,
    TimestepEmbedding,
    fill_normal,
    fill_xavier,
)
from diffusability.errors import StudyError

CONDITION = 4  # numbers of the condition, in units of the width
SKIP_SCALE = math.sqrt(0.5)  # keeps the variance of a sum of two
MAXIMUM_GROUPS, CHANNELS_PER_GROUP = 32, 4
ZERO = ("modulation", "conv2", "attention.out")  # layers that start at zero, and `out`
Resample = Literal["down", "up"]


class Conv2d(nn.Conv2d):
    """A convolution that keeps the grid, whose weights stay unset until its network draws them."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__(before, after, kernel, padding=kernel // 2)

    def reset_parameters(self) -> None:
        """Draw nothing."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group norm, eps 1e-6, of at most 32 groups with four channels or more in each."""
    limit = max(1, min(MAXIMUM_GROUPS, channels // CHANNELS_PER_GROUP))
    groups = next(count for count in range(limit, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def resampled(x: Tensor, resample: Resample | None) -> Tensor:
    """Return x (B, C, H, W) on the coarser grid (means of 2 x 2), on the finer one, or as it is."""
    if resample == "down":
        return F.avg_pool2d(x, 2)
    if resample == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return x


class GridAttention(nn.Module):
    """Self-attention over all cells, and a skip."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, heads, None)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, h, w) to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, h w, C)
        mixed = self.attention(tokens).transpose(1, 2).unflatten(2, x.shape[2:])
        return (x + mixed) * SKIP_SCALE


class UNetBlock(nn.Module):
    """Two convolutions modulated by the condition, a skip, and attention where asked for.

    Args:
        before, after: channels.
        condition: numbers of the condition.
        heads: of self-attention; None for none.
        resample: halve or double the grid in front of the first convolution and of the skip.
    """

    def __init__(
        self,
        before: int,
        after: int,
        condition: int,
        heads: int | None = None,
        resample: Resample | None = None,
    ) -> None:
        super().__init__()
        self.resample: Resample | None = resample
        self.norm1 = group_norm(before)
        self.conv1 = Conv2d(before, after, 3)
        self.modulation = Linear(condition, 2 * after)
        self.norm2 = group_norm(after)
        self.conv2 = Conv2d(after, after, 3)
        same = before == after and resample is None
        self.skip: nn.Module = nn.Identity() if same else Conv2d(before, after, 1)
        self.mix: nn.Module = nn.Identity() if heads is None else GridAttention(after, heads)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map x (B, before, h, w) under condition (B, D) to (B, after, h', w')."""
        hidden = self.conv1(resampled(F.silu(self.norm1(x)), self.resample))  # (B, after, h', w')
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = F.silu(torch.addcmul(shift, self.norm2(hidden), 1 + scale))
        skipped = self.skip(resampled(x, self.resample))
        return self.mix((skipped + self.conv2(hidden)) * SKIP_SCALE)


class LatentUNet(nn.Module):
    """A U-Net on latents, conditioned on noise level (or time) and class.

    On the way down every resolution has `blocks` blocks, on the way up one more; each of these
    takes what one block of the way down, or its start or its halving, has left. In the middle a
    block with attention and one without. Where a resolution has attention, all its blocks of the
    way down have it and the last one of the way up.

    Args:
        latent_channels: channels C of the latent.
        grid: (H, W) of the latent, in cells.
        num_classes: classes; the label `num_classes` is the null class of guidance.
        width: channels in front of the multipliers; even.
        multipliers: channels of each resolution in units of `width`, finest first.
        blocks: residual blocks a resolution on the way down.
        attention: heights of the grids, in cells, with attention.
        heads: attention heads.
        generator: draws the weights; None for a fresh generator of seed 0.

    Raises:
        StudyError: the grid cannot be halved as often, or no resolution has a height of attention.
    """

    def __init__(
        self,
        latent_channels: int,
        grid: tuple[int, int],
        num_classes: int,
        width: int,
        multipliers: tuple[int, ...] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: tuple[int, ...] = (16,),
        heads: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(grid, len(multipliers), attention)
        self.latent_channels, self.grid, self.num_classes = latent_channels, grid, num_classes
        condition = CONDITION * width
        self.time_embedding = TimestepEmbedding(condition, frequencies=width)
        self.label_embedding = Embedding(num_classes + 1, condition)
        self.start = Conv2d(latent_channels, width, 3)
        left, here = [width], width  # channels of what the way up takes, the last first
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            if level:
                self.down.append(UNetBlock(here, here, condition, resample="down"))
                left.append(here)
            inside = heads if grid[0] >> level in attention else None
            for _ in range(blocks):
                self.down.append(UNetBlock(here, width * multiplier, condition, inside))
                here = width * multiplier
                left.append(here)
        self.middle = nn.ModuleList(
            UNetBlock(here, here, condition, inside) for inside in (heads, None)
        )
        for level, multiplier in reversed(list(enumerate(multipliers))):
            if level < len(multipliers) - 1:
                self.up.append(UNetBlock(here, here, condition, resample="up"))
            inside = heads if grid[0] >> level in attention else None
            for place in range(blocks + 1):
                mixes = inside if place == blocks else None
                joined = here + left.pop()
                self.up.append(UNetBlock(joined, width * multiplier, condition, mixes))
                here = width * multiplier
        self.norm = group_norm(here)
        self.out = Conv2d(here, latent_channels, 3)
        self.initialise(generator or torch.Generator().manual_seed(0))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the network's answer at the noisy latents x.

        Args:
            x: (B, C, H, W) latents.
            t: (B,) noise condition, ln(sigma) / 4 of EDM, or time in [0, 1].
            y: (B,) int64 labels in [0, num_classes]; num_classes is the null class.

        Returns:
            (B, C, H, W).
        """
        condition = F.silu(self.time_embedding(t) + self.label_embedding(y))  # (B, D)
        x = self.start(x)
        left = [x]
        for block in self.down:
            x = block(x, condition)
            left.append(x)
        for block in self.middle:
            x = block(x, condition)
        for block in self.up:
            x = x if block.resample else torch.cat((x, left.pop()), dim=1)
            x = block(x, condition)
        return self.out(F.silu(self.norm(x)))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw every weight anew.

        Xavier-uniform weights and zero biases; N(0, 0.02) for the label embedding; zero for the
        modulations, for the last convolution of a block, for the projection behind attention and
        for the last convolution of all, so that the answer starts as zero. Draws happen on the
        generator's device, in the order of the modules: the same seed gives the same weights
        anywhere.

        Args:
            generator: source of all randomness.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.GroupNorm):
                module.reset_parameters()
            elif isinstance(module, Embedding):
                fill_normal(module.weight, 0.02, generator)
            elif isinstance(module, Linear | Conv2d):
                assert module.bias is not None
                module.bias.zero_()
                if name == "out" or name.endswith(ZERO):
                    module.weight.zero_()
                else:
                    fill_xavier(module.weight, generator)


def _check_sizes(grid: tuple[int, int], resolutions: int, attention: tuple[int, ...]) -> None:
    halvings = resolutions - 1
    if any(side % 2**halvings for side in grid):
        raise StudyError(
            f"backbone: {resolutions} resolutions need {halvings} halvings, too many for the "
            f"latent grid {grid[0]} x {grid[1]}. Give fewer multipliers."
        )
    heights = [grid[0] >> level for level in range(resolutions)]
    for height in attention:
        if height not in heights:
            raise StudyError(
                f"backbone: attention at {height} cells, but the resolutions have "
                f"{', '.join(map(str, heights))}. Name some of these."
            )
