"""Contrastive training of an encoder: two views of one image belong together.

Of whole images as in SimCLR (Chen et al., arXiv 2002.05709), and of single tokens as in DenseCL
(Wang et al., arXiv 2011.09157).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusability.encoders.augmentation import random_view
from diffusability.encoders.interface import StudyEncoder
from diffusability.encoders.pretext import Network, Pretext
from diffusability.nn.initialisation import SeededModule, draw_kaiming
from diffusability.study.entries.trained_encoder import ContrastiveEncoder
from diffusability.training.run import Batch, Losses


class Contrastive(Pretext[ContrastiveEncoder]):
    """Encoders of kind contrastive."""

    loss_name = "nt_xent"
    divisible = False  # it compares all views of a batch

    def network(self, encoder: StudyEncoder, image_channels: int) -> Network:
        """Return the encoder under its projection heads."""
        return ContrastiveNetwork(self.spec, encoder)

    def loss(
        self, network: Network, images: Callable[[Batch], Tensor], labels: Tensor
    ) -> Callable[[Batch], Losses]:
        """Return the cross-entropy of views, and of their tokens."""
        return ContrastiveLoss(self.spec, network, images)


class ContrastiveNetwork(SeededModule):
    """An encoder under projection heads; the heads serve the training only."""

    def __init__(self, spec: ContrastiveEncoder, encoder: StudyEncoder) -> None:
        """Put a head on the features of images and, where tokens are contrasted, one on those."""
        super().__init__()
        self.encoder = encoder
        with torch.device("meta"):
            self.head = _head(encoder.grid_channels, spec.projection)
            if spec.dense_share:
                self.dense_head = _head(encoder.grid_channels, spec.projection)

    def draw_layer(self, name: str, layer: nn.Module, generator: torch.Generator) -> None:
        """Draw a layer's weights as the encoder does, those of the heads for their ReLU."""
        inside = name.removeprefix("encoder.")
        if inside != name:
            self.encoder.draw_layer(inside, layer, generator)
        else:
            draw_kaiming(layer, generator)

    def forward(self, images: Tensor) -> Tensor:
        """Return the (B, P) projections of images."""
        return self.head(self.encoder.features(images))

    def with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (B, P) projections of images, (B, N, D) tokens and (B, N, P) projections of them.

        The feature of an image is the mean of its tokens.
        """
        tokens = self.encoder.grid(images).flatten(2).transpose(1, 2)  # (B, N, D)
        return self.head(tokens.mean(1)), tokens, self.dense_head(tokens)


def _head(features: int, projection: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, projection))


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


def dense_nt_xent(tokens: Tensor, projected: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of single tokens between two views of every image.

    Each token r has as its positive t₊ the token of the other view whose feature is nearest in
    cosine, and as negatives t₋ the other images' mean tokens in the other view:
    mean over r of -log(exp(r·t₊/τ) / (exp(r·t₊/τ) + Σ_{t₋} exp(r·t₋/τ))), all of length one, in
    both directions. Source: Eq. 2 and 3 of Wang et al. (DenseCL), arXiv 2011.09157; there the
    negatives come from a queue, here from the batch.

    Args:
        tokens: (2B, N, D) features, first of one view of every image, then of the other; which
            tokens correspond is found in them.
        projected: (2B, N, P) projections of the same tokens.
        temperature: τ > 0.

    Returns:
        Scalar, lower is better: log B where nothing is told apart.
    """
    wide = torch.promote_types(projected.dtype, torch.float32)
    unit = F.normalize(tokens.detach().to(wide), dim=2).chunk(2)  # (B, N, D) each
    z = F.normalize(projected.to(wide), dim=2).chunk(2)  # (B, N, P) each
    losses = []
    with torch.autocast(z[0].device.type, enabled=False):
        for one, other in ((0, 1), (1, 0)):
            nearest = (unit[one] @ unit[other].transpose(1, 2)).argmax(2)  # (B, N)
            matched = z[other].gather(1, nearest[..., None].expand_as(z[other]))  # (B, N, P)
            positive = (z[one] * matched).sum(2, keepdim=True)  # (B, N, 1)
            means = F.normalize(z[other].mean(1), dim=1)  # (B, P)
            negative = z[one] @ means.T  # (B, N, B)
            itself = torch.eye(len(means), dtype=torch.bool, device=means.device)
            negative = negative.masked_fill(itself[:, None], -torch.inf)
            scores = torch.cat([positive, negative], dim=2) / temperature  # (B, N, 1 + B)
            losses.append(-scores.log_softmax(2)[..., 0].mean())
    return torch.stack(losses).mean()


class ContrastiveLoss:
    """NT-Xent of two random views of every image of a batch; the whole batch is needed at once."""

    def __init__(
        self,
        spec: ContrastiveEncoder,
        network: ContrastiveNetwork,
        images: Callable[[Batch], Tensor],
    ) -> None:
        """Hold the options, the network and the images."""
        self.spec, self.network, self.images = spec, network, images

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of one batch; the share of views that find their other is logged."""
        images = self.images(batch)  # (B, C, H, W)
        views = torch.cat([random_view(images, batch.generator) for _ in range(2)])
        share, temperature = self.spec.dense_share, self.spec.temperature
        if not share:
            first, second = self.network(views).chunk(2)  # (B, P) each
            loss, matched = nt_xent(first, second, temperature)
            return Losses(loss, {"matched": matched})
        whole, tokens, projected = self.network.with_tokens(views)
        first, second = whole.chunk(2)  # (B, P) each
        loss, matched = nt_xent(first, second, temperature)
        dense = dense_nt_xent(tokens, projected, temperature)
        total = (1 - share) * loss + share * dense
        return Losses(total, {"matched": matched, "dense": dense.detach()})
