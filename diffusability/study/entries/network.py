"""Networks of a tokenizer: how large, how deep, how coarse the latent grid."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, PositiveInt, model_validator

from diffusability.study.core.registry import Registry
from diffusability.study.core.spec import Blocks, Multiplier, Spec, Width


class ImageShape(NamedTuple):
    """Shape of the square images of a dataset."""

    channels: int
    size: int  # pixels along one side


class Network(Spec):
    """What every network of a tokenizer has.

    A network is declared with `NETWORKS.add`: a subclass with `arch: Literal["its name"]`, and the
    `tokenizers.interface.Tokenizer` that takes it as `module:class`.
    """

    arch: str = Field(description="the network")
    factor: PositiveInt = Field(description="image pixels per latent cell, along one side")
    channels: Width = Field(description="channels of the latent")

    @property
    def family(self) -> str:
        """Architecture and latent size, as the paper names its families."""
        return f"{self.arch}-f{self.factor}d{self.channels}"

    def misfits(self, size: int) -> Iterator[tuple[str, str]]:
        """Yield key and reason of every option that images of size x size pixels rule out."""
        yield from ()


NETWORKS: Registry[Network] = Registry("arch", tag="arch")


@NETWORKS.add("diffusability.tokenizers.conv:ConvAutoencoder")
class ConvNetwork(Network):
    """The convolutional autoencoder of LDM/VA-VAE at any size."""

    arch: Literal["conv"]
    factor: Literal[1, 2, 4, 8, 16, 32] = Field(
        16, description="image pixels per latent cell, along one side"
    )
    channels: Width = Field(32, description="channels of the latent")
    width: Width = Field(128, description="channels at full resolution")
    multipliers: tuple[Multiplier, ...] = Field(
        (1, 1, 2, 2, 4), description="channels at each resolution, in units of `width`"
    )
    encoder_blocks: Blocks = Field(2, description="residual blocks per resolution, encoder")
    decoder_blocks: Blocks = Field(3, description="residual blocks per resolution, decoder")
    attention: bool = Field(True, description="self-attention at the lowest resolution")
    channels_last: bool = Field(
        False,
        exclude=True,
        description="train in the channels-last memory format, which is faster for large "
        "networks; execution, in no fingerprint",
    )

    @model_validator(mode="after")
    def _levels(self) -> "ConvNetwork":
        levels = int(math.log2(self.factor)) + 1
        if len(self.multipliers) != levels:
            raise ValueError(
                f"factor {self.factor} needs {levels} multipliers (one per resolution), "
                f"got {len(self.multipliers)}: {list(self.multipliers)}"
            )
        return self


@NETWORKS.add("diffusability.tokenizers.vit:VitAutoencoder")
class VitNetwork(Network):
    """A transformer autoencoder with one latent cell per image patch."""

    arch: Literal["vit"]
    factor: Literal[1, 2, 4, 8, 16, 32] = Field(
        16, description="image pixels per patch and latent cell, along one side"
    )
    channels: Width = Field(32, description="channels of the latent")
    width: Width = Field(768, description="channels of a token")
    depth: Blocks = Field(12, description="blocks of the encoder, and of the decoder")
    heads: Width = Field(12, description="attention heads; 4 x heads divides width")

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


@NETWORKS.add("diffusability.tokenizers.vector:VectorAutoencoder")
class VectorNetwork(Network):
    """Strided convolutions down to one vector of d entries and back, as GPE and a VAE share them.

    The vector is laid out as a latent of `channels` x (size / factor) x (size / factor) in
    serpentine order, so d = channels x (size / factor)^2; `factor` only shapes that grid.
    """

    arch: Literal["vector"]
    factor: PositiveInt = Field(description="image pixels per latent cell, along one side")
    channels: Width = Field(description="channels of the latent")
    width: Width = Field(32, description="channels after the first strided convolution")
    multipliers: tuple[Multiplier, ...] = Field(
        (1, 2, 4, 8),
        min_length=1,
        description="channels after each strided convolution, in units of `width`; each halves "
        "the image",
    )

    @property
    def reduction(self) -> int:
        """Image pixels per cell of the coarsest features, along one side."""
        return int(2 ** len(self.multipliers))

    def misfits(self, size: int) -> Iterator[tuple[str, str]]:
        """Yield what the image size rules out: every convolution halves a whole grid."""
        if size % self.reduction:
            yield (
                "multipliers",
                f"{len(self.multipliers)} strided convolutions do not halve the image size "
                f"{size} evenly",
            )


@NETWORKS.add("diffusability.tokenizers.hierarchical:HierarchicalAutoencoder")
class HierarchicalNetwork(Network):
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
    channels: Width = Field(20, description="channels of the latent, at every level")
    width: Width = Field(64, description="channels of the features, at every resolution")
    blocks: Blocks = Field(1, description="residual blocks per resolution, down and up")

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

    def misfits(self, size: int) -> Iterator[tuple[str, str]]:
        """Yield what the image size rules out: the coarsest level is a whole grid."""
        if size % self.levels[-1]:
            yield "levels", f"{self.levels[-1]} does not divide the image size {size}"


NetworkSpec = Annotated[Network, NETWORKS]
