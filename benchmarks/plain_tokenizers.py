"""Plain networks and the plain training step that the benchmark compares against.

Written from the published description of VA-VAE and l-DeTok in the most direct way: activations as
x · sigmoid(x), attention as two matrix products around a softmax, no frozen discriminator in the
generator's pass. Block counts, widths and kernels equal those of the library.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusability.nn.layers import group_norm


def swish(x: Tensor) -> Tensor:
    """Return x · sigmoid(x), shape unchanged."""
    return x * torch.sigmoid(x)


class PlainResidual(nn.Module):
    """Residual block on (B, C, h, w)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([group_norm(before), group_norm(after)])
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, h, w) to (B, after, h, w)."""
        hidden = self.first(swish(self.norms[0](x)))
        hidden = self.second(swish(self.norms[1](hidden)))
        return (x if self.shortcut is None else self.shortcut(x)) + hidden


class PlainAttention(nn.Module):
    """Single-head attention on (B, C, h, w) with the matrix of weights written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        batch, channels, height, width = x.shape
        normed = self.norm(x)
        query, key, value = (
            layer(normed).reshape(batch, channels, -1) for layer in self.layers[:3]
        )
        weights = torch.bmm(query.transpose(1, 2), key) * channels**-0.5  # (B, N, N)
        mixed = torch.bmm(value, torch.softmax(weights, dim=2).transpose(1, 2))  # (B, C, N)
        return x + self.layers[3](mixed.reshape(batch, channels, height, width))


class PlainDown(nn.Module):
    """Pad right and bottom, stride-2 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h/2, w/2)."""
        return self.conv(functional.pad(x, (0, 1, 0, 1), mode="constant", value=0))


class Swish(nn.Module):
    """x · sigmoid(x) as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape unchanged."""
        return swish(x)


