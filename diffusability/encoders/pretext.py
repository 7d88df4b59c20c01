"""What each kind of encoder is trained for: its network under training, and its loss."""

from collections.abc import Callable
from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusability.encoders.contrastive import ContrastiveLoss, ContrastiveNetwork
from diffusability.encoders.convnet import ConvEncoder
from diffusability.encoders.masked import MaskedAutoencoder, MaskedLoss
from diffusability.study.encoder import ContrastiveEncoder, MaskedEncoder, SupervisedEncoder
from diffusability.training.loop import Batch, Losses

Network = ConvEncoder | ContrastiveNetwork | MaskedAutoencoder
Spec = SupervisedEncoder | ContrastiveEncoder | MaskedEncoder
SHIFT = 1  # largest random shift of a supervised batch, in pixels, along both axes
LOSS_NAMES = {"supervised": "cross_entropy", "contrastive": "nt_xent", "masked": "hidden_error"}


def build_network(spec: Spec, encoder: ConvEncoder, image_channels: int) -> Network:
    """Return the encoder with what only its training needs on top."""
    match spec:
        case ContrastiveEncoder():
            return ContrastiveNetwork(encoder, spec.projection)
        case MaskedEncoder():
            return MaskedAutoencoder(encoder, image_channels, spec.factor)
        case SupervisedEncoder():
            return encoder
        case _:
            assert_never(spec)


def encoder_of(network: Network) -> ConvEncoder:
    """Return the encoder inside a network that `build_network` made."""
    return network if isinstance(network, ConvEncoder) else network.encoder


def build_loss(
    spec: Spec, network: Network, images: Callable[[Batch], Tensor], labels: Tensor
) -> Callable[[Batch], Losses]:
    """Return the loss of a network on a batch; labels, (N,) on the device, may go unused."""
    match spec, network:
        case ContrastiveEncoder(), ContrastiveNetwork():
            return ContrastiveLoss(network, images, spec.temperature)
        case MaskedEncoder(), MaskedAutoencoder():
            return MaskedLoss(network, images, spec.ratio)
        case SupervisedEncoder(), ConvEncoder():
            return ClassificationLoss(network, images, labels)
    raise TypeError(f"{type(network).__name__} is no network of a {spec.kind} encoder")


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
