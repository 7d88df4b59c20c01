"""The transformer autoencoder: a ViT encoder and a ViT decoder around a grid of latents.

Network of l-DeTok (Yang et al., Latent Denoising Makes Good Visual Tokenizers, arXiv 2507.15856):
learned absolute positions and 2-D rotary positions, RMSNorm, SwiGLU, pixel-shuffle head.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusability.errors import StudyError
from diffusability.nn.initialisation import redraw_normal
from diffusability.nn.transformer import WEIGHT_STD, MaskToken, Transformer
from diffusability.study.entries.network import ImageShape, VitNetwork
from diffusability.tokenizers.interface import NetworkTokenizer
from diffusability.tokenizers.posterior import Posterior


class VitAutoencoder(NetworkTokenizer):
    """Transformer autoencoder with one latent vector per image patch.

    The ViT-B/16 pair (patch 16, width 768, depth 12, heads 12, 32 latent channels) has 171.7 M
    parameters.
    """

    def __init__(self, spec: VitNetwork, image: ImageShape) -> None:
        """Build the layers on the meta device; `initialise` or loaded weights fill them.

        Positions are learned for images of the given size; other sizes interpolate them.
        """
        super().__init__(spec, image)
        width, patch, channels = spec.width, spec.factor, image.channels
        grid = image.size // patch
        with torch.device("meta"):
            self.patch_embedding = nn.Conv2d(channels, width, patch, stride=patch)
            self.mask_token = MaskToken(width)
            self.encoder = Transformer(width, spec.depth, spec.heads, grid)
            self.to_moments = nn.Linear(width, 2 * spec.channels)
            self.from_latent = nn.Linear(spec.channels, width)
            self.decoder = Transformer(width, spec.depth, spec.heads, grid)
            self.to_patches = nn.Linear(width, channels * patch * patch)
            self.decoder_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.register_load_state_dict_pre_hook(_rename)

    def initialise(self, generator: torch.Generator) -> Self:
        """Draw weights: N(0, 0.02²) for linear and patch layers, as in ViT; see `SeededModule`.

        The last 3×3 convolution keeps the convolutional default: a standard deviation of 0.02
        there would make the first images almost zero.
        """
        super().initialise(generator)
        layers = (
            *(self.patch_embedding, self.encoder, self.to_moments),
            *(self.from_latent, self.decoder, self.to_patches),
        )
        for layer in layers:
            redraw_normal(layer, WEIGHT_STD, generator)
        return self

    @property
    def encoder_last_weight(self) -> Tensor:
        """Weight of the linear head that outputs the moments."""
        return self.to_moments.weight

    @property
    def decoder_last_weight(self) -> Tensor:
        """Weight of the last 3×3 convolution."""
        return self.decoder_out.weight

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the posterior of the latents; see `Tokenizer.encode`.

        Masked patches are replaced by a learned token before positions are added, and every
        position keeps its latent (MAETok, arXiv 2502.03444).
        """
        grid = self.grid(images)
        tokens = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, h·w, width)
        if mask is not None:
            if mask.shape != (len(images), *grid):
                raise StudyError(
                    f"VitAutoencoder: the mask is {tuple(mask.shape)}, but the images have a token "
                    f"grid of {(len(images), *grid)}; build the mask for this grid"
                )
            tokens = self.mask_token(tokens, mask.flatten(1))
        moments = self.to_moments(self.encoder(tokens, grid))  # (B, h·w, 2d)
        return Posterior.from_moments(moments.transpose(1, 2).unflatten(2, grid))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoded images; see `Tokenizer.decode`."""
        grid = (latents.shape[2], latents.shape[3])
        tokens = self.from_latent(latents.flatten(2).transpose(1, 2))  # (B, h·w, width)
        pixels = self.to_patches(self.decoder(tokens, grid))  # (B, h·w, C·patch²)
        patches = pixels.transpose(1, 2).unflatten(2, grid)  # (B, C·patch², h, w)
        return self.decoder_out(functional.pixel_shuffle(patches, self._factor))  # (B, C, H, W)


def _rename(_module: nn.Module, state: dict[str, Tensor], *_: object) -> None:
    """Load weights saved under the former names of the feed-forward layers."""
    for name in [name for name in state if ".mlp.gate_and_value." in name]:
        state[name.replace("gate_and_value", "hidden")] = state.pop(name)
