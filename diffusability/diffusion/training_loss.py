"""The flow-matching loss of a training step on cached posteriors."""

import torch
from torch import Tensor

from diffusability.diffusion.flow import drop_labels, flow_matching_loss, sample_time
from diffusability.diffusion.latent_diffusion import LatentDiffusion
from diffusability.latents.shards import Latents
from diffusability.study.backbone import LightningDiTBackbone, SiTBackbone
from diffusability.training.loop import Batch, Losses


class FlowMatchingLoss:
    """Draws a fresh posterior sample, noise, time and dropped labels for every image and step."""

    def __init__(
        self,
        model: LatentDiffusion,
        latents: Latents,
        spec: SiTBackbone | LightningDiTBackbone,
        device: torch.device,
    ) -> None:
        """Hold the training latents on the device."""
        self._model, self._spec = model, spec
        self._mean = latents.mean.to(device)  # (N, C, H, W)
        self._std = torch.exp(0.5 * latents.logvar).to(device)  # (N, C, H, W)
        self._labels = latents.labels.to(device)  # (N,)

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of one batch."""
        model, spec, generator = self._model, self._spec, batch.generator
        picked = batch.indices.to(self._mean.device)
        latents = self._mean[picked] + self._std[picked] * self._noise(picked, generator)
        data = model.normalise(latents)  # (B, C, H, W)
        noise = self._noise(picked, generator)  # (B, C, H, W)
        time = sample_time(len(picked), spec.time, generator)  # (B,)
        null = model.network.num_classes
        labels = drop_labels(self._labels[picked], spec.class_dropout, null, generator)  # (B,)
        terms = flow_matching_loss(model, data, labels, noise, time, spec.cosine)
        total = terms["total"]
        return Losses(total, {k: v.detach() for k, v in terms.items() if k != "total"})

    def _noise(self, picked: Tensor, generator: torch.Generator) -> Tensor:
        shape = (len(picked), *self._mean.shape[1:])
        return torch.randn(shape, generator=generator, device=self._mean.device)
