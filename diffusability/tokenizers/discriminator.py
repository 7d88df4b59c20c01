"""The patch discriminator and the hinge losses of the GAN.

Isola et al., Image-to-Image Translation with Conditional Adversarial Networks (arXiv 1611.07004),
as used in VQGAN and latent diffusion; hinge losses of Lim & Ye, Geometric GAN (arXiv 1705.02894).
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusability.errors import StudyError
from diffusability.nn.initialisation import SeededModule, redraw_normal
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec

WEIGHT_STD = 0.02
WIDEST = 8  # largest multiple of the first layer's channels
SLOPE = 0.2


class PatchDiscriminator(SeededModule):
    """A small convolutional network that scores every overlapping patch of an image.

    Batch norms always use the statistics of the current batch: the network is used only in
    training, and running averages would be changed by the autoencoder's pass.
    """

    def __init__(self, spec: ObjectiveSpec, image_channels: int) -> None:
        """Build the layers on the meta device; `initialise` fills them.

        Args:
            spec: `gan_width` channels after the first layer, doubled by each further one up to
                8 times; `gan_layers` layers of stride 2. Images need 3 · 2**gan_layers pixels
                along each side, so 16 pixels take at most 2 layers and 32 pixels take 3.
            image_channels: channels of an image.
        """
        super().__init__()
        width, layers = spec.gan_width, spec.gan_layers
        self.smallest_side = spec.gan_side
        with torch.device("meta"):
            modules: list[nn.Module] = [
                nn.Conv2d(image_channels, width, 4, stride=2, padding=1),
                nn.LeakyReLU(SLOPE),
            ]
            before = width
            for layer in range(1, layers + 1):
                after = width * min(2**layer, WIDEST)
                stride = 2 if layer < layers else 1
                modules += [
                    nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(after, track_running_stats=False),
                    nn.LeakyReLU(SLOPE),
                ]
                before = after
            modules.append(nn.Conv2d(before, 1, 4, padding=1))
            self.layers = nn.Sequential(*modules)

    def initialise(self, generator: torch.Generator) -> Self:
        """Draw convolutions from N(0, 0.02²) and norm scales from N(1, 0.02²)."""
        super().initialise(generator)
        redraw_normal(self, WEIGHT_STD, generator)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, WEIGHT_STD, generator=generator)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return one score per patch.

        Args:
            images: (B, C, H, W), in [-1, 1].

        Returns:
            (B, 1, h', w'); higher means more real.

        Raises:
            StudyError: if the images are too small for the number of layers.
        """
        if min(images.shape[2:]) < self.smallest_side:
            raise StudyError(
                f"PatchDiscriminator: images of {images.shape[2]}x{images.shape[3]} pixels are "
                f"smaller than {self.smallest_side}, which its stride-2 layers need; "
                "set a smaller `objective.gan_layers`"
            )
        return self.layers(images)


def discriminator_hinge(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Return ½ (E max(0, 1 - D(x)) + E max(0, 1 + D(x̂))).

    Args:
        real_scores: D(x), any shape.
        fake_scores: D(x̂), any shape.

    Returns:
        Scalar, at least zero; lower is a better discriminator; 1 if all scores are 0.
    """
    real = functional.relu(1.0 - real_scores).mean()
    fake = functional.relu(1.0 + fake_scores).mean()
    return 0.5 * (real + fake)


def generator_hinge(fake_scores: Tensor) -> Tensor:
    """Return -E D(x̂).

    Args:
        fake_scores: D(x̂), any shape.

    Returns:
        Scalar; lower is a more convincing reconstruction.
    """
    return -fake_scores.mean()
