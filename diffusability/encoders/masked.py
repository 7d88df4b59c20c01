"""Masked training of an encoder: fill in hidden cells of an image."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusability.encoders.interface import StudyEncoder
from diffusability.encoders.pretext import Network, Pretext
from diffusability.encoders.vit import VitEncoder
from diffusability.errors import StudyError
from diffusability.nn.initialisation import SeededModule, draw_kaiming, draw_xavier
from diffusability.nn.transformer import MaskToken, Transformer
from diffusability.study.entries.trained_encoder import MaskedEncoder
from diffusability.training.run import Batch, Losses

ROUNDING = (2 / 255) ** 2 / 12  # variance of rounding to 8 bits, where images span -1 ... 1


class Masked(Pretext[MaskedEncoder]):
    """Encoders of kind masked."""

    loss_name = "hidden_error"

    def network(self, encoder: StudyEncoder, image_channels: int) -> Network:
        """Return the encoder under its decoder of hidden cells."""
        if isinstance(encoder, VitEncoder):
            return MaskedVit(self.spec, encoder, image_channels)
        return MaskedAutoencoder(self.spec, encoder, image_channels)

    def loss(
        self, network: Network, images: Callable[[Batch], Tensor], labels: Tensor
    ) -> Callable[[Batch], Losses]:
        """Return the error on hidden cells."""
        return MaskedLoss(self.spec, network, images)


class MaskedAutoencoder(SeededModule):
    """An encoder under a light decoder of its feature map; the decoder serves the training only.

    A cell is the square of pixels under one position of the feature map. As in SimMIM (Xie et
    al., arXiv 2111.09886), hidden cells stay in the image with their pixels replaced, so that a
    convolutional trunk can take it. As in MAE (He et al., arXiv 2111.06377), the decoder sees the
    features of visible cells alone: these then have to predict what is around them, and they are
    what the encoder gives when nothing is hidden.
    """

    normalised = False

    def __init__(self, spec: MaskedEncoder, encoder: StudyEncoder, image_channels: int) -> None:
        """Put a decoder of three convolutions on the encoder's feature map."""
        super().__init__()
        features, factor = encoder.grid_channels, int(spec.factor)
        self.encoder = encoder
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
        seen = torch.where(pixels_of(cells, images)[:, None], pixel, images)
        features = self.encoder.grid(seen)  # (B, D, h, w)
        return self.decoder(features.masked_fill(cells[:, None], 0.0))


class MaskedVit(SeededModule):
    """A transformer encoder of the visible patches alone, under a decoder of one block.

    A masked autoencoder as of MAE (He et al., arXiv 2111.06377, section 3): hidden patches do not
    enter the encoder; the decoder takes its tokens, and one learned token for every hidden patch.
    """

    normalised = True

    def __init__(self, spec: MaskedEncoder, encoder: VitEncoder, image_channels: int) -> None:
        """Put the decoder on the encoder's tokens; it is as wide as they are inside the encoder."""
        super().__init__()
        factor = int(spec.factor)
        side = encoder.transformer.positions.table.shape[-1]
        self.encoder = encoder
        with torch.device("meta"):
            self.decoder_in = nn.Linear(spec.features, spec.width)
            self.mask_token = MaskToken(spec.width)
            self.decoder = Transformer(spec.width, 1, spec.vit_heads, side)
            self.decoder_out = nn.Linear(spec.width, image_channels * factor**2)
            self.to_pixels = nn.PixelShuffle(factor)

    def draw_layer(self, name: str, layer: nn.Module, generator: torch.Generator) -> None:
        """Draw a layer's weights as `VitEncoder` does: those of the encoder first."""
        draw_xavier(layer, generator)

    def forward(self, images: Tensor, cells: Tensor) -> Tensor:
        """Return images predicted from what is not hidden; see `MaskedAutoencoder.forward`.

        The same number of cells must be hidden in every image.
        """
        hidden = cells.flatten(1)  # (B, N)
        kept = visible_numbers(hidden)  # (B, n)
        seen = self.decoder_in(self.encoder.tokens(images, kept))  # (B, n, width)
        everywhere = laid_out(seen, kept, hidden.shape[1])  # (B, N, width)
        grid = (cells.shape[1], cells.shape[2])
        decoded = self.decoder(self.mask_token(everywhere, hidden), grid)  # (B, N, width)
        return self.to_pixels(self.decoder_out(decoded).transpose(1, 2).unflatten(2, grid))


def visible_numbers(hidden: Tensor) -> Tensor:
    """Return the (B, n) numbers, ascending, of what is not hidden; hidden is (B, N) bool.

    n must be the same in every row.
    """
    return (~hidden).nonzero()[:, 1].unflatten(0, (len(hidden), -1))


def laid_out(tokens: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Put (B, n, D) tokens at their (B, n) numbers among `count` zeros: (B, count, D)."""
    zeros = tokens.new_zeros(len(tokens), count, tokens.shape[2])
    return zeros.scatter(1, numbers[..., None].expand_as(tokens), tokens)


def pixels_of(cells: Tensor, images: Tensor) -> Tensor:
    """Return the (B, H, W) pixels of (B, h, w) cells of (B, C, H, W) images."""
    rows, columns = images.shape[2] // cells.shape[1], images.shape[3] // cells.shape[2]
    return cells.repeat_interleave(rows, 1).repeat_interleave(columns, 2)


def normalised_cells(images: Tensor, factor: int) -> Tensor:
    """Return images whose every cell has mean zero and variance one over its pixels and channels.

    The targets of MAE (He et al., arXiv 2111.06377, section 4.1): (x - mean) / sqrt(var + ε) with
    the unbiased variance. Here ε is the variance of rounding to 8 bits, so that the rounding
    noise of an empty cell is not enlarged.

    Args:
        images: (B, C, H, W) floats in -1 ... 1.
        factor: side of a cell in pixels; at least two values per cell.
    """
    cells = F.pixel_unshuffle(images.float(), factor)  # (B, C·f², h, w)
    centred = cells - cells.mean(1, keepdim=True)
    scaled = centred / (cells.var(1, keepdim=True) + ROUNDING).sqrt()
    return F.pixel_shuffle(scaled, factor)


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
    """Squared error of the predicted pixels of hidden cells; a `vit` predicts normalised cells."""

    def __init__(
        self,
        spec: MaskedEncoder,
        network: MaskedAutoencoder | MaskedVit,
        images: Callable[[Batch], Tensor],
    ) -> None:
        """Hold the options, the network and the images."""
        self.spec, self.network, self.images = spec, network, images

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of one batch; the share of the pixels' variance it explains is logged."""
        images, factor = self.images(batch), int(self.spec.factor)  # (B, C, H, W)
        grid = (images.shape[2] // factor, images.shape[3] // factor)
        everywhere = hidden_cells(len(batch.indices), grid, self.spec.ratio, batch.generator)
        cells = everywhere[batch.part]  # (B, h, w)
        hidden = pixels_of(cells, images)  # (B, H, W)
        wanted = normalised_cells(images, factor) if self.network.normalised else images
        error = hidden_error(self.network(images, cells), wanted, hidden)
        mean = wanted.mean((0, 2, 3), keepdim=True).expand_as(wanted)  # of every channel
        return Losses(error, {"explained": 1 - error.detach() / hidden_error(mean, wanted, hidden)})
