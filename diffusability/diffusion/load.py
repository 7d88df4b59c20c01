"""Diffusion models from their study entries and from their artifacts."""

from pathlib import Path

from pydantic import TypeAdapter
from safetensors.torch import load_file

from diffusability.artifacts.card import read_card
from diffusability.diffusion.latent_diffusion import LatentDenoiser, LatentDiffusion
from diffusability.study.entries.backbone import BACKBONES, Backbone, BackboneSpec
from diffusability.training.run import weights_name


def backbone_spec(values: object) -> Backbone:
    """Return the options model of a backbone from plain values."""
    spec: Backbone = TypeAdapter(BackboneSpec).validate_python(values)
    return spec


def build_diffusion(
    spec: Backbone, latent_shape: tuple[int, int, int], num_classes: int
) -> LatentDiffusion | LatentDenoiser:
    """Return the model of a backbone entry for latents (C, H, W), for the entry's process.

    Its weights are not initialised: call `network.initialise(generator)`, or load them.

    Raises:
        StudyError: the options do not fit the latent grid.
    """
    network = BACKBONES.code(spec)(spec, latent_shape, num_classes)
    if spec.edm is not None:
        return LatentDenoiser(network, spec.edm.sigma_data)
    return LatentDiffusion(network)


def load_diffusion(
    folder: Path,
    latent_shape: tuple[int, int, int],
    num_classes: int,
    device: str,
    step: int | None = None,
) -> LatentDiffusion | LatentDenoiser:
    """Return the model of a verified artifact after a step, by default the last; frozen."""
    model = build_diffusion(backbone_spec(read_card(folder)["spec"]), latent_shape, num_classes)
    model.load_state_dict(load_file(folder / weights_name(step)), assign=True)
    return model.to(device).eval().requires_grad_(False)
