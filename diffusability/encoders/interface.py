"""What every frozen encoder offers: a grid of features, one vector per image, class logits."""

from abc import abstractmethod

from torch import Tensor, nn

from diffusability.nn.initialisation import SeededModule


class Encoder(nn.Module):
    """Images to features; images are (B, C, H, W) floats in -1 ... 1 of the study's dataset.

    An encoder of one use need not offer what another use asks for: `study/entries/encoder.py`
    declares the uses of every kind, and a study that asks for more is refused before it starts.

    Attributes:
        grid_channels: channels D of `grid`.
        classes: number K of class logits; 0 if it has none.
    """

    grid_channels: int
    classes: int = 0

    @abstractmethod
    def grid(self, images: Tensor) -> Tensor:
        """Return the (B, D, h, w) feature map, the target of alignment."""

    def features(self, images: Tensor) -> Tensor:
        """Return one (B, F) vector per image; by default the mean of the feature map."""
        return self.grid(images).mean(dim=(2, 3))  # (B, D, h, w) -> (B, D)

    def features_and_spatial(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return `features`, and with them (B, S) values that keep the position; S = 0 without."""
        features = self.features(images)
        return features, features[:, :0]

    def logits(self, features: Tensor) -> Tensor:
        """Return the (B, K) class logits of (B, F) features; (B, 0) without classes."""
        return features[:, :0]

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return feature maps (B, D, h, w) from fine to coarse, for a perceptual distance."""
        return [self.grid(images)]


class StudyEncoder(SeededModule, Encoder):
    """An encoder that the study trains itself: features, and class logits as its output."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, K) logits; (B, 0) without classes."""
        return self.logits(self.features(images))
