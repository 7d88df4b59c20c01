"""The residual U-Net of EDM on latents (DDPM++ in arXiv 2206.00364), at any size.

Two differences from EDM's FFHQ 64 x 64 network: the noise embedding scales and shifts after the
second norm, as in its ImageNet network, instead of being added before it; and the last layer of a
branch starts at zero instead of near zero.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusability.diffusion.network import LatentNetwork, TimestepEmbedding
from diffusability.nn.attention import Attention
from diffusability.nn.initialisation import draw_normal, draw_xavier, set_zero
from diffusability.nn.layers import group_norm
from diffusability.nn.recomputation import Block
from diffusability.study.entries.backbone import UNetBackbone

CONDITION = 4  # channels of the condition, in units of the width
SKIP_SCALE = math.sqrt(0.5)  # keeps the variance of a sum of two terms
ZERO = ("modulation", "conv2", "attention.out")  # layers that start at zero, and `out`
EMBEDDING_STD = 0.02
Resample = Literal["down", "up"]


def conv2d(before: int, after: int, kernel: int) -> nn.Conv2d:
    """Return a convolution that keeps the grid size."""
    return nn.Conv2d(before, after, kernel, padding=kernel // 2)


def resampled(x: Tensor, resample: Resample | None) -> Tensor:
    """Return x (B, C, H, W) downsampled (means of 2 x 2), upsampled, or unchanged."""
    if resample == "down":
        return F.avg_pool2d(x, 2)
    if resample == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return x


class GridAttention(nn.Module):
    """Self-attention over all cells, with a skip connection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, h, w) to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, h w, C)
        mixed = self.attention(tokens).transpose(1, 2).unflatten(2, x.shape[2:])
        return (x + mixed) * SKIP_SCALE


class UNetBlock(Block):
    """Two convolutions modulated by the condition, a skip connection, and optional attention.

    Args:
        before, after: channels.
        condition: channels of the condition.
        heads: of self-attention; None for no attention.
        resample: halve or double the grid before the first convolution and in the skip.
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
        self.conv1 = conv2d(before, after, 3)
        self.modulation = nn.Linear(condition, 2 * after)
        self.norm2 = group_norm(after)
        self.conv2 = conv2d(after, after, 3)
        same = before == after and resample is None
        self.skip: nn.Module = nn.Identity() if same else conv2d(before, after, 1)
        self.mix: nn.Module = nn.Identity() if heads is None else GridAttention(after, heads)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map x (B, before, h, w) under condition (B, D) to (B, after, h', w')."""
        hidden = self.conv1(resampled(F.silu(self.norm1(x)), self.resample))  # (B, after, h', w')
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = F.silu(torch.addcmul(shift, self.norm2(hidden), 1 + scale))
        skipped = self.skip(resampled(x, self.resample))
        return self.mix((skipped + self.conv2(hidden)) * SKIP_SCALE)


class LatentUNet(LatentNetwork[UNetBackbone]):
    """A U-Net on latents, conditioned on noise level (or time) and class.

    The downward path has `blocks` blocks per resolution, the upward path one more. Each upward
    block concatenates the output of one downward block, downsampling block or the first layer. In
    the middle are a block with attention and one without. At a resolution with attention, all its
    downward blocks have it, and its last upward block.
    """

    def __init__(
        self, spec: UNetBackbone, latent_shape: tuple[int, int, int], num_classes: int
    ) -> None:
        """Build the layers on the meta device; see `LatentNetwork`."""
        super().__init__(spec, latent_shape, num_classes)
        condition = CONDITION * spec.width
        with torch.device("meta"):
            self.time_embedding = TimestepEmbedding(condition, frequencies=spec.width)
            self.label_embedding = nn.Embedding(num_classes + 1, condition)
            self.start = conv2d(self.latent_channels, spec.width, 3)
            self.down, left = self._way_down(spec, condition)
            here = left[-1]
            self.up = self._way_up(spec, condition, left)
            self.middle = nn.ModuleList(
                UNetBlock(here, here, condition, heads) for heads in (spec.heads, None)
            )
            width = spec.width * spec.multipliers[0]
            self.norm = group_norm(width)
            self.out = conv2d(width, self.latent_channels, 3)

    def _way_down(self, spec: UNetBackbone, condition: int) -> tuple[nn.ModuleList, list[int]]:
        """Return the downward blocks, and the channels of their outputs, in order."""
        down, here, left = nn.ModuleList(), spec.width, [spec.width]
        for level, multiplier in enumerate(spec.multipliers):
            if level:
                down.append(UNetBlock(here, here, condition, resample="down"))
                left.append(here)
            for _ in range(spec.blocks):
                width = spec.width * multiplier
                down.append(UNetBlock(here, width, condition, self._heads(spec, level)))
                here = width
                left.append(here)
        return down, left

    def _way_up(self, spec: UNetBackbone, condition: int, left: list[int]) -> nn.ModuleList:
        """Return the upward blocks; each one with a skip takes the last entry of `left`."""
        up, here = nn.ModuleList(), left[-1]
        for level, multiplier in reversed(list(enumerate(spec.multipliers))):
            if level < len(spec.multipliers) - 1:
                up.append(UNetBlock(here, here, condition, resample="up"))
            for index in range(spec.blocks + 1):
                heads = self._heads(spec, level) if index == spec.blocks else None
                width = spec.width * multiplier
                up.append(UNetBlock(here + left.pop(), width, condition, heads))
                here = width
        return up

    def _heads(self, spec: UNetBackbone, level: int) -> int | None:
        """Return the attention heads of a resolution, or None if it has no attention."""
        return spec.heads if self.grid[0] >> level in spec.attention else None

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the network's output at the noisy latents x; see `LatentNetwork.forward`."""
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

    def draw_layer(self, name: str, layer: nn.Module, generator: torch.Generator) -> None:
        """Draw a layer's weights.

        Xavier-uniform weights and zero biases; N(0, 0.02²) for the label embedding; zero for the
        modulations, for the last convolution of a block, for the projection after attention and
        for the output convolution, so that the output starts at zero.
        """
        if name == "out" or name.endswith(ZERO):
            set_zero(layer)
        elif isinstance(layer, nn.Embedding):
            draw_normal(layer, EMBEDDING_STD, generator)
        else:
            draw_xavier(layer, generator)
