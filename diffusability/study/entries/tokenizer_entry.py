"""What every entry of `tokenizers` states, trained or not."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from diffusability.study.core.spec import Spec
from diffusability.study.entries.network import NetworkSpec
from diffusability.study.entries.operations import Autoencoder, autoencoder


class TokenizerEntry(Spec):
    """What every tokenizer states, trained or not.

    Attributes:
        needs_images: whether it is trained on, fitted to, or checked with the study's images.
        encodes: whether it is a network that encodes images; else its latents are read from disk.
        decodes: whether it decodes latents to images.
    """

    needs_images: ClassVar[bool] = False
    encodes: ClassVar[bool] = True
    decodes: ClassVar[bool] = True

    if TYPE_CHECKING:  # options of some, of others their network's

        @property
        def factor(self) -> int:
            """Image pixels per latent cell, along one side."""
            ...

        @property
        def channels(self) -> int:
            """Channels of the latent."""
            ...

    @property
    def cluster(self) -> str:
        """The regularizer family, as in Table 1 of the paper, or what stands for it."""
        raise NotImplementedError

    @property
    def family(self) -> str:
        """Architecture and latent size, as the paper names its families."""
        raise NotImplementedError

    @property
    def aligned_with(self) -> str:
        """Name of the encoder that its latents are aligned with; empty without one."""
        return self.encoders.get("encoder", "")

    @property
    def encoders(self) -> dict[str, str]:
        """Names of the encoders that its training looks at, by role."""
        return {}

    @property
    def trained(self) -> str | None:
        """Name of the tokenizer whose weights it takes."""
        return None

    def fingerprinted(self) -> dict[str, Any]:
        """Return what is hashed: not the names of its encoders, which enter by their content."""
        return self.canonical()

    def misfits(self, size: int, image_channels: int) -> Iterator[tuple[str, str]]:
        """Yield the key and the reason of what does not fit square images of `size` pixels."""
        if size % self.factor:
            yield (
                "factor",
                f"{self.factor} does not divide the image size {size}; the latent would not be a "
                "whole grid",
            )

    def cost(self, image_channels: int, side: int) -> Autoencoder | None:
        """Return the size of both halves for square images, or None where it is not known."""
        return None


class NetworkEntry(TokenizerEntry):
    """A tokenizer that is a network of the project: its sizes and cost are those of its options."""

    network: NetworkSpec

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return self.network.factor

    @property
    def channels(self) -> int:
        """Channels of the latent."""
        return self.network.channels

    def misfits(self, size: int, image_channels: int) -> Iterator[tuple[str, str]]:
        """Every halving of its network must be whole."""
        wrong = [(f"network.{key}", why) for key, why in super().misfits(size, image_channels)]
        yield from wrong or ((f"network.{key}", why) for key, why in self.network.misfits(size))

    def cost(self, image_channels: int, side: int) -> Autoencoder:
        """Counted from the network's options."""
        return autoencoder(self.network, image_channels, side)
