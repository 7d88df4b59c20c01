"""Supervised training of an encoder: cross-entropy on slightly shifted images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusability.training.loop import Batch, Losses

SHIFT = 1  # largest random shift of a training batch, in pixels, along both axes


class ClassificationLoss:
    """Cross-entropy of a classifier on a fixed set of images."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Hold images (N, C, H, W) floats in -1 ... 1 and labels (N,) int64 on the device."""
        self.model, self.images, self.labels = model, images, labels

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of one batch; the accuracy is logged."""
        device = self.images.device
        shift = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=batch.generator, device=device)
        picked = batch.picked.to(device)
        moved = torch.roll(self.images[picked], shift.tolist(), dims=(2, 3))  # (B, C, H, W)
        logits = self.model(moved).float()  # (B, K)
        labels = self.labels[picked]  # (B,)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return Losses(F.cross_entropy(logits, labels), {"accuracy": accuracy})
