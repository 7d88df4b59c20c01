"""One training step of a tokenizer: the losses of autoencoder and discriminator."""

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from diffusability.errors import StudyError, TrainingError
from diffusability.tokenizers.discriminator import (
    PatchDiscriminator,
    discriminator_hinge,
    generator_hinge,
)
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.objective import (
    GAN_MAXIMUM,
    Objective,
    PerceptualDistance,
    Terms,
    adaptive_weight,
)
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer
from diffusability.training.run import Losses


class TokenizerLosses:
    """The two losses of a step, for a loop that minimises them in turn.

    `autoencoder_loss` comes first and keeps its target and detached reconstruction; then
    `discriminator_loss` uses that pair, so the autoencoder runs once per step. If a step has
    several parts, all of them go through the first loss and then, in the same order, through the
    second. A pair is used once: no state is kept between steps.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        objective: Objective,
        regularizer: Regularizer,
        discriminator: PatchDiscriminator | None = None,
        perceptual: PerceptualDistance | None = None,
    ) -> None:
        """Store the parts, without copying.

        Args:
            tokenizer: the autoencoder.
            objective: weights of Eq. 12.
            regularizer: for the baseline, an instance of `Regularizer` itself.
            discriminator: required if the weight of the GAN is not zero.
            perceptual: distance of two image batches, required if its weight is not zero.

        Raises:
            StudyError: if a part with a non-zero weight is missing.
        """
        for name, weight, part in (
            ("gan", objective.options.gan, discriminator),
            ("perceptual", objective.options.perceptual, perceptual),
        ):
            if weight and part is None:
                raise StudyError(
                    f"objective: {name} has weight {weight} but its network is missing; "
                    "give the network or set the weight to zero"
                )
        self.tokenizer = tokenizer
        self.objective = objective
        self.regularizer = regularizer
        self.discriminator = discriminator
        self.perceptual = perceptual
        self._pairs: deque[tuple[Tensor, Tensor]] = deque()

    def autoencoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of tokenizer and regularizer (projections, mask tokens)."""
        yield from self.tokenizer.parameters()
        yield from self.regularizer.parameters()

    def autoencoder_loss(
        self, images: Tensor, features: Tensor | None, step: int, generator: torch.Generator
    ) -> Losses:
        """Return the autoencoder's loss: Eq. 12 plus the regularizer's penalties.

        Args:
            images: (B, C, H, W), in [-1, 1].
            features: (B, D, h', w') of a frozen encoder, for regularizers that align to one.
            step: counted from zero, in batches.
            generator: source of the regularizer's choices and then of the posterior's
                noise.

        Returns:
            Scalar total (lower is better) and its unweighted terms with their adaptive factors,
            all detached. No gradient reaches the discriminator.
        """
        choice = self.regularizer.draw(self.tokenizer.grid(images), len(images), generator)
        images = self.regularizer.prepare_images(images, choice)
        mask = self.regularizer.encoder_mask(images, choice)
        posterior = self.tokenizer.encode(images, mask)
        latents = posterior.sample(generator)  # (B, d, h, w)
        decoded, target = self.regularizer.transform(latents, images, choice)
        reconstruction = _widen(self.tokenizer.decode(decoded))  # (B, C, H, W)
        objective, active = self.objective, self.objective.gan_active(step)
        reference, terms = objective.reconstruction(target, reconstruction, self.perceptual)
        divergence, divergence_terms = objective.divergence(posterior.kl(), target, step)
        with torch.autocast(images.device.type, enabled=False):  # cosines need full precision
            penalties = self.regularizer.penalties(posterior, latents, features)
        total = reference + divergence
        terms |= divergence_terms
        if active:
            total = total + self._gan(reference, reconstruction, terms)
            self._pairs.append((target, reconstruction.detach()))
        for penalty in penalties:
            total = total + self._penalised(reference, penalty, terms)
        return Losses(total, {name: term.detach() for name, term in terms.items()})

    def discriminator_loss(self) -> Losses:
        """Return the hinge loss on the oldest images and reconstructions that it has not seen.

        Returns:
            Scalar total (lower is a better discriminator) and the mean scores of both sides. No
            gradient reaches the autoencoder.

        Raises:
            TrainingError: if there are none: `autoencoder_loss` was not called before, or at a
                step at which the GAN loss is not enabled.
        """
        if self.discriminator is None or not self._pairs:
            raise TrainingError(
                "discriminator_loss: no reconstruction of this step; call autoencoder_loss first, "
                "at a step from gan_start on"
            )
        target, reconstruction = self._pairs.popleft()
        real, fake = _widen(self.discriminator(target)), _widen(self.discriminator(reconstruction))
        terms = {"real_score": real.detach().mean(), "fake_score": fake.detach().mean()}
        return Losses(discriminator_hinge(real, fake), terms)

    def _gan(self, reference: Tensor, reconstruction: Tensor, terms: Terms) -> Tensor:
        """Return gan · λ∇ · GAN with the discriminator's parameters detached."""
        assert self.discriminator is not None  # checked on construction
        frozen = {name: tensor.detach() for name, tensor in self.discriminator.named_parameters()}
        scores = functional_call(self.discriminator, frozen, (reconstruction,))  # (B, 1, h', w')
        loss = generator_hinge(_widen(scores))
        factor = adaptive_weight(reference, loss, self.tokenizer.decoder_last_weight, GAN_MAXIMUM)
        terms |= {"gan": loss, "gan_factor": factor}
        return self.objective.options.gan * factor * loss

    def _penalised(self, reference: Tensor, penalty: Penalty, terms: Terms) -> Tensor:
        """Return weight · λ∇ · penalty, balanced at the encoder's last layer."""
        terms |= {penalty.name: penalty.loss, **penalty.parts}
        if not penalty.adaptive:
            return penalty.weight * penalty.loss
        factor = adaptive_weight(
            reference, penalty.loss, self.tokenizer.encoder_last_weight, penalty.maximum
        )
        terms[f"{penalty.name}_factor"] = factor
        return penalty.weight * factor * penalty.loss


def _widen(tensor: Tensor) -> Tensor:
    """Return half-precision tensors in float32, others unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
