"""Supervised training of an encoder: cross-entropy on slightly shifted images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusability.data.images import ImageSet
from diffusability.encoders.pretext import Network, Pretext
from diffusability.study.encoder import SupervisedEncoder
from diffusability.training.loop import Batch, Losses

SHIFT = 1  # largest random shift of a training batch, in pixels, along both axes


class Classification(Pretext[SupervisedEncoder]):
    """Encoders of kind supervised."""

    loss_name = "cross_entropy"

    def classes(self, data: ImageSet) -> int:
        """One logit per class of the dataset."""
        return data.num_classes

    def loss(
        self, network: Network, images: Callable[[Batch], Tensor], labels: Tensor
    ) -> Callable[[Batch], Losses]:
        """Return the cross-entropy."""
        return ClassificationLoss(network, images, labels)


class ClassificationLoss:
    """Cross-entropy of a classifier on the images of a training."""

    def __init__(self, model: nn.Module, images: Callable[[Batch], Tensor], labels: Tensor) -> None:
        """Take what gives a batch's (B, C, H, W) images, and (N,) int64 labels on their device."""
        self.model, self.images, self.labels = model, images, labels

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of one batch; the accuracy is logged."""
        device = self.labels.device
        shift = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=batch.generator, device=device)
        moved = torch.roll(self.images(batch), shift.tolist(), dims=(2, 3))  # (B, C, H, W)
        logits = self.model(moved).float()  # (B, K)
        labels = self.labels[batch.picked.to(device)]  # (B,)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return Losses(F.cross_entropy(logits, labels), {"accuracy": accuracy})