def _levels(
    order: list[tuple[int, int]], blocks: int, attention: bool, lowest: int, down: bool
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for index, (level, width) in enumerate(order):
        before = order[max(index - 1, 0)][1]
        for block in range(blocks):
            layers.append(PlainResidual(before if block == 0 else width, width))
            if attention and level == lowest:
                layers.append(PlainAttention(width))
        if index < len(order) - 1:
            up = [nn.Upsample(scale_factor=2.0), nn.Conv2d(width, width, 3, padding=1)]
            layers += [PlainDown(width)] if down else up
    return layers


def plain_conv(
    image_channels: int,
    latent_channels: int,
    width: int,
    multipliers: tuple[int, ...],
    encoder_blocks: int,
    decoder_blocks: int,
    attention: bool,
) -> tuple[nn.Module, nn.Module]:
    """Return encoder (images to moments) and decoder; arguments as of `ConvAutoencoder`."""
    widths = [(level, width * multiplier) for level, multiplier in enumerate(multipliers)]
    lowest, deep, moments = len(widths) - 1, widths[-1][1], 2 * latent_channels

    def middle() -> list[nn.Module]:
        between = [PlainAttention(deep)] if attention else []
        return [PlainResidual(deep, deep), *between, PlainResidual(deep, deep)]

    encoder = nn.Sequential(
        nn.Conv2d(image_channels, width * multipliers[0], 3, padding=1),
        *_levels(widths, encoder_blocks, attention, lowest, down=True),
        *middle(),
        *(group_norm(deep), Swish()),
        *(nn.Conv2d(deep, moments, 3, padding=1), nn.Conv2d(moments, moments, 1)),
    )
    decoder = nn.Sequential(
        *(nn.Conv2d(latent_channels, latent_channels, 1),),
        nn.Conv2d(latent_channels, deep, 3, padding=1),
        *middle(),
        *_levels(widths[::-1], decoder_blocks, attention, lowest, down=False),
        *(group_norm(widths[0][1]), Swish()),
        nn.Conv2d(widths[0][1], image_channels, 3, padding=1),
    )
    return encoder, decoder


class PlainBlock(nn.Module):
    """Pre-norm transformer block with rotary positions on (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        hidden = int(2 / 3 * 4 * width)
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """Map (B, N, D) to the same shape; rotation is (2, N, D / heads / 2)."""
        batch, count, width = x.shape
        shape = (batch, count, 3, self.heads, width // self.heads)
        query, key, value = self.qkv(self.norms[0](x)).reshape(shape).permute(2, 0, 3, 1, 4)
        query, key = (self._turn(part, rotation).to(value.dtype) for part in (query, key))
        weights = (query @ key.transpose(2, 3)) * (width // self.heads) ** -0.5
        mixed = torch.softmax(weights, dim=3).to(value.dtype) @ value
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, count, width))
        gate, value = self.up(self.norms[1](x)).chunk(2, dim=2)
        return x + self.down(swish(gate) * value)

    @staticmethod
    def _turn(x: Tensor, rotation: Tensor) -> Tensor:
        cosine, sine = rotation
        first, second = x.chunk(2, dim=3)
        return torch.cat([first * cosine - second * sine, first * sine + second * cosine], 3)


class PlainTransformer(nn.Module):
    """Learned positions, blocks and a norm on (B, N, D) over a fixed grid."""

    def __init__(self, width: int, depth: int, heads: int, grid: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(1, grid * grid, width))
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        pairs = width // heads // 4
        frequencies = 10_000.0 ** -(torch.arange(pairs) / pairs)
        place = torch.cartesian_prod(torch.arange(grid), torch.arange(grid))  # (N, 2)
        angles = (place[:, :, None] * frequencies).flatten(1)
        self.register_buffer("rotation", torch.stack([angles.cos(), angles.sin()]))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to the same shape."""
        x = x + self.positions
        for block in self.blocks:
            x = block(x, self.rotation)
        return self.norm(x)


class PlainViTEncoder(nn.Module):
    """Images to moments."""

    def __init__(self, channels: int, latents: int, patch: int, grid: int, *shape: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, shape[0], patch, stride=patch)
        self.trunk = PlainTransformer(*shape, grid)
        self.last = nn.Linear(shape[0], 2 * latents)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 2d, h, w)."""
        tokens = self.embed(images)
        moments = self.last(self.trunk(tokens.flatten(2).transpose(1, 2)))
        return moments.transpose(1, 2).unflatten(2, tokens.shape[2:])


class PlainViTDecoder(nn.Module):
    """Latents to images."""

    def __init__(self, channels: int, latents: int, patch: int, grid: int, *shape: int) -> None:
        super().__init__()
        self.embed = nn.Linear(latents, shape[0])
        self.trunk = PlainTransformer(*shape, grid)
        self.pixels = nn.Sequential(
            nn.Conv2d(shape[0], channels * patch * patch, 1),
            nn.PixelShuffle(patch),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Map (B, d, h, w) to (B, C, H, W)."""
        tokens = self.trunk(self.embed(latents.flatten(2).transpose(1, 2)))
        return self.pixels(tokens.transpose(1, 2).unflatten(2, latents.shape[2:]))


def plain_losses(
    encoder: nn.Module, decoder: nn.Module, judge: nn.Module | None, last: Tensor, images: Tensor
) -> tuple[Tensor, Callable[[], Tensor] | None]:
    """Return the autoencoder's loss and, with a discriminator, a call for the discriminator's.

    Args:
        encoder: images (B, C, H, W) to moments (B, 2d, h, w).
        decoder: latents (B, d, h, w) to images.
        judge: the discriminator.
        last: weight of the decoder's last layer.
        images: (B, C, H, W), in [-1, 1].
    """
    mean, logvar = encoder(images).float().chunk(2, dim=1)
    logvar = torch.clamp(logvar, -30.0, 20.0)
    latents = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    found = decoder(latents).float()
    reconstruction = torch.abs(images - found).sum() / len(images)
    kl = 0.5 * torch.sum(mean**2 + logvar.exp() - 1.0 - logvar, dim=[1, 2, 3])
    loss = reconstruction + 1e-6 * kl.sum() / len(images)
    if judge is None:
        return loss, None
    gan = -torch.mean(judge(found))
    norms = [
        torch.autograd.grad(term, last, retain_graph=True)[0] for term in (reconstruction, gan)
    ]
    factor = torch.clamp(norms[0].norm() / (norms[1].norm() + 1e-4), 0.0, 1e4).detach()

    def second() -> Tensor:
        real, fake = judge(images.detach()), judge(found.detach())
        return 0.5 * (torch.relu(1.0 - real).mean() + torch.relu(1.0 + fake).mean())

    return loss + 0.5 * factor * gan, second
