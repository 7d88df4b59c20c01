"""Diffusion models from their study entries and from their artifacts."""

from pathlib import Path

from pydantic import TypeAdapter
from safetensors.torch import load_file

from diffusability.artifacts.card import read_card
from diffusability.diffusion.latent_diffusion import LatentDiffusion
from diffusability.diffusion.lightningdit import LightningDiT
from diffusability.diffusion.sit import SiT
from diffusability.study.backbone import BackboneSpec, LightningDiTBackbone, SiTBackbone

ARCHITECTURES = {"sit": SiT, "lightningdit": LightningDiT}


def backbone_spec(values: object) -> SiTBackbone | LightningDiTBackbone:
    """Return the typed entry of a backbone from its plain values."""
    spec: SiTBackbone | LightningDiTBackbone = TypeAdapter(BackboneSpec).validate_python(values)
    return spec


def build_diffusion(
    spec: SiTBackbone | LightningDiTBackbone,
    latent_shape: tuple[int, int, int],
    num_classes: int,
) -> LatentDiffusion:
    """Return the model of a backbone entry for latents (C, H, W); draw its weights
    with `network.initialise(generator)` or load them."""
    channels, height, width = latent_shape
    network = ARCHITECTURES[spec.arch](
        latent_channels=channels,
        grid=(height, width),
        num_classes=num_classes,
        width=spec.width,
        depth=spec.depth,
        heads=spec.heads,
        patch=spec.patch,
    )
    return LatentDiffusion(network)


def load_diffusion(
    folder: Path, latent_shape: tuple[int, int, int], num_classes: int, device: str
) -> LatentDiffusion:
    """Return the trained model of a verified artifact, frozen, in evaluation mode."""
    spec = backbone_spec(read_card(folder)["spec"])
    model = build_diffusion(spec, latent_shape, num_classes)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(device).eval().requires_grad_(False)
