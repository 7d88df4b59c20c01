"""What every kind of dataset states, and the registry of kinds, which `dataset.py` completes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from diffusability.study.registry import Registry
from diffusability.study.spec import Spec


@dataclass(frozen=True)
class ImageCounts:
    """How many images a dataset holds, as far as its entry says."""

    train: int
    val: int

    def of(self, split: Literal["train", "val", "all"]) -> int:
        """Return the number in a split."""
        return {"train": self.train, "val": self.val, "all": self.train + self.val}[split]


class Dataset(Spec):
    """What every kind of dataset states; a kind is declared with its `DataSource`.

    Attributes:
        has_images: whether there are images; else only labels and masks of latents on disk.
    """

    has_images: ClassVar[bool] = True

    kind: str
    size: int = Field(description="side of the square images in pixels")
    if TYPE_CHECKING:  # a kind fixes the number, or makes it an option

        @property
        def num_classes(self) -> int:
            """Number of classes."""
            ...

    @property
    def image_channels(self) -> int:
        """Colour images; grey ones are repeated."""
        return 3

    def counts(self) -> ImageCounts:
        """Return the number of images per split, for estimates of cost."""
        raise NotImplementedError(f"dataset of kind {self.kind}: state its counts")


DATASETS: Registry[Dataset] = Registry("dataset", "kind")
