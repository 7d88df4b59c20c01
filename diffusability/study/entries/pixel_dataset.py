"""Datasets of small images of one size that are held in memory."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from diffusability.study.core.spec import COMPUTED, Need, Place
from diffusability.study.entries.dataset_entry import DATASETS, Dataset, FilesDataset, ImageCounts
from diffusability.study.sources.image_files import CIFAR_FILES, IDX_PARTS, files_digest, idx_files

DIGITS_IMAGES = 1797
FASHION_MNIST = "/usr/share/datasets/fashion-mnist"  # of Debian's package dataset-fashion-mnist


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
    seed: NonNegativeInt = Field(0, description="another seed gives other images")

    @property
    def num_classes(self) -> int:
        """The twelve shapes."""
        return 12

    def counts(self) -> ImageCounts:
        """As the entry says."""
        return ImageCounts(self.train, self.val)


class PixelDataset(FilesDataset):
    """Small images of one size, stored as plain pixels with their division into two splits."""

    path: Place
    content: str | None = Field(
        None,
        json_schema_extra=COMPUTED,
        description="SHA-256 of the files; part of the fingerprint, while `path` is not",
    )
    size: PositiveInt = Field(32, description="side of the square images in pixels")
    fit: Literal["pad", "resize"] = Field(
        "pad",
        description="how images get this size: black pixels around them, or resized as the images "
        "of a folder are",
    )
    train: PositiveInt | None = Field(
        None,
        description="training images, the first ones of every class in equal numbers; none: all",
    )
    val: PositiveInt | None = Field(None, description="validation images, as `train`")

    def files(self) -> list[Path]:
        """Return the files of images and labels, in a fixed order."""
        raise NotImplementedError(f"dataset of kind {self.kind}: state its files")

    def content_now(self) -> str | None:
        """Return the SHA-256 of the files as they are now; None where one is missing."""
        return files_digest(self.files())


@DATASETS.add("diffusability.data.idx:Idx")
class IdxDataset(PixelDataset):
    """Grey images in the format of MNIST: Fashion-MNIST, MNIST, KMNIST, a set of EMNIST.

    `path` holds four IDX files, gzipped or not: images and labels of a training and of a test
    split, which is the validation split here. By default it is the folder of Debian's package
    `dataset-fashion-mnist`.
    """

    kind: Literal["idx"] = Field(description="IDX files, the format of MNIST")
    path: Place = Field(FASHION_MNIST, description="folder of the files")
    num_classes: PositiveInt = Field(10, description="classes that are expected")
    foreground: PositiveInt | None = Field(
        10,
        le=255,
        description="least grey level, out of 255, of a foreground pixel; the background is "
        "black. none: no masks",
    )

    @property
    def image_channels(self) -> int:
        """Grey images."""
        return 1

    def files(self) -> list[Path]:
        """Return the four files, or those of them that exist."""
        return list(idx_files(self.path).values())

    def counts(self) -> ImageCounts:
        """Without `train` and `val` as many as in MNIST."""
        return ImageCounts(self.train or 60_000, self.val or 10_000)

    def needs(self) -> tuple[Need, ...]:
        """The four files."""
        remedy = (
            "install Fashion-MNIST with `apt-get install dataset-fashion-mnist`, or set the "
            "dataset's `path` to a folder of IDX files"
        )
        files = idx_files(self.path)
        lacking = f"not at {self.path}" if not files else None
        if files and (missing := [part for part in IDX_PARTS if part not in files]):
            lacking = f"{self.path} has no file of {', '.join(missing)}"
        return (Need("IDX images", Path(self.path), remedy, lacking),)


@DATASETS.add("diffusability.data.cifar:Cifar")
class CifarDataset(PixelDataset):
    """CIFAR-10 or CIFAR-100 in their binary version, colour images of 32 x 32 pixels.

    `path` holds `data_batch_1.bin` ... and `test_batch.bin`, or `train.bin` and `test.bin`; the
    test split is the validation split here. There are no masks.
    """

    kind: Literal["cifar"] = Field(description="CIFAR's binary files")
    path: Place = Field(description="folder of the files")
    num_classes: Literal[10, 20, 100] = Field(
        10, description="10: CIFAR-10; 100: CIFAR-100; 20: superclasses of CIFAR-100"
    )

    def files(self) -> list[Path]:
        """Return the files of training, then of testing."""
        return [Path(self.path, name) for split in CIFAR_FILES[self.num_classes] for name in split]

    def counts(self) -> ImageCounts:
        """Without `train` and `val` all of them."""
        return ImageCounts(self.train or 50_000, self.val or 10_000)

    def needs(self) -> tuple[Need, ...]:
        """Every file."""
        name = "cifar-10-binary" if self.num_classes == 10 else "cifar-100-binary"
        remedy = f"set the dataset's `path` to the folder of the files in {name}.tar.gz"
        return tuple(Need("CIFAR images", file, remedy) for file in self.files())
