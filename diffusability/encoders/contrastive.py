"""Contrastive training of an encoder: two views of one image belong together (SimCLR)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusability.encoders.augmentation import random_view
from diffusability.encoders.convnet import ConvEncoder
from diffusability.encoders.pretext import Network, Pretext
from diffusability.nn.initialisation import SeededModule, draw_kaiming
from diffusability.study.encoder import ContrastiveEncoder
from diffusability.training.loop import Batch, Losses


class Contrastive(Pretext[ContrastiveEncoder]):
    """Encoders of kind contrastive."""

    loss_name = "nt_xent"
    divisible = False  # it compares all views of a batch

    def network(self, encoder: ConvEncoder, image_channels: int) -> Network:
        """Return the encoder under its projection head."""
        return ContrastiveNetwork(encoder, self.spec.projection)

    def loss(
        self, network: Network, images: Callable[[Batch], Tensor], labels: Tensor
    ) -> Callable[[Batch], Losses]:
        """Return the cross-entropy of views."""
        return ContrastiveLoss(network, images, self.spec.temperature)


class ContrastiveNetwork(SeededModule):
    """An encoder under a projection head; the head serves the training only."""

    def __init__(self, encoder: ConvEncoder, projection: int) -> None:
        """Put a head with one hidden layer on the encoder's features.

        Args:
            encoder: what is kept.
            projection: channels P that views are compared in.
        """
        super().__init__()
        features = encoder.grid_channels
        self.encoder = encoder
        with torch.device("meta"):
            self.head = nn.Sequential(
                nn.Linear(features, features), nn.ReLU(), nn.Linear(features, projection)
            )

    def draw_layer(self, name: str, layer: nn.Module, generator: torch.Generator) -> None:
        """Draw a layer's weights for the ReLU behind it: those of the encoder first."""
        draw_kaiming(layer, generator)

    def forward(self, images: Tensor) -> Tensor:
        """Return the (B, P) projections of images."""
        return self.head(self.encoder.features(images))


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the normalised, temperature-scaled cross-entropy, and how often it is right.

    With z the 2B projections scaled to length one, j(i) the other view of i's image, and τ the
    temperature: mean over i of -log(exp(z_i·z_j(i)/τ) / Σ_{k≠i} exp(z_i·z_k/τ)). Source: Eq. 1 of
    Chen et al., arXiv 2002.05709.

    Args:
        first: (B, P) projections of one view of every image.
        second: (B, P) projections of another view, in the same order.
        temperature: τ > 0.

    Returns:
        The loss, lower is better: log(2B - 1) where nothing is told apart. And the share of views
        whose nearest other view is the right one, in [0, 1], higher is better. Both float32 or
        wider scalars.
    """
    count = len(first)
    z = torch.cat([first, second])  # (2B, P)
    z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
    with torch.autocast(z.device.type, enabled=False):
        similarity = z @ z.T / temperature  # (2B, 2B)
    itself = torch.eye(2 * count, dtype=torch.bool, device=z.device)
    similarity = similarity.masked_fill(itself, -torch.inf)
    other = torch.arange(2 * count, device=z.device).roll(count)  # (2B,)
    right = (similarity.detach().argmax(1) == other).float().mean()
    return F.cross_entropy(similarity, other), right


class ContrastiveLoss:
    """NT-Xent of two random views of every image of a batch; the whole batch is needed at once."""

    def __init__(
        self, network: ContrastiveNetwork, images: Callable[[Batch], Tensor], temperature: float
    ) -> None:
        """Hold the network, the images, and the temperature of the softmax."""
        self.network, self.images, self.temperature = network, images, temperature

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of one batch; the share of views that find their other is logged."""
        images = self.images(batch)  # (B, C, H, W)
        views = [random_view(images, batch.generator) for _ in range(2)]
        first, second = self.network(torch.cat(views)).chunk(2)  # (B, P) each
        loss, matched = nt_xent(first, second, self.temperature)
        return Losses(loss, {"matched": matched})
