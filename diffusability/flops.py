"""Parameters and multiplications of networks, counted by torch's own counter on the meta device.

Nothing is computed and weights take no memory. Norms, activations and resizing are not counted:
they add a few per cent. `study/entries/operations.py` calls this module and caches the results.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffusability.data.images import ImageSet
from diffusability.diffusion.load import backbone_spec, build_diffusion
from diffusability.encoders.load import encoder_kind
from diffusability.encoders.pretext import Pretext
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec
from diffusability.tokenizers.build import build_tokenizer, tokenizer_network
from diffusability.tokenizers.discriminator import PatchDiscriminator

Count = tuple[int, int]  # parameters, and multiply-accumulates per image of one forward pass


def count(what: str, options: dict[str, Any]) -> list[Count]:
    """Return the counts of the parts of a network.

    Args:
        what: "autoencoder" (encoder and decoder), "backbone", "encoder" or "discriminator".
        options: arguments of the function with that name below, as plain values.
    """
    with torch.device("meta"):
        return PARTS[what](**options)


def autoencoder(network: dict[str, Any], channels: int, side: int) -> list[Count]:
    """Return encoder and decoder of a tokenizer; all parameters are counted with the encoder."""
    spec = tokenizer_network(network)
    tokenizer = build_tokenizer(spec, channels, side).to("meta").eval().requires_grad_(False)
    image = torch.empty(1, channels, side, side)
    grid = side // spec.factor
    latent = torch.empty(1, spec.channels, grid, grid)
    encoded = products(lambda: tokenizer.encode(image))
    return [(parameters(tokenizer), encoded), (0, products(lambda: tokenizer.decode(latent)))]


def backbone(spec: dict[str, Any], latent: tuple[int, int, int], num_classes: int) -> list[Count]:
    """Return the network of a diffusion model on latents (C, H, W)."""
    network = build_diffusion(backbone_spec(spec), latent, num_classes).network
    network = network.to("meta").eval().requires_grad_(False)
    x = torch.empty(1, *latent)
    time, label = torch.empty(1), torch.zeros(1, dtype=torch.long)
    return [(parameters(network), products(lambda: network(x, time, label)))]


def encoder(spec: dict[str, Any], channels: int, side: int, num_classes: int) -> list[Count]:
    """Return an encoder that the study trains itself, without parts used only in training."""
    image = torch.empty(1, channels, side, side)
    none = torch.empty(1)
    kind = encoder_kind(spec)
    assert isinstance(kind, Pretext)
    network = kind.build(ImageSet(image, none, none, none, num_classes))
    network = network.to("meta").eval().requires_grad_(False)
    return [(parameters(network), products(lambda: network(image)))]


def discriminator(channels: int, side: int, width: int, layers: int) -> list[Count]:
    """Return the patch discriminator of a GAN loss."""
    objective = ObjectiveSpec(gan_width=width, gan_layers=layers)
    network = PatchDiscriminator(objective, channels).to("meta").eval().requires_grad_(False)
    image = torch.empty(1, channels, side, side)
    return [(parameters(network), products(lambda: network(image)))]


PARTS: dict[str, Callable[..., list[Count]]] = {
    "autoencoder": autoencoder,
    "backbone": backbone,
    "encoder": encoder,
    "discriminator": discriminator,
}


def parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def products(run: Callable[[], Any]) -> int:
    """Return the multiply-accumulates of a call on the meta device.

    Attention runs as two matrix products: fused kernels are not counted on this device.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return int(counter.get_total_flops()) // 2
