"""The convolutional autoencoder of latent diffusion (KL-f16) at any size.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models (arXiv 2112.10752);
the tokenizer network of VA-VAE (arXiv 2501.01423).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusability.errors import StudyError
from diffusability.nn.attention import attend
from diffusability.nn.layers import group_norm
from diffusability.nn.recomputation import Block
from diffusability.study.entries.network import ConvNetwork, ImageShape
from diffusability.tokenizers.interface import NetworkTokenizer
from diffusability.tokenizers.posterior import Posterior


class ResidualBlock(Block):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1×1 shortcut where the width changes."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut: nn.Module = (
            nn.Identity()
            if channels_in == channels_out
            else nn.Conv2d(channels_in, channels_out, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, h, w) to (B, channels_out, h, w)."""
        hidden = self.conv1(functional.silu(self.norm1(x)))  # (B, channels_out, h, w)
        hidden = self.conv2(functional.silu(self.norm2(hidden)))  # (B, channels_out, h, w)
        return self.shortcut(x) + hidden


class AttentionBlock(Block):
    """Residual single-head self-attention over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        normed = self.norm(x)
        query, key, value = (
            layer(normed).flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1 head, h·w, C)
            for layer in (self.query, self.key, self.value)
        )
        mixed = attend(query, key, value)  # (B, 1, h·w, C)
        return x + self.out(mixed.squeeze(1).transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halve both sides: stride-2 3×3 convolution, zero-padded at the right and the bottom."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h/2, w/2)."""
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double both sides: nearest neighbour, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, 2h, 2w)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def _level(channels_in: int, channels_out: int, blocks: int, attention: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for index in range(blocks):
        layers.append(ResidualBlock(channels_in if index == 0 else channels_out, channels_out))
        if attention:
            layers.append(AttentionBlock(channels_out))
    return layers


def _middle(channels: int, attention: bool) -> list[nn.Module]:
    between: list[nn.Module] = [AttentionBlock(channels)] if attention else []
    return [ResidualBlock(channels, channels), *between, ResidualBlock(channels, channels)]


def _head(channels: int) -> list[nn.Module]:
    return [group_norm(channels), nn.SiLU()]


def _encoder(image_channels: int, widths: list[int], blocks: int, attention: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(image_channels, widths[0], 3, padding=1)]
    lowest = len(widths) - 1
    for level, width in enumerate(widths):
        before = widths[max(level - 1, 0)]
        layers += _level(before, width, blocks, attention and level == lowest)
        if level < lowest:
            layers.append(Downsample(width))
    return nn.Sequential(*layers, *_middle(widths[-1], attention), *_head(widths[-1]))


def _decoder(
    latent_channels: int, widths: list[int], blocks: int, attention: bool
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(latent_channels, widths[-1], 3, padding=1)]
    layers += _middle(widths[-1], attention)
    lowest = len(widths) - 1
    for level in range(lowest, -1, -1):
        before = widths[min(level + 1, lowest)]
        layers += _level(before, widths[level], blocks, attention and level == lowest)
        if level > 0:
            layers.append(Upsample(widths[level]))
    return nn.Sequential(*layers, *_head(widths[0]))


class ConvAutoencoder(NetworkTokenizer):
    """Residual convolutional autoencoder, one resolution level per multiplier.

    Full width (f16): width 128, multipliers (1, 1, 2, 2, 4), 2 and 3 blocks, attention:
    69.84 M parameters with 32 latent channels, 70.29 M with 64.
    """

    def __init__(self, spec: ConvNetwork, image: ImageShape) -> None:
        """Build the layers on the meta device; `initialise` or loaded weights fill them."""
        super().__init__(spec, image)
        widths = [spec.width * multiplier for multiplier in spec.multipliers]
        channels, attention = spec.channels, spec.attention
        with torch.device("meta"):
            self.encoder = _encoder(image.channels, widths, spec.encoder_blocks, attention)
            self.encoder_out = nn.Conv2d(widths[-1], 2 * channels, 3, padding=1)
            self.to_moments = nn.Conv2d(2 * channels, 2 * channels, 1)
            self.from_latent = nn.Conv2d(channels, channels, 1)
            self.decoder = _decoder(channels, widths, spec.decoder_blocks, attention)
            self.decoder_out = nn.Conv2d(widths[0], image.channels, 3, padding=1)

    @property
    def encoder_last_weight(self) -> Tensor:
        """Weight of the encoder's last 3×3 convolution, as in VA-VAE (before the 1×1)."""
        return self.encoder_out.weight

    @property
    def decoder_last_weight(self) -> Tensor:
        """Weight of the decoder's last 3×3 convolution."""
        return self.decoder_out.weight

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the posterior of the latents; see `Tokenizer.encode`. Masks are not supported."""
        if mask is not None:
            raise StudyError(
                "ConvAutoencoder: a convolutional encoder has no tokens to mask; "
                "use the `mae` regularizer with a vit network"
            )
        self.grid(images)
        hidden = self.encoder(images)  # (B, widths[-1], h, w)
        return Posterior.from_moments(self.to_moments(self.encoder_out(hidden)))  # (B, 2d, h, w)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoded images; see `Tokenizer.decode`."""
        hidden = self.decoder(self.from_latent(latents))  # (B, widths[0], factor·h, factor·w)
        return self.decoder_out(hidden)  # (B, C, factor·h, factor·w)
