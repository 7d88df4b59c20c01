"""Diffusion models from their study entries and from their artifacts."""

from pathlib import Path

from pydantic import TypeAdapter
from safetensors.torch import load_file

from diffusability.artifacts.card import read_card
from diffusability.diffusion.latent_diffusion import LatentDenoiser, LatentDiffusion
from diffusability.diffusion.lightningdit import LightningDiT
from diffusability.diffusion.sit import SiT
from diffusability.diffusion.transformer import LatentTransformer
from diffusability.diffusion.unet import LatentUNet
from diffusability.study.backbone import AnyBackbone, BackboneSpec, UNetBackbone

TRANSFORMERS = {"sit": SiT, "lightningdit": LightningDiT}


def backbone_spec(values: object) -> AnyBackbone:
    """Return the typed entry of a backbone from its plain values."""
    spec: AnyBackbone = TypeAdapter(BackboneSpec).validate_python(values)
    return spec


def build_diffusion(
    spec: AnyBackbone, latent_shape: tuple[int, int, int], num_classes: int
) -> LatentDiffusion | LatentDenoiser:
    """Return the model of a backbone entry for latents (C, H, W), of the entry's process; draw
    its weights with `network.initialise(generator)` or load them."""
    network = _network(spec, latent_shape, num_classes)
    if spec.edm is not None:
        return LatentDenoiser(network, spec.edm.sigma_data)
    return LatentDiffusion(network)


def _network(
    spec: AnyBackbone, latent_shape: tuple[int, int, int], num_classes: int
) -> LatentTransformer | LatentUNet:
    channels, height, width = latent_shape
    if isinstance(spec, UNetBackbone):
        return LatentUNet(
            latent_channels=channels,
            grid=(height, width),
            num_classes=num_classes,
            width=spec.width,
            multipliers=spec.multipliers,
            blocks=spec.blocks,
            attention=spec.attention,
            heads=spec.heads,
        )
    return TRANSFORMERS[spec.arch](
        latent_channels=channels,
        grid=(height, width),
        num_classes=num_classes,
        width=spec.width,
        depth=spec.depth,
        heads=spec.heads,
        patch=spec.patch,
    )


def load_diffusion(
    folder: Path, latent_shape: tuple[int, int, int], num_classes: int, device: str
) -> LatentDiffusion | LatentDenoiser:
    """Return the trained model of a verified artifact, frozen, in evaluation mode."""
    model = build_diffusion(backbone_spec(read_card(folder)["spec"]), latent_shape, num_classes)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(device).eval().requires_grad_(False)
