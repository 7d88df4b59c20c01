"""lmr and mae: full images from masked latents, or from masked image tokens."""

import torch
from torch import Tensor, nn

from diffusability.study.entries.regularizer import Lmr, Mae
from diffusability.tokenizers.regularizers.interface import Regularizer

RATIOS = (0.25, 0.5, 0.75)  # of masked latents
LOWEST = -0.1  # lower end of the uniform masking ratio: at negative draws nothing is masked


class LatentMasking(Regularizer[Lmr, Tensor]):
    """Decode full images from latents of which a share is replaced by one learned vector.

    Liu et al., Delving into Latent Spectral Biasing of Video VAEs (SSVAE, arXiv 2512.05394). Each
    step draws one ratio r from {0, 25 %, 50 %, 75 %}; ⌊r·h·w⌋ positions are masked after
    sampling, the same for all images of a batch if `shared`, as in the authors' code. The
    objective itself is unchanged.
    """

    def __init__(self, options: Lmr, latent_channels: int, feature_channels: int = 0) -> None:
        """Build the mask token on the meta device; see `Regularizer`."""
        super().__init__(options, latent_channels, feature_channels)
        with torch.device("meta"):
            self.mask_token = nn.Parameter(torch.empty(latent_channels))

    def fill(self, generator: torch.Generator) -> None:
        """Draw the mask token from N(0, 1)."""
        nn.init.normal_(self.mask_token, generator=generator)

    def draw(self, grid: tuple[int, int], batch: int, generator: torch.Generator) -> Tensor | None:
        """Return the masked positions (B or 1, h, w), bool, or None; see `Regularizer.draw`."""
        uniform = torch.rand((), generator=generator, device=generator.device).item()
        for ratio, probability in zip(RATIOS, self.options.probabilities, strict=True):
            if uniform < probability:
                images = 1 if self.options.shared else batch
                return random_positions(grid, images, ratio, generator)
            uniform -= probability
        return None

    def transform(
        self, latents: Tensor, target: Tensor, choice: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Replace the masked latents by the mask token; see `Regularizer.transform`."""
        if choice is None:
            return latents, target
        token = self.mask_token.to(latents.dtype)[:, None, None]  # (d, 1, 1)
        return torch.where(choice.to(latents.device).unsqueeze(1), token, latents), target


class ImageMasking(Regularizer[Mae, Tensor]):
    """Autoencode full images from a random part of their patches.

    Each step draws r = max(0, U(-0.1, r_max)) and hides ⌊r·h·w⌋ random tokens of each image from
    the encoder (sampling of l-DeTok, Yang et al., arXiv 2507.15856; replacement by a learned
    token as in MAETok, Chen et al., arXiv 2502.03444). The objective itself is unchanged.
    """

    def draw(self, grid: tuple[int, int], batch: int, generator: torch.Generator) -> Tensor | None:
        """Return the hidden tokens (B, h, w), bool, or None; see `Regularizer.draw`."""
        uniform = torch.rand((), generator=generator, device=generator.device).item()
        ratio = max(0.0, LOWEST + (self.options.ratio - LOWEST) * uniform)
        if int(ratio * grid[0] * grid[1]) == 0:
            return None
        return random_positions(grid, batch, ratio, generator)

    def encoder_mask(self, images: Tensor, choice: Tensor | None) -> Tensor | None:
        """Return the hidden tokens on the images' device; see `Regularizer.encoder_mask`."""
        return None if choice is None else choice.to(images.device)


def random_positions(
    grid: tuple[int, int], images: int, ratio: float, generator: torch.Generator
) -> Tensor:
    """Return a mask with the same number of random positions in every image.

    Args:
        grid: height h and width w.
        images: B.
        ratio: share of masked positions, in [0, 1]; ⌊ratio·h·w⌋ are masked.
        generator: source of the positions.

    Returns:
        (B, h, w), bool, on the generator's device; True where masked.
    """
    positions = grid[0] * grid[1]
    scores = torch.rand((images, positions), generator=generator, device=generator.device)
    ranks = scores.argsort(1).argsort(1)  # (B, h·w)
    return (ranks < int(ratio * positions)).unflatten(1, grid)
