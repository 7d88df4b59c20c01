"""The denoiser of a trained diffusion model, and the noise levels it was trained on."""

import math
from dataclasses import dataclass

from diffusability.diffusion.latent_diffusion import LatentDenoiser, LatentDiffusion
from diffusability.fisher.denoiser import Denoiser, from_trained
from diffusability.study.entries.backbone import Backbone

_NORMAL = 1.959964  # quantile: 95 % of a standard normal lie within


@dataclass(frozen=True)
class BackboneDenoiser:
    """A trained model as input to the estimators.

    Attributes:
        denoise: D(y; v) of normalised latents; without labels, for the null class.
        sigma_range: noise standard deviations of the middle 95 % of the training steps.
    """

    denoise: Denoiser
    sigma_range: tuple[float, float]


def backbone_denoiser(model: LatentDiffusion | LatentDenoiser, spec: Backbone) -> BackboneDenoiser:
    """Return the denoiser of a model in evaluation mode, for any process.

    Args:
        model: a velocity network on x_t = t x + (1 - t) z, sigma = (1 - t) / t, or EDM's denoiser.
        spec: its entry, which gives the distribution of its times or noise levels.
    """
    return BackboneDenoiser(from_trained(model), _sigma_range(spec))


def _sigma_range(spec: Backbone) -> tuple[float, float]:
    if spec.edm is not None:
        middle, reach = spec.edm.log_sigma_mean, _NORMAL * spec.edm.log_sigma_std
        return math.exp(middle - reach), math.exp(middle + reach)
    low = 0.025 if spec.time == "uniform" else 1 / (1 + math.exp(_NORMAL))  # symmetric about 1/2
    return low / (1 - low), (1 - low) / low
