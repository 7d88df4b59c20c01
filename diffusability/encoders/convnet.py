"""A small convolutional network whose features serve as targets and as extractor."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusability.encoders.interface import StudyEncoder
from diffusability.nn.initialisation import draw_kaiming
from diffusability.study.entries.encoder import TrainedEncoder


class ConvEncoder(StudyEncoder):
    """Images to a grid of features, to one feature vector, to class logits.

    The grid is `factor` times coarser than the image. Images are floats in -1 ... 1. Without
    classes there is no head, and the logits are (B, 0).
    """

    def __init__(self, spec: TrainedEncoder, image_channels: int, num_classes: int) -> None:
        """Build the layers on the meta device; `initialise` or loaded weights fill them.

        Args:
            spec: the entry's options; widths double with every halving of the resolution.
            image_channels: C of the images.
            num_classes: class logits, 0 for none.
        """
        super().__init__()
        width, factor = spec.width, int(spec.factor)
        with torch.device("meta"):
            layers: list[nn.Module] = [nn.Conv2d(image_channels, width, 3, padding=1)]
            while factor > 1:
                layers += [_Block(width), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)]
                width, factor = 2 * width, factor // 2
            layers += [_Block(width), _Block(width), nn.Conv2d(width, spec.features, 1)]
            self.trunk = nn.Sequential(*layers)
            # the head comes last: one seed draws the same trunk with and without it
            self.head = nn.Linear(spec.features, num_classes) if num_classes else None
        self.grid_channels, self.classes = spec.features, num_classes

    def draw_layer(self, name: str, layer: nn.Module, generator: torch.Generator) -> None:
        """Draw a layer's weights for the ReLU behind it."""
        draw_kaiming(layer, generator)

    def grid(self, images: Tensor) -> Tensor:
        """Return the (B, features, H / factor, W / factor) feature map."""
        return F.relu(self.trunk(images))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return the feature map after every convolution that changes width or resolution."""
        maps = []
        for layer in self.trunk:  # (B, C, H, W) -> (B, D, h, w)
            images = layer(images)
            if isinstance(layer, nn.Conv2d):
                maps.append(F.relu(images))
        return maps

    def logits(self, features: Tensor) -> Tensor:
        """Return the (B, num_classes) logits of (B, features) means of the feature map."""
        return super().logits(features) if self.head is None else self.head(features)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> same
        return x + self.conv(F.relu(self.norm(x)))
