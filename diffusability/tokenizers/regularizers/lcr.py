"""lcr: local correlation regularization."""

import torch
from torch import Tensor
from torch.nn import functional

from diffusability.errors import StudyError
from diffusability.study.entries.regularizer import Lcr
from diffusability.tokenizers.posterior import Posterior
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer

WINDOW = 2
CHANNEL_EPSILON = 1e-6
VECTOR_EPSILON = 1e-8


def local_correlation(mean: Tensor) -> Tensor:
    """Return the mean correlation between neighbouring latent vectors.

    Channels are z-scored over batch and positions with constant statistics. In each
    non-overlapping 2x2 window the four C-vectors are centred over their channels and scaled to
    length one; ρ is the mean of the six pairwise products over all windows and images (SSVAE,
    arXiv 2512.05394). An odd last row or column belongs to no window.

    Args:
        mean: (B, C, h, w), posterior means, C, h and w at least 2.

    Returns:
        Scalar in [-1/3, 1]; higher is smoother.

    Raises:
        StudyError: if the latent has one channel or no window.
    """
    if min(mean.shape[1:]) < WINDOW:
        raise StudyError(
            f"lcr: a latent of {tuple(mean.shape[1:])} (channels, height, width) has no local "
            "correlation; all three must be at least 2"
        )
    constant = mean.detach()
    average = constant.mean((0, 2, 3), keepdim=True)
    deviation = constant.std((0, 2, 3), keepdim=True)
    scored = (mean - average) / (deviation + CHANNEL_EPSILON)  # (B, C, h, w)
    height, width = (side // WINDOW * WINDOW for side in mean.shape[2:])
    whole = scored[:, :, :height, :width]
    corners = torch.stack(
        [whole[:, :, row::WINDOW, column::WINDOW] for row in range(2) for column in range(2)]
    )  # (4, B, C, h // 2, w // 2)
    centred = corners - corners.mean(2, keepdim=True)
    unit = centred / (centred.norm(dim=2, keepdim=True) + VECTOR_EPSILON)
    # the sum over the pairs i < j of four vectors: (‖Σ u‖² - Σ ‖u‖²) / 2, six pairs
    total = unit.sum(0).square().sum(1) - unit.square().sum((0, 2))  # (B, h // 2, w // 2)
    return (total / 12).mean()


class LocalCorrelation(Regularizer[Lcr, None]):
    """factor · w · λ∇ · relu(th - ρ), with ρ the `local_correlation` of the posterior mean.

    Liu et al., Delving into Latent Spectral Biasing of Video VAEs (SSVAE, arXiv 2512.05394). Once
    ρ exceeds the threshold the loss and its gradient are zero.
    """

    def penalties(
        self, posterior: Posterior, latents: Tensor, features: Tensor | None
    ) -> list[Penalty]:
        """Return the loss on the posterior mean; see `Regularizer.penalties`."""
        weight = self.options.factor * self.options.weight
        if not weight:
            return []
        correlation = local_correlation(posterior.mean)
        loss = functional.relu(self.options.threshold - correlation)
        return [Penalty("lcr", loss, weight, parts={"local_correlation": correlation})]
