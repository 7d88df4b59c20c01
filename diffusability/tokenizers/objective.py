"""The training objective of a tokenizer: Eq. 12 of *Diffusing in the Right Space*.

L = L1 + λ₁ · perceptual + λ₂ · λ∇ · GAN + λ₃ · KL (arXiv 2606.03578), with λ₁ = 1, λ₂ = 0.5,
λ₃ = 1e-6 and λ∇ the gradient-driven weight of VQGAN (Esser et al., arXiv 2012.09841, Eq. 7).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusability.errors import StudyError
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]
Terms = dict[str, Tensor]
ADAPTIVE_EPSILON = 1e-4
GAN_MAXIMUM = 1e4  # of the GAN's adaptive factor


def adaptive_weight(
    reference_loss: Tensor, loss: Tensor, weight_tensor: Tensor, maximum: float
) -> Tensor:
    """Return the factor that gives a loss the gradient norm of the reference at one layer.

    λ∇ = ‖∂reference/∂W‖ / (‖∂loss/∂W‖ + 1e-4), at most ``maximum`` (Eq. 7, arXiv 2012.09841).

    Args:
        reference_loss: scalar, the reconstruction loss.
        loss: scalar, the loss to be balanced; both depend on ``weight_tensor``.
        weight_tensor: W, weight of the layer where the gradients are compared.
        maximum: upper bound of the factor, which diverges for a vanishing loss.

    Returns:
        Detached scalar in [0, maximum]. The graph of both losses is kept for their backward pass.
    """
    (reference,) = torch.autograd.grad(reference_loss, weight_tensor, retain_graph=True)
    (gradient,) = torch.autograd.grad(loss, weight_tensor, retain_graph=True)
    factor = reference.norm() / (gradient.norm() + ADAPTIVE_EPSILON)
    return factor.clamp(0.0, maximum).detach()


class Objective:
    """The terms of Eq. 12 for an entry's options; a weight of zero skips its term.

    Reductions: "sum" sums L1 over image elements, multiplies the perceptual distance by their
    number, and sums the KL over the latent, as VA-VAE does. "mean" divides all three by the number
    of image elements, which keeps their balance and only affects terms without an adaptive factor.
    The batch is always averaged.
    """

    def __init__(self, options: ObjectiveSpec) -> None:
        self.options = options

    def gan_active(self, step: int) -> bool:
        """Return whether the GAN loss is enabled at a step, counted from zero in batches."""
        return self.options.gan > 0 and step >= self.options.gan_start

    def reconstruction(
        self, target: Tensor, reconstruction: Tensor, distance: PerceptualDistance | None
    ) -> tuple[Tensor, Terms]:
        """Return the weighted L1, squared and perceptual loss, the reference of adaptive factors.

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
        elements = target[0].numel() if self.options.reduction == "sum" else 1
        terms: Terms = {}
        total = target.new_zeros(())
        if self.options.l1:
            terms["l1"] = elements * (target - reconstruction).abs().mean()
            total = total + self.options.l1 * terms["l1"]
        if self.options.mse:
            terms["mse"] = elements * (target - reconstruction).square().mean()
            total = total + self.options.mse * terms["mse"]
        if self.options.perceptual:
            if distance is None:
                raise StudyError(
                    f"objective: perceptual has weight {self.options.perceptual} but no distance "
                    "is given; name a perceptual network or set the weight to zero"
                )
            terms["perceptual"] = elements * distance(target, reconstruction).mean()
            total = total + self.options.perceptual * terms["perceptual"]
        return total, terms

    def kl_weight(self, step: int) -> float:
        """Return the weight of the KL at a step, counted from zero in batches."""
        return self.options.kl * min(1.0, (step + 1) / max(1, self.options.kl_warmup))

    def divergence(self, kl: Tensor, target: Tensor, step: int) -> tuple[Tensor, Terms]:
        """Return the weighted KL term.

        Args:
            kl: (B,) KL(posterior ‖ prior) of each image, nats.
            target: (B, C, H, W), the images whose element count "mean" divides by.
            step: counted from zero, in batches.

        Returns:
            The scalar weight · KL (lower is better), and the unweighted term.
        """
        if not self.options.kl:
            return target.new_zeros(()), {}
        elements = 1 if self.options.reduction == "sum" else target[0].numel()
        terms = {"kl": kl.mean() / elements}
        return self.kl_weight(step) * terms["kl"], terms
