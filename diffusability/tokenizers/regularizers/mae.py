"""mae: masked image modelling for a transformer tokenizer."""

import torch
from torch import Tensor

from diffusability.errors import StudyError
from diffusability.tokenizers.regularizers.interface import Regularizer
from diffusability.tokenizers.regularizers.lmr import random_positions

LOWEST = -0.1  # of the uniform draw: a share of the steps masks nothing


class ImageMasking(Regularizer[Tensor]):
    """Autoencode full images from a random part of their patches.

    Each step draws r = max(0, U(-0.1, r_max)) and hides ⌊r·h·w⌋ random tokens of each image from
    the encoder (sampling of l-DeTok, Yang et al., arXiv 2507.15856; replacement by a learned
    token as in MAETok, Chen et al., arXiv 2502.03444). The objective itself is unchanged.
    """

    def __init__(self, ratio: float = 0.7) -> None:
        """Choose the strength.

        Args:
            ratio: r_max, the "r" of Table 1: the largest share of hidden tokens, in (0, 1).

        Raises:
            StudyError: if the ratio is out of range.
        """
        super().__init__()
        if not 0 < ratio < 1:
            raise StudyError(f"mae: the maximum ratio is {ratio}; it must lie between 0 and 1")
        self.ratio = ratio

    def draw(self, grid: tuple[int, int], batch: int, generator: torch.Generator) -> Tensor | None:
        """Return the hidden tokens (B, h, w), bool, or None; see `Regularizer.draw`."""
        uniform = torch.rand((), generator=generator, device=generator.device).item()
        ratio = max(0.0, LOWEST + (self.ratio - LOWEST) * uniform)
        if int(ratio * grid[0] * grid[1]) == 0:
            return None
        return random_positions(grid, batch, ratio, generator)

    def encoder_mask(self, images: Tensor, choice: Tensor | None) -> Tensor | None:
        """Return the hidden tokens on the images' device; see `Regularizer.encoder_mask`."""
        return None if choice is None else choice.to(images.device)
