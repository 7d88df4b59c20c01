"""The interface of every tokenizer."""

from abc import ABC, abstractmethod

from torch import Tensor

from diffusability.errors import StudyError
from diffusability.nn.initialisation import SeededModule
from diffusability.study.entries.network import ImageShape, Network
from diffusability.tokenizers.posterior import Posterior


class Tokenizer(SeededModule, ABC):
    """An image autoencoder with a Gaussian latent on a regular grid.

    Images are (B, C, H, W) in [-1, 1]; latents are (B, d, h, w) with h = H / factor and
    w = W / factor. Any H and W that the factor divides are valid.
    """

    image_channels: int
    latent_channels: int

    @property
    @abstractmethod
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""

    @property
    @abstractmethod
    def encoder_last_weight(self) -> Tensor:
        """Weight of the layer that outputs the moments; latent penalties are balanced there."""

    @property
    @abstractmethod
    def decoder_last_weight(self) -> Tensor:
        """Weight of the layer that outputs the pixels; the GAN loss is balanced there."""

    @abstractmethod
    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the posterior of the latents.

        Args:
            images: (B, C, H, W), in [-1, 1].
            mask: (B, h, w), bool, True where the image is hidden from the encoder; only for
                networks with image tokens.

        Returns:
            Mean and log-variance, each (B, d, h, w).

        Raises:
            StudyError: if the sizes do not fit, or a mask is given to a network without tokens.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoded images.

        Args:
            latents: (B, d, h, w), a sample or the mean of a posterior.

        Returns:
            (B, C, factor·h, factor·w), nominally in [-1, 1] and not clipped.
        """

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Return the latent height and width of images.

        Args:
            images: (B, C, H, W).

        Raises:
            StudyError: if the channels differ or the factor does not divide both sides.
        """
        _, channels, height, width = images.shape
        if channels != self.image_channels:
            raise StudyError(
                f"{type(self).__name__}: images have {channels} channels, the network was built "
                f"for {self.image_channels}; set the network's image channels to the dataset's"
            )
        if height % self.factor or width % self.factor:
            raise StudyError(
                f"{type(self).__name__}: images of {height}x{width} pixels are not divisible by "
                f"the downsampling factor {self.factor}; choose another image size or factor"
            )
        return height // self.factor, width // self.factor


class NetworkTokenizer(Tokenizer, ABC):
    """A tokenizer trained by the study, built from its options and the images' shape.

    Subclasses build their layers on the meta device; `initialise` or saved weights fill them.
    """

    def __init__(self, spec: Network, image: ImageShape) -> None:
        """Check and store the sizes.

        Args:
            spec: the entry's network.
            image: shape of the dataset's images. Networks without a fixed size take others too.
        """
        super().__init__()
        self.image_channels, self.latent_channels = image.channels, spec.channels
        self._factor = spec.factor

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return self._factor


class UntrainedTokenizer(Tokenizer):
    """A tokenizer that is not trained here: no loss is balanced at a layer of it."""

    @property
    def encoder_last_weight(self) -> Tensor:
        """Refuse.

        Raises:
            StudyError: always.
        """
        raise StudyError(f"{type(self).__name__}: no layer of it is trained")

    @property
    def decoder_last_weight(self) -> Tensor:
        """Refuse.

        Raises:
            StudyError: always.
        """
        raise StudyError(f"{type(self).__name__}: no layer of it is trained")
