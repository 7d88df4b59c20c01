"""The diagonal Gaussian that an encoder predicts for each image."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

LOGVAR_RANGE = (-30.0, 20.0)


def moments_of(encoded: Any) -> tuple[Any, Any]:
    """Return mean and log-variance of what an `encode` returned; None without a log-variance.

    It may be a tensor, a pair, a distribution, or an output of diffusers with one of these as
    `latent_dist`, `latents` or `latent`.
    """
    if isinstance(encoded, tuple | list) and len(encoded) == 2:
        return encoded[0], encoded[1]
    for attribute in ("latent_dist", "latents", "latent"):
        encoded = getattr(encoded, attribute, encoded)
    if isinstance(encoded, Tensor):
        return encoded, None
    logvar = getattr(encoded, "logvar", None)
    if logvar is None and isinstance(variance := getattr(encoded, "variance", None), Tensor):
        logvar = variance.log()  # a distribution of torch.distributions
    return getattr(encoded, "mean", encoded), logvar


@dataclass(frozen=True)
class Posterior:
    """q(z | x) = N(mean, exp(logvar)), independent in every element of the latent.

    Attributes:
        mean: (B, d, h, w), single precision or better.
        logvar: (B, d, h, w), natural logarithm of the variance, within `LOGVAR_RANGE`.
    """

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> Self:
        """Split an encoder's output into mean and clamped log-variance.

        Args:
            moments: (B, 2d, h, w): means in the first d channels, log-variances in the others.
                Half precision is widened to float32: the KL sums thousands of elements.

        Returns:
            The posterior of each image.
        """
        wide = moments.to(torch.promote_types(moments.dtype, torch.float32))
        mean, logvar = wide.chunk(2, dim=1)  # (B, d, h, w) twice
        return cls(mean, logvar.clamp(*LOGVAR_RANGE))

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw one latent per image by reparameterisation, z = mean + std · ε.

        Args:
            generator: source of ε; the noise is drawn on its device and moved to the mean's, so
                a CPU generator gives the same latents on every machine.

        Returns:
            (B, d, h, w), differentiable in mean and log-variance.
        """
        noise = torch.randn(
            self.mean.shape, generator=generator, device=generator.device, dtype=self.mean.dtype
        )
        return self.mean + torch.exp(0.5 * self.logvar) * noise.to(self.mean.device)

    def kl(self) -> Tensor:
        """Return KL(q(z | x) ‖ N(0, I)), summed over the latent of each image.

        Kingma & Welling, Auto-Encoding Variational Bayes (arXiv 1312.6114), appendix B:
        ½ Σ (mean² + var - 1 - log var).

        Returns:
            (B,), nats, at least zero; zero where the posterior is the prior.
        """
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).sum((1, 2, 3))
