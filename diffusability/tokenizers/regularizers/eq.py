"""eq: equivariance of the decoder under scaling, flips and quarter turns of the latent."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional

from diffusability.errors import StudyError
from diffusability.study.entries.regularizer import Eq
from diffusability.tokenizers.regularizers.interface import Regularizer

SMALLEST_SCALE = Fraction(1, 4)
FLIPS = ((2,), (3,), (2, 3))  # vertical, horizontal, both


@dataclass(frozen=True)
class Transformation:
    """One geometric map, the same for latents and images.

    Attributes:
        scale: factor of both sides, applied first.
        flip: dimensions that are reversed.
        turns: quarter turns, counter-clockwise.
        before_encoding: whether the images are transformed and then autoencoded normally, instead
            of transforming the latent.
    """

    scale: Fraction = Fraction(1)
    flip: tuple[int, ...] = ()
    turns: int = 0
    before_encoding: bool = False

    def apply(self, grid: Tensor) -> Tensor:
        """Return the transformed images or latents.

        Args:
            grid: (B, C, H, W), with sides that the scale maps to integers.

        Returns:
            (B, C, scale·H, scale·W), the sides swapped by odd quarter turns. Bilinear, no
            antialias.
        """
        if self.scale != 1:
            size = [int(side * self.scale) for side in grid.shape[2:]]
            grid = functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)
        if self.flip:
            grid = grid.flip(self.flip)
        return torch.rot90(grid, self.turns, (2, 3)) if self.turns else grid


def whole_scales(grid: tuple[int, int]) -> list[Fraction]:
    """Return the scales in [1/4, 1) that keep the latent sides integers.

    k/g with g the greatest common divisor of both sides: {4 … 15}/16 on the 16x16 grid of the
    paper. (The authors draw {8 … 31}/32, whose odd values do not fit that grid.)

    Args:
        grid: height and width of the latents.

    Returns:
        Ascending; empty if the sides have no common divisor above 1.
    """
    common = math.gcd(*grid)
    return [
        Fraction(part, common)
        for part in range(1, common)
        if Fraction(part, common) >= SMALLEST_SCALE
    ]


class Equivariance(Regularizer[Eq, Transformation]):
    """Full objective between Dec(τ z) and τ x, for random τ.

    Kouzelis et al., EQ-VAE: Equivariance Regularized Latent Space (arXiv 2502.09509), in
    its implicit form. With `probability` a step decodes a latent transformed by all named
    operators, none of them the identity. Otherwise, with `prior_probability`, a downscaled image is
    autoencoded normally, so the decoder also sees latents of small images; without the scale
    operator there is no such step. One draw per batch.
    """

    def draw(
        self, grid: tuple[int, int], batch: int, generator: torch.Generator
    ) -> Transformation | None:
        """Return the transformation of the step, or None; see `Regularizer.draw`.

        Raises:
            StudyError: if the latent grid admits no scale.
        """
        # always draw all five numbers, so no choice shifts the random stream of the others
        branch, prior, *picks = torch.rand(
            5, generator=generator, device=generator.device, dtype=torch.float64
        ).tolist()
        drawn = self._transformation(grid, *picks)
        if branch < self.options.probability:
            return drawn
        if "scale" in self.options.operators and prior < self.options.prior_probability:
            return replace(drawn, flip=(), turns=0, before_encoding=True)
        return None

    def _transformation(
        self, grid: tuple[int, int], scale: float, flip: float, turns: float
    ) -> Transformation:
        """Turn uniform numbers in [0, 1) into a transformation by the chosen operators."""
        result = Transformation()
        if "scale" in self.options.operators:
            scales = whole_scales(grid)
            if not scales:
                raise StudyError(
                    f"eq: no scale keeps a latent grid of {grid[0]}x{grid[1]} whole; choose an "
                    "image size whose latent sides share a divisor, or the flip or rotation "
                    "operator"
                )
            result = replace(result, scale=scales[int(scale * len(scales))])
        if "flip" in self.options.operators:
            result = replace(result, flip=FLIPS[int(flip * len(FLIPS))])
        if "rotation" in self.options.operators:
            result = replace(result, turns=1 + int(turns * 3))
        return result

    def prepare_images(self, images: Tensor, choice: Transformation | None) -> Tensor:
        """Downscale the images in a prior-preserving step; see `Regularizer.prepare_images`."""
        return choice.apply(images) if choice and choice.before_encoding else images

    def transform(
        self, latents: Tensor, target: Tensor, choice: Transformation | None
    ) -> tuple[Tensor, Tensor]:
        """Transform latents and target equally; see `Regularizer.transform`."""
        if choice is None or choice.before_encoding:
            return latents, target
        return choice.apply(latents), choice.apply(target)
