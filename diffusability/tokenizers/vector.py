"""The convolutional autoencoder with one vector per image, shared by GPE and its VAE baseline.

Strided 5 x 5 convolutions down to a linear layer, and back by nearest-neighbour upsampling: the
architecture for 64-pixel faces of "A Geometry Preserving Encoder/Decoder" (arXiv 2501.09876), at
any size. It uses group norm instead of batch norm, so a latent does not depend on its batch.
"""

import torch
from torch import Tensor, nn

from diffusability.errors import StudyError
from diffusability.nn.layers import group_norm
from diffusability.study.entries.network import ImageShape, VectorNetwork
from diffusability.tokenizers.interface import NetworkTokenizer
from diffusability.tokenizers.posterior import LOGVAR_RANGE, Posterior
from diffusability.tokenizers.serpentine import to_grid, to_vector

SLOPE = 0.2  # negative slope of the leaky ReLU


class VectorAutoencoder(NetworkTokenizer):
    """Encoder to one vector per image and decoder from it, in serpentine order on a latent grid.

    The decoder's input is (z - shift) · scale; both are 0 and 1 unless `set_scale` is called.
    """

    shift: Tensor  # (d,)
    scale: Tensor  # ()

    def __init__(self, spec: VectorNetwork, image: ImageShape) -> None:
        """Build the layers on the meta device; `initialise` or loaded weights fill them."""
        super().__init__(spec, image)
        size, cells = image.size, image.size // spec.factor
        self._size = size
        self._latent = (spec.channels, cells, cells)
        entries = spec.channels * cells**2
        widths = [spec.width * multiplier for multiplier in spec.multipliers]
        side = size // spec.reduction
        coarsest, features = (widths[-1], side, side), widths[-1] * side**2
        with torch.device("meta"):
            down: list[nn.Module] = []
            up: list[nn.Module] = [nn.Unflatten(1, coarsest)]
            for before, after in zip([image.channels, *widths], widths, strict=False):
                down += [nn.Conv2d(before, after, 5, 2, 2), group_norm(after), nn.LeakyReLU(SLOPE)]
            for before, after in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True):
                up += [nn.LeakyReLU(SLOPE), nn.Upsample(scale_factor=2.0)]
                up += [nn.Conv2d(before, after, 5, 1, 2), group_norm(after)]
            self.encoder = nn.Sequential(*down, nn.Flatten())
            self.to_mean = nn.Linear(features, entries)
            self.to_logvar = nn.Linear(features, entries)
            self.from_latent = nn.Linear(entries, features)
            self.decoder = nn.Sequential(*up, nn.LeakyReLU(SLOPE))
            self.decoder_out = nn.Conv2d(widths[0], image.channels, 3, padding=1)
            self.register_buffer("shift", torch.empty(entries))
            self.register_buffer("scale", torch.empty(()))

    def fill(self, _generator: torch.Generator) -> None:
        """Set shift 0 and scale 1."""
        self.shift.zero_()
        self.scale.fill_(1.0)

    @property
    def encoder_last_weight(self) -> Tensor:
        """Weight of the layer that outputs the means."""
        return self.to_mean.weight

    @property
    def decoder_last_weight(self) -> Tensor:
        """Weight of the layer that outputs the pixels."""
        return self.decoder_out.weight

    @property
    def encoder_layers(self) -> nn.ModuleDict:
        """The layers from image to mean."""
        return nn.ModuleDict({"encoder": self.encoder, "to_mean": self.to_mean})

    @property
    def decoder_layers(self) -> nn.ModuleDict:
        """The layers from latent to image."""
        layers = {"from_latent": self.from_latent, "decoder": self.decoder}
        return nn.ModuleDict({**layers, "decoder_out": self.decoder_out})

    @torch.no_grad()
    def make_deterministic(self) -> None:
        """Set every log-variance to the minimum of a posterior."""
        self.to_logvar.weight.zero_()
        self.to_logvar.bias.fill_(LOGVAR_RANGE[0])

    @torch.no_grad()
    def set_scale(self, vectors: Tensor) -> None:
        """Normalise the decoder's input to mean 0 and mean square 1, by one common scale.

        The latent itself is unchanged, so the distances that it preserves are kept.

        Args:
            vectors: (N, d) latents to take the statistics from.

        Raises:
            StudyError: all latents are the same.
        """
        mean = vectors.double().mean(0)  # (d,)
        square = (vectors.double() - mean).square().mean()
        if not bool(square > 0):
            raise StudyError("VectorAutoencoder: the encoder gives every image the same latent")
        self.shift.copy_(mean)
        self.scale.copy_(square.rsqrt())

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the posterior of the latents; see `Tokenizer.encode`. Masks are not supported."""
        if mask is not None:
            raise StudyError("VectorAutoencoder: images cannot be masked, it has no image tokens")
        self.grid(images)
        if images.shape[-2:] != (self._size, self._size):
            raise StudyError(
                f"VectorAutoencoder: images of {images.shape[-2]}x{images.shape[-1]} pixels, but "
                f"it was built for {self._size}x{self._size} only"
            )
        features = self.encoder(images)  # (B, F)
        wide = torch.promote_types(features.dtype, torch.float32)
        mean, logvar = self.to_mean(features).to(wide), self.to_logvar(features).to(wide)
        return Posterior(
            to_grid(mean, self._latent), to_grid(logvar, self._latent).clamp(*LOGVAR_RANGE)
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoded images; see `Tokenizer.decode`."""
        return self.decode_vectors((to_vector(latents) - self.shift) * self.scale)

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Return the (B, C, H, W) images of (B, d) vectors, centred and scaled."""
        images: Tensor = self.decoder_out(self.decoder(self.from_latent(vectors)))
        return images
