"""lmr: latent masked reconstruction."""

import torch
from torch import Tensor, nn

from diffusability.errors import StudyError
from diffusability.tokenizers.regularizers.interface import Regularizer

RATIOS = (0.25, 0.5, 0.75)


class LatentMasking(Regularizer[Tensor]):
    """Decode full images from latents of which a share is replaced by one learned vector.

    Liu et al., Delving into Latent Spectral Biasing of Video VAEs (SSVAE, arXiv 2512.05394). Each
    step draws one ratio r from {0, 25 %, 50 %, 75 %}; ⌊r·h·w⌋ positions are masked after
    sampling. The objective itself is unchanged.
    """

    def __init__(
        self,
        latent_channels: int,
        probabilities: tuple[float, float, float] = (0.1, 0.1, 0.1),
        shared: bool = True,
    ) -> None:
        """Build the mask token on the meta device; `initialise` fills it.

        Args:
            latent_channels: d.
            probabilities: of masking 25 %, 50 % and 75 %, the "p a-b-c" of Table 1; the rest of
                the steps mask nothing.
            shared: the same positions for all images of a batch, as in the authors' code;
                otherwise each image has its own.

        Raises:
            StudyError: if the probabilities are negative or sum to more than one.
        """
        super().__init__()
        if min(probabilities) < 0 or sum(probabilities) > 1 + 1e-9:
            raise StudyError(
                f"lmr: probabilities {probabilities} of masking 25, 50 and 75 % must be at least "
                "zero and sum to at most one"
            )
        self.probabilities = tuple(probabilities)
        self.shared = shared
        with torch.device("meta"):
            self.mask_token = nn.Parameter(torch.empty(latent_channels))

    def fill(self, generator: torch.Generator) -> None:
        """Draw the mask token from N(0, 1)."""
        nn.init.normal_(self.mask_token, generator=generator)

    def draw(self, grid: tuple[int, int], batch: int, generator: torch.Generator) -> Tensor | None:
        """Return the masked positions (B or 1, h, w), bool, or None; see `Regularizer.draw`."""
        uniform = torch.rand((), generator=generator, device=generator.device).item()
        for ratio, probability in zip(RATIOS, self.probabilities, strict=True):
            if uniform < probability:
                images = 1 if self.shared else batch
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
