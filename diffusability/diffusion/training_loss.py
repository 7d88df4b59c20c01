"""The losses of a diffusion model's training step, on cached posteriors."""

import torch
from torch import Tensor

from diffusability.diffusion.edm import denoising_loss, training_sigma
from diffusability.diffusion.flow import drop_labels, flow_matching_loss, sample_time
from diffusability.diffusion.guidance import require_classes
from diffusability.diffusion.latent_diffusion import LatentDenoiser, LatentDiffusion
from diffusability.latents.posteriors import Posteriors
from diffusability.study.entries.backbone import Backbone
from diffusability.training.run import Batch, Losses


class _Draws:
    """Random draws per image and step that both diffusion processes share."""

    def __init__(
        self,
        model: LatentDiffusion | LatentDenoiser,
        posteriors: Posteriors,
        spec: Backbone,
    ) -> None:
        """Store the parts; model and posteriors must be on one device.

        Raises:
            StudyError: a label of the latents is not a class of the network.
        """
        require_classes(posteriors.labels, model.network.num_classes, "training on latents")
        self._model, self._posteriors, self._spec = model, posteriors, spec

    def _data(self, batch: Batch) -> Tensor:
        """Return (b, C, H, W) fresh samples of the posteriors, in the network's units."""
        mean, std = self._posteriors.fetch(batch.picked, batch.upcoming)  # (b, C, H, W) each
        latents = mean + std * self._noise(batch)[batch.part]
        return self._model.normalise(latents)

    def _noise(self, batch: Batch) -> Tensor:
        """Return (B, C, H, W) standard normal noise."""
        shape, generator = (len(batch.indices), *self._posteriors.shape), batch.generator
        return torch.randn(shape, generator=generator, device=generator.device)

    def _labels(self, batch: Batch) -> Tensor:
        """Return the (b,) labels, some of them dropped."""
        null, known = self._model.network.num_classes, self._posteriors.labels_of(batch.indices)
        return drop_labels(known, self._spec.class_dropout, null, batch.generator)[batch.part]


class FlowMatchingLoss(_Draws):
    """Flow-matching loss; posterior sample, noise, time and label dropout are drawn per step."""

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of a part of b images of a batch of B."""
        spec, generator, part = self._spec, batch.generator, batch.part
        data = self._data(batch)  # (b, C, H, W)
        noise = self._noise(batch)[part]  # (b, C, H, W)
        time = sample_time(len(batch.indices), spec.time, generator)[part]  # (b,)
        labels = self._labels(batch)  # (b,)
        terms = flow_matching_loss(self._model, data, labels, noise, time, spec.cosine)
        total = terms["total"]
        return Losses(total, {k: v.detach() for k, v in terms.items() if k != "total"})


class EDMLoss(_Draws):
    """EDM's loss; posterior sample, noise, noise level and label dropout are drawn per step."""

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of a part of b images of a batch of B."""
        edm, generator, part = self._spec.edm, batch.generator, batch.part
        assert edm is not None  # set for process edm
        data = self._data(batch)  # (b, C, H, W)
        noise = self._noise(batch)[part]  # (b, C, H, W)
        sigma = training_sigma(len(batch.indices), generator, edm)[part]  # (b,)
        labels = self._labels(batch)  # (b,)
        return Losses(denoising_loss(self._model, data, sigma, noise, edm.sigma_data, labels))


def diffusion_loss(
    model: LatentDiffusion | LatentDenoiser, posteriors: Posteriors, spec: Backbone
) -> FlowMatchingLoss | EDMLoss:
    """Return the loss of the entry's process; model and posteriors must be on one device."""
    kind = EDMLoss if isinstance(model, LatentDenoiser) else FlowMatchingLoss
    return kind(model, posteriors, spec)
