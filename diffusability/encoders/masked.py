"""Masked training of an encoder: fill in hidden cells of an image."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffusability.encoders.convnet import ConvEncoder
from diffusability.encoders.pretext import Network, Pretext
from diffusability.errors import StudyError
from diffusability.nn.initialisation import SeededModule, draw_kaiming
from diffusability.study.encoder import MaskedEncoder
from diffusability.training.loop import Batch, Losses


class Masked(Pretext[MaskedEncoder]):
    """Encoders of kind masked."""

    loss_name = "hidden_error"

    def network(self, encoder: ConvEncoder, image_channels: int) -> Network:
        """Return the encoder under its decoder of hidden cells."""
        return MaskedAutoencoder(encoder, image_channels, self.spec.factor)

    def loss(
        self, network: Network, images: Callable[[Batch], Tensor], labels: Tensor
    ) -> Callable[[Batch], Losses]:
        """Return the error on hidden cells."""
        return MaskedLoss(network, images, self.spec.ratio)


class MaskedAutoencoder(SeededModule):
    """An encoder under a light decoder of its feature map; the decoder serves the training only.

    A cell is the square of pixels under one position of the feature map. As in SimMIM (Xie et
    al., arXiv 2111.09886), hidden cells stay in the image with their pixels replaced, so that a
    convolutional trunk can take it. As in MAE (He et al., arXiv 2111.06377), the decoder sees the
    features of visible cells alone: these then have to predict what is around them, and they are
    what the encoder gives when nothing is hidden.
    """

    def __init__(self, encoder: ConvEncoder, image_channels: int, factor: int) -> None:
        """Put a decoder of three convolutions on the encoder's feature map.

        Args:
            encoder: what is kept.
            image_channels: C of the images.
            factor: image pixels per cell, along one side.
        """
        super().__init__()
        features = encoder.grid_channels
        self.encoder, self.factor = encoder, factor
        with torch.device("meta"):
            self.hidden_pixel = nn.Parameter(torch.empty(image_channels))
            self.decoder = nn.Sequential(
                nn.Conv2d(features, features, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(features, features, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(features, image_channels * factor**2, 1),
                nn.PixelShuffle(factor),
            )

    def fill(self, _generator: torch.Generator) -> None:
        """Start hidden pixels in the middle of the range."""
        nn.init.zeros_(self.hidden_pixel)

    def draw_layer(self, name: str, layer: nn.Module, generator: torch.Generator) -> None:
        """Draw a layer's weights for the ReLU behind it: those of the encoder first."""
        draw_kaiming(layer, generator)

    def forward(self, images: Tensor, cells: Tensor) -> Tensor:
        """Return images predicted from what is not hidden.

        Args:
            images: (B, C, H, W) floats in -1 ... 1.
            cells: (B, h, w) bool, True for cells that must not be seen.

        Returns:
            (B, C, H, W) predictions, of visible pixels too.
        """
        pixel = self.hidden_pixel.to(images.dtype)[:, None, None]  # (C, 1, 1)
        seen = torch.where(self.pixels(cells)[:, None], pixel, images)
        features = self.encoder.grid(seen)  # (B, D, h, w)
        return self.decoder(features.masked_fill(cells[:, None], 0.0))

    def pixels(self, cells: Tensor) -> Tensor:
        """Return the (B, H, W) pixels of (B, h, w) cells."""
        return cells.repeat_interleave(self.factor, 1).repeat_interleave(self.factor, 2)


def hidden_cells(
    images: int, grid: tuple[int, int], ratio: float, generator: torch.Generator
) -> Tensor:
    """Hide the same number of random cells in every image.

    Args:
        images: B.
        grid: height h and width w, in cells.
        ratio: share of hidden cells, in (0, 1); round(ratio·h·w) are hidden.
        generator: source of the positions.

    Returns:
        (B, h, w) bool on the generator's device; True where hidden.

    Raises:
        StudyError: if every cell would be hidden, or none.
    """
    cells = grid[0] * grid[1]
    count = round(ratio * cells)
    if not 0 < count < cells:
        raise StudyError(
            f"masked encoder: a ratio of {ratio} hides {count} of {cells} cells; some must be "
            "hidden and some seen: change `ratio`, or make `factor` smaller"
        )
    scores = torch.rand((images, cells), generator=generator, device=generator.device)
    chosen = scores.topk(count, dim=1).indices  # (B, count)
    hidden = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, True)
    return hidden.unflatten(1, grid)


def hidden_error(predicted: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean squared error over hidden pixels alone, lower is better.

    Args:
        predicted: (B, C, H, W).
        images: (B, C, H, W).
        hidden: (B, H, W) bool, True somewhere.
    """
    squared = (predicted.float() - images).square().mean(1)  # (B, H, W)
    return squared[hidden].mean()


class MaskedLoss:
    """Squared error of the predicted pixels of hidden cells."""

    def __init__(
        self, network: MaskedAutoencoder, images: Callable[[Batch], Tensor], ratio: float
    ) -> None:
        """Hold the network, the images, and the share of hidden cells."""
        self.network, self.images, self.ratio = network, images, ratio

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of one batch; the share of the pixels' variance it explains is logged."""
        images = self.images(batch)  # (B, C, H, W)
        factor = self.network.factor
        grid = (images.shape[2] // factor, images.shape[3] // factor)
        everywhere = hidden_cells(len(batch.indices), grid, self.ratio, batch.generator)
        cells = everywhere[batch.part]  # (B, h, w)
        hidden = self.network.pixels(cells)  # (B, H, W)
        error = hidden_error(self.network(images, cells), images, hidden)
        mean = images.mean((0, 2, 3), keepdim=True).expand_as(images)  # of every channel
        return Losses(error, {"explained": 1 - error.detach() / hidden_error(mean, images, hidden)})
