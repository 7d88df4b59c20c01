"""mcos: the marginal cosine similarity loss of VA-VAE."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class MarginalCosine:
    """mean_i relu(1 - m₁ - cos(z'_i, f_i)).

    Yao et al., Reconstruction vs. Generation (VA-VAE, arXiv 2501.01423), marginal cosine
    similarity loss; z' = W z is the projected latent, f the encoder's feature at position i.

    Attributes:
        margin: m₁; positions with a cosine above 1 - m₁ are left alone.
    """

    margin: float = 0.5
    name: str = "mcos"

    def __call__(self, projected: Tensor, features: Tensor) -> Tensor:
        """Return the loss.

        Args:
            projected: z', (B, D, h, w).
            features: f, (B, D, h, w).

        Returns:
            Scalar in [0, 2 - m₁]; lower is better aligned.
        """
        cosine = functional.cosine_similarity(projected, features, dim=1)  # (B, h, w)
        return functional.relu(1.0 - self.margin - cosine).mean()
