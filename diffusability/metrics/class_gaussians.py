"""Draws of the class-conditional Gaussians that VIV assumes latents to be."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.latents.channel_statistics import ChannelStatistics
from diffusability.metrics.kronecker import require_samples
from diffusability.metrics.latent_set import LatentSet, check_labels
from diffusability.metrics.mixture_velocity import KroneckerMixture
from diffusability.metrics.velocity_fits import fit_groups


@dataclass(frozen=True)
class ClassGaussians:
    """One Gaussian per class, fitted to z-scored latents.

    Attributes:
        classes: (K,) int64 class numbers, ascending, in the order of the components.
        mixture: K matrix-normal components over the c live channels and positions.
        statistics: of the live channels, with which latents were z-scored.
        live: (c,) int64, the channels that vary over images.
        constant: (C, H, W) a latent, for the channels that are the same in every image.
    """

    classes: Tensor
    mixture: KroneckerMixture
    statistics: ChannelStatistics
    live: Tensor
    constant: Tensor

    def draw(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Turn noise into draws: mu_k + A_k^(1/2) Z B_k^(1/2), in latent units.

        A dead channel is what it is in every image.

        Args:
            noise: (B, C, H, W) standard normal. labels: (B,) int64, each one of `classes`.

        Returns:
            (B, C, H, W) float32.
        """
        fit = self.mixture
        k = torch.searchsorted(self.classes, labels)  # (B,)
        noise = noise[:, self.live].double().flatten(2)  # (B, c, H*W)
        z = fit.means[k] + fit.rotate_back(noise * fit.eigenvalues(k).sqrt(), k)  # (B, c, H*W)
        mean, std = self.statistics.mean[:, None], self.statistics.std[:, None]  # (c, 1) each
        drawn = self.constant.float().repeat(len(z), 1, 1, 1)  # (B, C, H, W)
        drawn[:, self.live] = (z * std + mean).unflatten(2, drawn.shape[2:]).float()
        return drawn


def fit_class_gaussians(latents: Tensor, labels: Tensor) -> ClassGaussians:
    """Fit the Gaussians of VIV (arXiv 2606.03578, Eq. 2-3), exactly as `velocity.viv` does.

    Each class has its own mean and its own covariance over all C x H x W elements: a Kronecker
    product of channels and positions by flip-flop, rescaled to the trace of the sample
    covariance. VIV shrinks nothing beyond that structure, so neither does this.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units. labels: (N,) class numbers.

    Raises:
        MeasurementError: bad input, or a class with too few images (`minimum_samples`).
    """
    data = LatentSet(latents)
    labels = check_labels(labels, data.count)
    classes, counts = labels.unique(return_counts=True)  # (K,) each
    positions = data.height * data.width
    require_samples(counts, classes, data.channels, positions)
    mixture = KroneckerMixture.empty(len(classes), data.channels, positions, data.device)
    groups = [torch.nonzero(labels == one).flatten() for one in classes]
    # samples that were drawn from plain steps keep their bits
    fit_groups(data, groups, True, mixture, plain=True)
    return ClassGaussians(classes, mixture, data.statistics, data.live, latents[0])
