"""The denoiser of a trained diffusion model of the study: where its process is converted."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.diffusion.latent_diffusion import LatentDiffusion
from diffusability.fisher.denoiser import Denoiser, from_velocity
from diffusability.study.backbone import LightningDiTBackbone, SiTBackbone

_NORMAL = 1.959964  # quantile: 95 % of a standard normal lie within


@dataclass(frozen=True)
class BackboneDenoiser:
    """A trained model as the estimators see it.

    Attributes:
        denoise: D(y; v) of normalised latents; without labels, of the null class.
        sigma_range: noise standard deviations of the middle 95 % of the training steps.
    """

    denoise: Denoiser
    sigma_range: tuple[float, float]


def backbone_denoiser(
    model: LatentDiffusion, spec: SiTBackbone | LightningDiTBackbone
) -> BackboneDenoiser:
    """Return the denoiser of a model in evaluation mode; every process is converted here.

    Args:
        model: a velocity network on x_t = t x + (1 - t) z, sigma = (1 - t) / t.
        spec: its entry, which says how its times were drawn.
    """

    def velocity(point: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            null = model.network.num_classes
            labels = torch.full((len(point),), null, dtype=torch.int64, device=point.device)
        return model(point, t, labels)

    low = 0.025 if spec.time == "uniform" else 1 / (1 + math.exp(_NORMAL))  # symmetric about 1/2
    return BackboneDenoiser(from_velocity(velocity), (low / (1 - low), (1 - low) / low))
