"""A vision transformer whose every token sees the whole image."""

import torch
from torch import Tensor, nn

from diffusability.encoders.interface import StudyEncoder
from diffusability.nn.initialisation import draw_xavier
from diffusability.nn.transformer import Transformer
from diffusability.study.entries.encoder import TrainedEncoder


class VitEncoder(StudyEncoder):
    """Images to tokens on a grid, to their mean, to class logits.

    Every token is a patch of factor x factor pixels. There is no class token: the feature vector
    of an image is the mean of its tokens, and training acts on them. Images are floats in -1 ... 1.
    """

    def __init__(
        self, spec: TrainedEncoder, image_channels: int, size: int, num_classes: int
    ) -> None:
        """Build the layers on the meta device; `initialise` or loaded weights fill them.

        Args:
            spec: the entry's options.
            image_channels: C of the images.
            size: side in pixels of the images that positions are learned for; others interpolate.
            num_classes: class logits, 0 for none.
        """
        super().__init__()
        self.factor = int(spec.factor)
        with torch.device("meta"):
            self.patch_embedding = nn.Conv2d(
                image_channels, spec.width, self.factor, stride=self.factor
            )
            self.transformer = Transformer(
                spec.width, spec.vit_depth, spec.vit_heads, size // self.factor
            )
            self.out = nn.Linear(spec.width, spec.features)
            # the head comes last: one seed draws the same trunk with and without it
            self.head = nn.Linear(spec.features, num_classes) if num_classes else None
        self.grid_channels, self.classes = spec.features, num_classes

    def draw_layer(self, name: str, layer: nn.Module, generator: torch.Generator) -> None:
        """Draw a layer's weights as in MAE: Xavier-uniform, zero biases.

        The N(0, 0.02²) of large transformers leaves the tokens of a narrow one almost equal.
        """
        draw_xavier(layer, generator)

    def tokens(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return the (B, n, features) tokens of images (B, C, H, W), row by row.

        Args:
            images: floats in -1 ... 1.
            kept: (B, n) int64, numbers of the only patches that are looked at; None for all.
        """
        cells = self.patch_embedding(images)  # (B, width, h, w)
        tokens = cells.flatten(2).transpose(1, 2)  # (B, h·w, width)
        if kept is not None:
            tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        grid = (cells.shape[2], cells.shape[3])
        return self.out(self.transformer(tokens, grid, kept))

    def grid(self, images: Tensor) -> Tensor:
        """Return the (B, features, H / factor, W / factor) feature map."""
        cells = (images.shape[2] // self.factor, images.shape[3] // self.factor)
        return self.tokens(images).transpose(1, 2).unflatten(2, cells)

    def logits(self, features: Tensor) -> Tensor:
        """Return the (..., num_classes) logits of (..., features) tokens or means of them."""
        return super().logits(features) if self.head is None else self.head(features)
