"""What every kind of encoder states, and the registry of kinds, which `encoder.py` completes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from diffusability.study.core.registry import Registry
from diffusability.study.core.spec import Spec
from diffusability.study.entries.operations import Size

Use = Literal["alignment", "perceptual", "features", "lpips"]


class EncoderEntry(Spec):
    """What every kind of encoder states; a kind is declared with its `EncoderKind`.

    Attributes:
        uses: what an encoder of the kind can serve for.
        needs_images: whether it is trained on, or checked with, the study's images.
        names_classes: whether it may name the class of an image, as the Inception score takes.
    """

    uses: ClassVar[frozenset[Use]]
    needs_images: ClassVar[bool] = False
    names_classes: ClassVar[bool] = False

    kind: str
    if TYPE_CHECKING:  # a kind fixes it, or makes it an option

        @property
        def factor(self) -> int:
            """Image pixels per cell of the feature map, along one side."""
            ...

    @property
    def smallest_image(self) -> int:
        """Side in pixels of the smallest images that it can look at."""
        return 1

    def misfits(self, size: int) -> Iterator[tuple[str, str]]:
        """Yield the key and the reason of what does not fit images of `size` pixels a side."""
        if size % self.factor:
            yield "factor", f"{self.factor} does not divide the image size {size}"

    def cost(self, channels: int, side: int, classes: int) -> Size:
        """Return the size of the network for square images, for estimates of cost."""
        raise NotImplementedError(f"encoder of kind {self.kind}: state its cost")


ENCODERS: Registry[EncoderEntry] = Registry("encoder", "kind")
