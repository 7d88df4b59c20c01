"""Datasets that a study can name."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from diffusability.study.content import is_digest
from diffusability.study.folder_content import (
    folder_digest,
    images_identity,
    is_small,
)
from diffusability.study.registry import Registry
from diffusability.study.spec import NamedContent, Need, Place, Spec

DIGITS_IMAGES = 1797
# ImageNet-1k has 1,281,167 training and 50,000 validation images in 1,000 classes
FOLDER_TRAIN, FOLDER_VAL = 1281.167, 50.0


@dataclass(frozen=True)
class ImageCounts:
    """How many images a dataset holds, as far as its entry says."""

    train: int
    val: int

    def of(self, split: Literal["train", "val", "all"]) -> int:
        """Return the number in a split."""
        return {"train": self.train, "val": self.val, "all": self.train + self.val}[split]


class Dataset(Spec):
    """What every kind of dataset states; a kind is declared with its `DataSource`."""

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


@DATASETS.add("diffusability.data.digits:Digits")
class DigitsDataset(Dataset):
    """Scikit-learn's handwritten digits: 1,797 real scans of 8 x 8 in 17 grey levels.

    The images are enlarged bilinearly; ink is the foreground.
    """

    kind: Literal["digits"] = Field(description="scikit-learn's handwritten digits")
    size: Literal[8, 16, 32] = Field(16, description="side of the square images in pixels")
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of every class that is held out for validation"
    )

    @property
    def image_channels(self) -> int:
        """Grey images."""
        return 1

    @property
    def num_classes(self) -> int:
        """The ten digits."""
        return 10

    def counts(self) -> ImageCounts:
        """The held-out share of every class is rounded as one."""
        val = round(self.val_fraction * DIGITS_IMAGES)
        return ImageCounts(DIGITS_IMAGES - val, val)


@DATASETS.add("diffusability.data.shapes:Shapes")
class ShapesDataset(Dataset):
    """Procedural colour images: one of twelve shapes before a photograph.

    The photographs ship inside scikit-learn. The shape is the class and, exactly, the foreground.
    """

    kind: Literal["shapes"] = Field(description="procedural shapes before photographs")
    size: Literal[16, 32, 64] = Field(32, description="side of the square images in pixels")
    train: PositiveInt = Field(20_000, description="training images")
    val: PositiveInt = Field(5_000, description="validation images")
    seed: NonNegativeInt = Field(0, description="of every image; another seed, other images")

    @property
    def num_classes(self) -> int:
        """The twelve shapes."""
        return 12

    def counts(self) -> ImageCounts:
        """As the entry says."""
        return ImageCounts(self.train, self.val)


@DATASETS.add("diffusability.data.folder:Folder")
class FolderDataset(Dataset):
    """Image files in folders, decoded when they are needed.

    `path` holds `train/` and `val/`, or `train/` alone, or directly what `train/` would hold;
    without `val/` a `val_fraction` is held out. Each holds one folder per class, as ImageNet does,
    or the images of one class directly. The index of the folder is an artifact, the images stay
    where they are.
    """

    kind: Literal["folder"] = Field(description="image files in folders")
    path: Place = Field(description="folder of the images; not part of the fingerprint")
    content: str | None = Field(
        None,
        description="a name for what the folder holds, which stands in the fingerprint; none: a "
        "hash of all image files and masks, for which every file is read once",
    )
    size: PositiveInt = Field(256, description="side of the square images in pixels")
    num_classes: PositiveInt = Field(1000, description="class folders that are expected")
    train_crop: Literal["center", "random"] = Field(
        "center", description="ADM's centre crop, or its random crop anew at every step"
    )
    smallest_crop: float = Field(
        0.8,
        gt=0,
        le=1,
        description="least share of the shorter side in a random crop; 1: only its position is "
        "drawn",
    )
    val_fraction: float = Field(
        0.05, gt=0, lt=1, description="held out of every class where there is no val/"
    )
    masks: Annotated[str | None, Field(exclude=True)] = Field(
        None,
        description="folder of PNG files named as the images, whose pixels hold class numbers as "
        "R + 256 G (ImageNet-S): all but 0 and 1000 are foreground; not part of the fingerprint",
    )
    masked: bool = Field(
        False,
        json_schema_extra={"computed": True},
        description="whether there are masks; follows from `masks`",
    )
    damaged: Literal["refuse", "skip"] = Field(
        "refuse", description="files that do not decode: stop, or leave out, named and counted"
    )

    @model_validator(mode="before")
    @classmethod
    def _note_masks(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return data | {"masked": bool(data.get("masks")) or data.get("masked", False)}

    @cached_property
    def identity(self) -> str:
        """What the images are: `content`, else the hash of all files, read when this is asked.

        While the folder is not there, the hash that it had is used, or the folder's last name.
        """
        found = self.content or images_identity(self.path, self.masks)
        return found or PurePath(self.path).name

    def canonical(self) -> dict[str, Any]:
        """Return the resolved values with the identity of the images."""
        return super().canonical() | {"content": self.identity}

    def named_contents(self) -> tuple[NamedContent, ...]:
        """The images of a folder with few files; larger ones are compared when they are indexed."""
        if self.content is None or is_digest(self.content) or not is_small(self.path):
            return ()
        masks = self.masks if self.masks and is_small(self.masks) else None
        digests = {"images": folder_digest(self.path, True)}
        digests |= {"masks": masks and folder_digest(masks, False)}
        return (NamedContent("images", self.content, digests, self.path),)

    def counts(self) -> ImageCounts:
        """The folder is taken to be as full as ImageNet's."""
        train, val = self.num_classes * FOLDER_TRAIN, self.num_classes * FOLDER_VAL
        return ImageCounts(round(train), round(val))

    def needs(self) -> tuple[Need, ...]:
        """The images, and their masks where the study names any."""
        name = self.content or PurePath(self.path).name
        images = Need(
            f"images of `{name}`",
            Path(self.path),
            "set the dataset's `path` to a folder that holds train/<class>/*.JPEG and "
            "val/<class>/*.JPEG",
        )
        if self.masks is None:
            return (images,)
        remedy = "set the dataset's `masks` to the folder of ImageNet-S masks, or leave it out"
        return images, Need(f"masks of `{name}`", Path(self.masks), remedy)
