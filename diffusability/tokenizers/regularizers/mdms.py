"""mdms: the marginal distance matrix similarity loss of VA-VAE."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from diffusability.tokenizers.regularizers.alignment import cosine_matrix


@dataclass(frozen=True)
class MarginalDistance:
    """mean_ij relu(|cos(z'_i, z'_j) - cos(f_i, f_j)| - m₂), over all pairs inside each image.

    Yao et al., Reconstruction vs. Generation (VA-VAE, arXiv 2501.01423), marginal distance matrix
    similarity loss. As in the authors' code both matrices use the projected latent z' = W z, and
    the mean runs over all N² pairs, the diagonal included.

    Attributes:
        margin: m₂; pairs that differ by less are left alone.
    """

    margin: float = 0.25
    name: str = "mdms"

    def __call__(self, projected: Tensor, features: Tensor) -> Tensor:
        """Return the loss.

        Args:
            projected: z', (B, D, h, w).
            features: f, (B, D, h, w).

        Returns:
            Scalar in [0, 2 - m₂]; lower is better aligned.
        """
        difference = cosine_matrix(projected) - cosine_matrix(features)  # (B, N, N)
        return functional.relu(difference.abs() - self.margin).mean()
