"""Networks of a tokenizer: how large, how deep, how coarse the latent grid."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from diffusability.study.spec import Spec


class _Network(Spec):
    def misfits(self, size: int) -> Iterator[tuple[str, str]]:
        """Yield the key and the reason of what does not fit square images of `size` pixels."""
        yield from ()


class ConvNetwork(_Network):
    """The convolutional autoencoder of LDM/VA-VAE at any size."""

    arch: Literal["conv"]
    factor: Literal[1, 2, 4, 8, 16, 32] = Field(
        16, description="image pixels per latent cell, along one side"
    )
    channels: PositiveInt = Field(32, description="channels of the latent")
    width: PositiveInt = Field(128, description="channels at full resolution")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 1, 2, 2, 4), description="channels at each resolution, in units of `width`"
    )
    encoder_blocks: PositiveInt = Field(2, description="residual blocks a resolution, encoder")
    decoder_blocks: PositiveInt = Field(3, description="residual blocks a resolution, decoder")
    attention: bool = Field(True, description="self-attention at the lowest resolution")
    channels_last: bool = Field(
        False,
        exclude=True,
        description="train with channels innermost in memory, which large networks are faster "
        "with; execution, in no fingerprint",
    )

    @model_validator(mode="after")
    def _levels(self) -> "ConvNetwork":
        levels = int(math.log2(self.factor)) + 1
        if len(self.multipliers) != levels:
            raise ValueError(
                f"factor {self.factor} needs {levels} multipliers (one a resolution), "
                f"got {len(self.multipliers)}: {list(self.multipliers)}"
            )
        return self

    @property
    def family(self) -> str:
        """Architecture and latent size, as the paper names its families."""
        return f"conv-f{self.factor}d{self.channels}"


class VitNetwork(_Network):
    """A transformer autoencoder with one latent cell per image patch."""

    arch: Literal["vit"]
    factor: Literal[1, 2, 4, 8, 16, 32] = Field(
        16, description="image pixels per patch and latent cell, along one side"
    )
    channels: PositiveInt = Field(32, description="channels of the latent")
    width: PositiveInt = Field(768, description="channels of a token")
    depth: PositiveInt = Field(12, description="blocks of the encoder, and of the decoder")
    heads: PositiveInt = Field(12, description="attention heads; 4 x heads divides width")

    @model_validator(mode="after")
    def _heads_divide(self) -> "VitNetwork":
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of 4 x heads ({4 * self.heads}): "
                "a head carries a two-dimensional position"
            )
        return self

    @property
    def family(self) -> str:
        """Architecture and latent size, as the paper names its families."""
        return f"trans-f{self.factor}d{self.channels}"


class VectorNetwork(_Network):
    """Strided convolutions down to one vector of d entries and back, as GPE and a VAE share them.

    The vector is laid out as a latent of `channels` x (size / factor) x (size / factor) in
    serpentine order, so d = channels x (size / factor)^2; `factor` shapes that grid alone.
    """

    arch: Literal["vector"]
    factor: PositiveInt = Field(description="image pixels per latent cell, along one side")
    channels: PositiveInt = Field(description="channels of the latent")
    width: PositiveInt = Field(32, description="channels after the first strided convolution")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 2, 4, 8),
        min_length=1,
        description="channels after each strided convolution, in units of `width`; each halves "
        "the image",
    )

    @property
    def family(self) -> str:
        """Architecture and latent size, as the paper names its families."""
        return f"vector-f{self.factor}d{self.channels}"

    @property
    def reduction(self) -> int:
        """Image pixels per cell of the coarsest features, along one side."""
        return int(2 ** len(self.multipliers))

    def misfits(self, size: int) -> Iterator[tuple[str, str]]:
        """Every halving must be whole."""
        if size % self.reduction:
            yield (
                "multipliers",
                f"{len(self.multipliers)} strided convolutions do not halve the image size {size} "
                "evenly",
            )


class HierarchicalNetwork(_Network):
    """A top-down VAE with a latent at several resolutions; `factor` names the one it offers.

    Entries of `source: level` offer its other levels without training it again.
    """

    arch: Literal["hierarchical"]
    factor: Literal[1, 2, 4, 8, 16, 32] = Field(
        description="image pixels per cell of the offered latent, along one side"
    )
    levels: tuple[Literal[1, 2, 4, 8, 16, 32], ...] = Field(
        min_length=2, description="image pixels per cell of every level, finest first, doubling"
    )
    channels: PositiveInt = Field(20, description="channels of the latent, at every level")
    width: PositiveInt = Field(64, description="channels of the features, at every resolution")
    blocks: PositiveInt = Field(1, description="residual blocks a resolution, down and up")

    @model_validator(mode="after")
    def _doubling(self) -> "HierarchicalNetwork":
        if any(after != 2 * before for before, after in pairwise(self.levels)):
            raise ValueError(
                f"levels {list(self.levels)} do not double from each to the next, finest first "
                "(as [2, 4, 8])"
            )
        if self.factor not in self.levels:
            raise ValueError(f"factor {self.factor} is none of the levels {list(self.levels)}")
        return self

    @property
    def family(self) -> str:
        """Architecture and latent size, as the paper names its families."""
        return f"hierarchical-f{self.factor}d{self.channels}"

    def misfits(self, size: int) -> Iterator[tuple[str, str]]:
        """The coarsest level must be a whole grid."""
        if size % self.levels[-1]:
            yield "levels", f"{self.levels[-1]} does not divide the image size {size}"


Network = ConvNetwork | VitNetwork | VectorNetwork | HierarchicalNetwork
NetworkSpec = Annotated[Network, Field(discriminator="arch")]
