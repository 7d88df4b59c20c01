"""The training objective of a tokenizer: Eq. 12 of *Diffusing in the Right Space*.

L = L1 + λ₁ · perceptual + λ₂ · λ∇ · GAN + λ₃ · KL (arXiv 2606.03578), with λ₁ = 1, λ₂ = 0.5,
λ₃ = 1e-6 and λ∇ the gradient-driven weight of VQGAN (Esser et al., arXiv 2012.09841, Eq. 7).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffusability.errors import StudyError

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]
Terms = dict[str, Tensor]
ADAPTIVE_EPSILON = 1e-4


def adaptive_weight(
    reference_loss: Tensor, loss: Tensor, weight_tensor: Tensor, maximum: float
) -> Tensor:
    """Return the factor that makes a loss pull as hard on a layer as the reference does.

    λ∇ = ‖∂reference/∂W‖ / (‖∂loss/∂W‖ + 1e-4), at most ``maximum`` (Eq. 7, arXiv 2012.09841).

    Args:
        reference_loss: scalar, the reconstruction loss.
        loss: scalar, the loss to be balanced; both depend on ``weight_tensor``.
        weight_tensor: W, weight of the layer where the two gradients are compared.
        maximum: upper bound of the factor; a vanishing loss would make it explode.

    Returns:
        Detached scalar in [0, maximum]. The graph of both losses is kept for their backward pass.
    """
    (reference,) = torch.autograd.grad(reference_loss, weight_tensor, retain_graph=True)
    (gradient,) = torch.autograd.grad(loss, weight_tensor, retain_graph=True)
    factor = reference.norm() / (gradient.norm() + ADAPTIVE_EPSILON)
    return factor.clamp(0.0, maximum).detach()


@dataclass(frozen=True)
class Objective:
    """Weights, reductions and the start of the adversarial game; a weight of zero skips its term.

    Attributes:
        l1: weight of |x - x̂|.
        mse: weight of (x - x̂)², reduced as L1 is.
        perceptual: λ₁, weight of the perceptual distance.
        gan: λ₂, weight of the adversarial term, in front of the adaptive factor.
        kl: λ₃, weight of KL(posterior ‖ N(0, I)).
        reduction: "sum" adds L1 over all image elements, counts the perceptual distance once for
            each of them, and adds the KL over the latent: the reduction of VA-VAE. "mean" divides
            these three by the number of image elements, which keeps their balance and matters to
            terms without adaptive factor alone. The batch is always averaged.
        kl_warmup: steps over which the weight of the KL grows linearly from zero to `kl`; 0: none.
        kl_balance: during these steps the levels of a hierarchical VAE share the KL unequally.
        gan_start: first step of the adversarial game; until then neither network plays it.
        gan_maximum: upper bound of the adaptive factor λ∇.
    """

    l1: float = 1.0
    mse: float = 0.0
    perceptual: float = 1.0
    gan: float = 0.5
    kl: float = 1e-6
    kl_warmup: int = 0
    kl_balance: bool = False
    reduction: Literal["sum", "mean"] = "sum"
    gan_start: int = 2500
    gan_maximum: float = 1e4

    def __post_init__(self) -> None:
        """Refuse weights that leave nothing to reconstruct."""
        if min(self.l1, self.mse, self.perceptual, self.gan, self.kl) < 0:
            raise StudyError(f"objective: weights must be at least zero, got {self}")
        if self.l1 == 0 and self.mse == 0 and self.perceptual == 0:
            raise StudyError(
                "objective: l1, mse and perceptual are all zero, so nothing is reconstructed and "
                "adaptive weights have no reference; give one of them a weight"
            )

    def gan_active(self, step: int) -> bool:
        """Return whether the adversarial game is on at a step, counted from zero in batches."""
        return self.gan > 0 and step >= self.gan_start

    def reconstruction(
        self, target: Tensor, reconstruction: Tensor, distance: PerceptualDistance | None
    ) -> tuple[Tensor, Terms]:
        """Return the weighted L1, squared and perceptual loss, reference of all adaptive weights.

        Args:
            target: (B, C, H, W), in [-1, 1].
            reconstruction: (B, C, H, W).
            distance: perceptual distance of two image batches, (B,); not called at weight zero.

        Returns:
            The scalar l1 · L1 + mse · squares + perceptual · distance (lower is better), and its
            unweighted terms.

        Raises:
            StudyError: if the perceptual term has a weight and no distance.
        """
        elements = target[0].numel() if self.reduction == "sum" else 1
        terms: Terms = {}
        total = target.new_zeros(())
        if self.l1:
            terms["l1"] = elements * (target - reconstruction).abs().mean()
            total = total + self.l1 * terms["l1"]
        if self.mse:
            terms["mse"] = elements * (target - reconstruction).square().mean()
            total = total + self.mse * terms["mse"]
        if self.perceptual:
            if distance is None:
                raise StudyError(
                    f"objective: perceptual has weight {self.perceptual} and no distance is "
                    "given; name a perceptual network or set the weight to zero"
                )
            terms["perceptual"] = elements * distance(target, reconstruction).mean()
            total = total + self.perceptual * terms["perceptual"]
        return total, terms

    def kl_weight(self, step: int) -> float:
        """Return the weight of the KL at a step, counted from zero in batches."""
        return self.kl * min(1.0, (step + 1) / max(1, self.kl_warmup))

    def divergence(self, kl: Tensor, target: Tensor, step: int) -> tuple[Tensor, Terms]:
        """Return the weighted KL term.

        Args:
            kl: (B,) KL(posterior ‖ prior) of each image, nats.
            target: (B, C, H, W), the images whose element count "mean" divides by.
            step: counted from zero, in batches.

        Returns:
            The scalar weight · KL (lower is better), and the unweighted term.
        """
        if not self.kl:
            return target.new_zeros(()), {}
        elements = 1 if self.reduction == "sum" else target[0].numel()
        terms = {"kl": kl.mean() / elements}
        return self.kl_weight(step) * terms["kl"], terms
