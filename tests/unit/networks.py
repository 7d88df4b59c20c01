"""Small networks, regularizers and objectives for tests, from plain numbers."""

from collections.abc import Sequence
from typing import Any

import torch

from diffusability.diffusion.transformer import LatentTransformer, LightningDiT, SiT
from diffusability.diffusion.unet import LatentUNet
from diffusability.encoders.convnet import ConvEncoder
from diffusability.study.entries.backbone import BACKBONES, Backbone
from diffusability.study.entries.encoder import ENCODERS
from diffusability.study.entries.network import (
    ConvNetwork,
    HierarchicalNetwork,
    ImageShape,
    VectorNetwork,
    VitNetwork,
)
from diffusability.study.entries.regularizer import REGULARIZERS
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec
from diffusability.tokenizers.conv import ConvAutoencoder
from diffusability.tokenizers.discriminator import PatchDiscriminator
from diffusability.tokenizers.hierarchical import HierarchicalAutoencoder
from diffusability.tokenizers.objective import Objective
from diffusability.tokenizers.regularizers.interface import Regularizer
from diffusability.tokenizers.vector import VectorAutoencoder
from diffusability.tokenizers.vit import VitAutoencoder

SIZE = 16  # pixels of images where a network does not depend on it
TRAIN = {"steps": 1}


def conv(
    image_channels: int = 1,
    latent_channels: int = 4,
    width: int = 8,
    multipliers: Sequence[int] = (1, 2),
    encoder_blocks: int = 1,
    decoder_blocks: int = 1,
    attention: bool = True,
) -> ConvAutoencoder:
    """A convolutional autoencoder whose weights are not yet drawn."""
    spec = ConvNetwork(
        arch="conv",
        factor=2 ** (len(multipliers) - 1),
        channels=latent_channels,
        width=width,
        multipliers=tuple(multipliers),
        encoder_blocks=encoder_blocks,
        decoder_blocks=decoder_blocks,
        attention=attention,
    )
    return ConvAutoencoder(spec, ImageShape(image_channels, SIZE))


def discriminator(channels: int, width: int, layers: int) -> PatchDiscriminator:
    """A patch discriminator whose weights are not yet drawn."""
    return PatchDiscriminator(ObjectiveSpec(gan_width=width, gan_layers=layers), channels)


def vit(
    image_channels: int = 1,
    latent_channels: int = 3,
    patch: int = 2,
    grid: int = 4,
    width: int = 16,
    depth: int = 2,
    heads: int = 2,
) -> VitAutoencoder:
    """A transformer autoencoder whose weights are not yet drawn."""
    spec = VitNetwork(
        arch="vit", factor=patch, channels=latent_channels, width=width, depth=depth, heads=heads
    )
    return VitAutoencoder(spec, ImageShape(image_channels, grid * patch))


def vector(
    image_channels: int, size: int, channels: int, factor: int, width: int, multipliers: tuple
) -> VectorAutoencoder:
    """An autoencoder of one vector whose weights are not yet drawn."""
    spec = VectorNetwork(
        arch="vector", factor=factor, channels=channels, width=width, multipliers=multipliers
    )
    return VectorAutoencoder(spec, ImageShape(image_channels, size))


def hierarchical(levels: tuple[int, ...], factor: int) -> HierarchicalAutoencoder:
    """A hierarchical VAE of grey images, with two channels at every level."""
    spec = HierarchicalNetwork(
        arch="hierarchical", factor=factor, levels=levels, channels=2, width=8, blocks=1
    )
    return HierarchicalAutoencoder(spec, ImageShape(1, 8))


def encoder(
    image_channels: int, width: int, features: int, factor: int, num_classes: int
) -> ConvEncoder:
    """A convolutional encoder whose weights are not yet drawn."""
    spec = encoder_spec("supervised", width=width, features=features, factor=factor)
    return ConvEncoder(spec, image_channels, num_classes)


def encoder_spec(kind: str, **options: object) -> Any:
    """The options of an encoder that the study trains itself."""
    return ENCODERS[kind].model_validate({"kind": kind, "train": TRAIN, **options})


def backbone(arch: str, **options: object) -> Backbone:
    """The options of a backbone."""
    return BACKBONES[arch].model_validate({"arch": arch, "train": TRAIN, **options})


def diffusion(
    network: type[LatentTransformer] | type[LatentUNet],
    latent_channels: int,
    grid: tuple[int, int],
    num_classes: int,
    seed: int | None = 0,
    **options: object,
) -> LatentTransformer | LatentUNet:
    """A diffusion network; without a seed its weights are not yet drawn."""
    arch = {SiT: "sit", LightningDiT: "lightningdit", LatentUNet: "unet"}[network]
    model = network(backbone(arch, **options), (latent_channels, *grid), num_classes)
    return model if seed is None else model.initialise(torch.Generator().manual_seed(seed))


def regularizer(method: str = "baseline", latent: int = 3, features: int = 0, **options: object):
    """A regularizer whose weights are not yet drawn."""
    if "encoder" in REGULARIZERS[method].model_fields:
        options["encoder"] = "encoder"
    spec = REGULARIZERS[method].model_validate({"method": method, **options})
    code: type[Regularizer] = REGULARIZERS.code(spec)
    return code(spec, latent, features)


def objective(perceptual: float = 1.0, gan: float = 0.5, **options: object) -> Objective:
    """Eq. 12, with the paper's weights where none are given."""
    named = {"perceptual_encoder": "encoder"} if perceptual else {}
    return Objective(ObjectiveSpec(perceptual=perceptual, gan=gan, **named, **options))
