"""Parameters and multiplications of every network, counted from its options.

Only matrix products and convolutions are counted; norms, activations and resizing add a few per
cent. One multiply-accumulate (MAC) is two floating-point operations.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from diffusability.study.backbone import AnyBackbone, SiTBackbone, UNetBackbone
from diffusability.study.network import (
    ConvNetwork,
    HierarchicalNetwork,
    Network,
    VectorNetwork,
    VitNetwork,
)
from diffusability.study.vision_models import FACTS, VisionModel

if TYPE_CHECKING:  # these state their own cost with what is counted here
    from diffusability.study.encoder import TrainedEncoder
    from diffusability.study.tokenizer import LinearTokenizer, ObjectiveSpec

TIME_FREQUENCIES = 256  # of the sinusoid of time
# output channels of VGG-16's convolutions; 0 halves the image
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)


@dataclass(frozen=True)
class Size:
    """What a network, or a part of one, weighs.

    Attributes:
        parameters: trained numbers.
        macs: multiply-accumulates of one image's forward pass.
    """

    parameters: int = 0
    macs: int = 0

    def __add__(self, other: "Size") -> "Size":
        """Return both parts together."""
        return Size(self.parameters + other.parameters, self.macs + other.macs)

    def __mul__(self, count: int) -> "Size":
        """Return `count` such parts."""
        return Size(self.parameters * count, self.macs * count)


# Inception-v3 at 299 x 299, published figures
INCEPTION = Size(23_900_000, 5_730_000_000)


@dataclass(frozen=True)
class Autoencoder:
    """Both halves of a tokenizer."""

    encoder: Size
    decoder: Size

    @property
    def whole(self) -> Size:
        """Encoder and decoder together."""
        return self.encoder + self.decoder


def convolution(before: int, after: int, kernel: int, side: int, bias: bool = True) -> Size:
    """Return a convolution whose output has `side` cells along each side."""
    weights = before * after * kernel**2
    return Size(weights + after * bias, weights * side**2)


def linear(before: int, after: int, tokens: int) -> Size:
    """Return a linear layer that is applied to `tokens` vectors."""
    return Size((before + 1) * after, before * after * tokens)


def attention(width: int, tokens: int) -> Size:
    """Return the two products of self-attention, without its projections."""
    return Size(0, 2 * tokens**2 * width)


@lru_cache
def autoencoder(network: Network, channels: int, side: int) -> Autoencoder:
    """Return the size of a tokenizer for images of `channels` x `side` x `side`."""
    if isinstance(network, ConvNetwork):
        return _conv_autoencoder(network, channels, side)
    if isinstance(network, VectorNetwork):
        return _vector_autoencoder(network, channels, side)
    if isinstance(network, HierarchicalNetwork):
        return _hierarchical_autoencoder(network, channels, side)
    return _vit_autoencoder(network, channels, side)


def _conv_autoencoder(network: ConvNetwork, channels: int, side: int) -> Autoencoder:
    widths = [network.width * multiplier for multiplier in network.multipliers]
    sides = [side >> level for level in range(len(widths))]
    latent, coarse, deepest = network.channels, sides[-1], widths[-1]

    def level(before: int, at: int, blocks: int) -> Size:
        size = _residual(before, widths[at], sides[at])
        size += _residual(widths[at], widths[at], sides[at]) * (blocks - 1)
        if network.attention and at == len(widths) - 1:
            size += _self_attention(deepest, coarse) * blocks
        return size

    middle = _residual(deepest, deepest, coarse) * 2
    if network.attention:
        middle += _self_attention(deepest, coarse)
    encoder = convolution(channels, widths[0], 3, side) + middle + Size(2 * deepest)
    decoder = convolution(latent, deepest, 3, coarse) + middle + Size(2 * widths[0])
    for at in range(len(widths)):
        encoder += level(widths[max(at - 1, 0)], at, network.encoder_blocks)
        decoder += level(widths[min(at + 1, len(widths) - 1)], at, network.decoder_blocks)
    for at in range(len(widths) - 1):  # down from level `at` and up to it
        encoder += convolution(widths[at], widths[at], 3, sides[at + 1])
        decoder += convolution(widths[at + 1], widths[at + 1], 3, sides[at])
    encoder += convolution(deepest, 2 * latent, 3, coarse)
    encoder += convolution(2 * latent, 2 * latent, 1, coarse)
    decoder += convolution(latent, latent, 1, coarse)
    return Autoencoder(encoder, decoder + convolution(widths[0], channels, 3, side))


def _vector_autoencoder(network: VectorNetwork, channels: int, side: int) -> Autoencoder:
    widths = [network.width * multiplier for multiplier in network.multipliers]
    entries = network.channels * (side // network.factor) ** 2
    features = widths[-1] * (side // network.reduction) ** 2
    encoder, decoder = linear(features, entries, 1) * 2, linear(entries, features, 1)
    for at, width in enumerate(widths):
        before = widths[at - 1] if at else channels
        after = widths[max(at - 1, 0)]
        encoder += convolution(before, width, 5, side >> (at + 1)) + Size(2 * width)
        decoder += convolution(width, after, 5, side >> at) + Size(2 * after)
    return Autoencoder(encoder, decoder + convolution(widths[0], channels, 3, side))


def _hierarchical_autoencoder(
    network: HierarchicalNetwork, channels: int, side: int
) -> Autoencoder:
    """Count a hierarchical VAE; the layers that make posteriors belong to the encoder.

    Encoding the offered level walks down to it, decoding walks down from the coarsest level.
    """
    width, latent = network.width, network.channels
    factor: int = network.levels[-1]
    encoder, top_down, down = convolution(channels, width, 3, side), Size(width), Size()
    while factor >= 1:
        cells = side // factor
        blocks = _residual(width, width, cells) * network.blocks
        if factor > 1:
            encoder += convolution(width, width, 3, cells) + blocks
        if factor in network.levels:
            posterior = Size(4 * width) + convolution(2 * width, 2 * latent, 3, cells)
            visited = factor >= network.factor  # finer posteriors have weights and are not run
            encoder += posterior if visited else Size(posterior.parameters)
            prior = Size()
            if factor < network.levels[-1]:
                prior = Size(2 * width) + convolution(width, 2 * latent, 3, cells)
            absorbed = convolution(latent, width, 1, cells)
            down += Size(0, prior.macs if visited else 0)
            down += Size(0, absorbed.macs if factor > network.factor else 0)
            # the offered level's prior is not asked when it is decoded
            top_down += Size(prior.parameters, prior.macs if factor != network.factor else 0)
            top_down += absorbed
        top_down += blocks
        down += Size(0, blocks.macs if factor > network.factor else 0)
        if factor > 1:
            up = convolution(width, width, 3, 2 * cells)
            top_down += up
            down += Size(0, up.macs if factor > network.factor else 0)
        factor //= 2
    head = Size(2 * width) + convolution(width, channels, 3, side)
    return Autoencoder(encoder + down, top_down + head)


def linear_map(entry: "LinearTokenizer", channels: int, side: int) -> Autoencoder:
    """Return the size of a linear map: that of its matrix, where it has one."""
    pixels = channels * side**2
    if entry.source not in ("pca", "projection"):
        return Autoencoder(Size(), Size())
    matrix = entry.channels * (side // entry.factor) ** 2 * pixels
    return Autoencoder(Size(matrix + pixels, matrix), Size(0, matrix))


def _residual(before: int, after: int, side: int) -> Size:
    norms = Size(2 * before + 2 * after)
    size = norms + convolution(before, after, 3, side) + convolution(after, after, 3, side)
    return size if before == after else size + convolution(before, after, 1, side)


def _self_attention(width: int, side: int) -> Size:
    projections = convolution(width, width, 1, side) * 4
    return Size(2 * width) + projections + attention(width, side**2)


def _vit_autoencoder(network: VitNetwork, channels: int, side: int) -> Autoencoder:
    width, latent, grid = network.width, network.channels, side // network.factor
    tokens, pixels = grid**2, channels * network.factor**2
    hidden = int(2 / 3 * 4 * width)
    block = Size(2 * width) + linear(width, 3 * width, tokens) + linear(width, width, tokens)
    block += attention(width, tokens)
    block += linear(width, 2 * hidden, tokens) + linear(hidden, width, tokens)
    transformer = Size(tokens * width) + block * network.depth + Size(width)
    encoder = linear(pixels, width, tokens) + Size(width) + transformer
    decoder = linear(latent, width, tokens) + transformer + linear(width, pixels, tokens)
    return Autoencoder(
        encoder + linear(width, 2 * latent, tokens),
        decoder + convolution(channels, channels, 3, side),
    )


@lru_cache
def backbone(spec: AnyBackbone, channels: int, grid: int, classes: int) -> Size:
    """Return the size of a diffusion network on latents of `channels` x `grid` x `grid`."""
    if isinstance(spec, UNetBackbone):
        return _unet(spec, channels, grid, classes)
    width, cell, tokens = spec.width, channels * spec.patch**2, (grid // spec.patch) ** 2
    head = width // spec.heads
    block = linear(width, 3 * width, tokens) + linear(width, width, tokens)
    block += attention(width, tokens) + linear(width, 6 * width, 1)
    if isinstance(spec, SiTBackbone):
        block += linear(width, 4 * width, tokens) + linear(4 * width, width, tokens)
        block += Size(4 * head)  # LayerNorm of queries and keys
        final_norm = 0
    else:
        hidden = int(2 / 3 * 4 * width)
        block += linear(width, 2 * hidden, tokens) + linear(hidden, width, tokens)
        block += Size(2 * head + 2 * width)
        final_norm = width
    ends = linear(cell, width, tokens) + linear(width, cell, tokens) + linear(width, 2 * width, 1)
    condition = linear(TIME_FREQUENCIES, width, 1) + linear(width, width, 1)
    return block * spec.depth + ends + condition + Size((classes + 1) * width + final_norm)


def _unet(spec: UNetBackbone, channels: int, grid: int, classes: int) -> Size:
    condition, here = 4 * spec.width, spec.width

    def block(
        before: int, after: int, side: int, attends: bool = False, moved: bool = False
    ) -> Size:
        size = Size(2 * before + 2 * after) + linear(condition, 2 * after, 1)
        size += convolution(before, after, 3, side) + convolution(after, after, 3, side)
        if moved or before != after:
            size += convolution(before, after, 1, side)
        return size + _self_attention(after, side) if attends else size

    size = linear(spec.width, condition, 1) + linear(condition, condition, 1)
    size += Size((classes + 1) * condition) + convolution(channels, here, 3, grid)
    left = [here]
    for level, multiplier in enumerate(spec.multipliers):
        side, width = grid >> level, spec.width * multiplier
        if level:
            size += block(here, here, side, moved=True)
            left.append(here)
        for _ in range(spec.blocks):
            size += block(here, width, side, side in spec.attention)
            here = width
            left.append(here)
    size += block(here, here, side, attends=True) + block(here, here, side)
    for level in reversed(range(len(spec.multipliers))):
        side, width = grid >> level, spec.width * spec.multipliers[level]
        if level < len(spec.multipliers) - 1:
            size += block(here, here, side, moved=True)
        for place in range(spec.blocks + 1):
            attends = place == spec.blocks and side in spec.attention
            size += block(here + left.pop(), width, side, attends)
            here = width
    return size + Size(2 * here) + convolution(here, channels, 3, grid)


@lru_cache
def trained_encoder(spec: "TrainedEncoder", channels: int, side: int, classes: int) -> Size:
    """Return the size of a convolutional encoder of the study's own, with its class logits."""
    width, coarsest = spec.width, side // spec.factor
    size = convolution(channels, width, 3, side)
    while side > coarsest:
        size += _norm_conv(width, side) + convolution(width, 2 * width, 3, side // 2)
        width, side = 2 * width, side // 2
    size += _norm_conv(width, side) * 2 + convolution(width, spec.features, 1, side)
    return size + linear(spec.features, classes, 1)


def _norm_conv(width: int, side: int) -> Size:
    return Size(2 * width) + convolution(width, width, 3, side)


def vision_model(model: VisionModel, side: int) -> Size:
    """Return the approximate size of a published vision model for images of `side` pixels.

    Twelve matrices of width² a block, attention, and the patches: within two per cent.
    """
    facts = FACTS[model]
    patches = (facts.input_side(side) // facts.patch) ** 2
    tokens = patches + facts.prefix
    width = facts.channels
    block = Size(12 * width**2, 12 * width**2 * tokens) + attention(width, tokens)
    return block * facts.depth + linear(3 * facts.patch**2, width, patches)


def vgg16(side: int) -> Size:
    """Return the convolutions of VGG-16, which LPIPS compares features of."""
    size, before = Size(), 3
    for after in VGG16:
        if after:
            size += convolution(before, after, 3, side)
            before = after
        else:
            side //= 2
    return size


def discriminator(objective: "ObjectiveSpec", channels: int, side: int) -> Size:
    """Return the size of the patch discriminator of an objective."""
    width, layers = objective.gan_width, objective.gan_layers
    widths = [width * min(2**layer, 8) for layer in range(layers + 1)]
    side //= 2
    size = convolution(channels, width, 4, side)
    for layer, (before, after) in enumerate(pairwise(widths), start=1):
        side = side // 2 if layer < layers else side - 1
        size += convolution(before, after, 4, side, bias=False) + Size(2 * after)
    return size + convolution(widths[-1], 1, 4, side - 1)
