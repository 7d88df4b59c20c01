"""The flow-matching loss of a training step on cached posteriors."""

import torch
from torch import Tensor

from diffusability.diffusion.flow import drop_labels, flow_matching_loss, sample_time
from diffusability.diffusion.guidance import require_classes
from diffusability.diffusion.latent_diffusion import LatentDiffusion
from diffusability.latents.posteriors import Posteriors
from diffusability.study.backbone import LightningDiTBackbone, SiTBackbone
from diffusability.training.loop import Batch, Losses


class FlowMatchingLoss:
    """Draws a fresh posterior sample, noise, time and dropped labels for every image and step."""

    def __init__(
        self,
        model: LatentDiffusion,
        posteriors: Posteriors,
        spec: SiTBackbone | LightningDiTBackbone,
    ) -> None:
        """Join the parts; model and posteriors are on one device.

        Raises:
            StudyError: a label of the latents is no class of the network.
        """
        require_classes(posteriors.labels, model.network.num_classes, "training on latents")
        self._model, self._posteriors, self._spec = model, posteriors, spec

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of a part of b images of a batch of B."""
        model, spec, generator, part = self._model, self._spec, batch.generator, batch.part
        mean, std = self._posteriors.fetch(batch.picked, batch.upcoming)  # (b, C, H, W) each
        latents = mean + std * self._noise(batch)[part]
        data = model.normalise(latents)  # (b, C, H, W)
        noise = self._noise(batch)[part]  # (b, C, H, W)
        time = sample_time(len(batch.indices), spec.time, generator)[part]  # (b,)
        null, known = model.network.num_classes, self._posteriors.labels_of(batch.indices)
        labels = drop_labels(known, spec.class_dropout, null, generator)[part]  # (b,)
        terms = flow_matching_loss(model, data, labels, noise, time, spec.cosine)
        total = terms["total"]
        return Losses(total, {k: v.detach() for k, v in terms.items() if k != "total"})

    def _noise(self, batch: Batch) -> Tensor:
        """Return (B, C, H, W) standard normal noise."""
        shape, generator = (len(batch.indices), *self._posteriors.shape), batch.generator
        return torch.randn(shape, generator=generator, device=generator.device)
