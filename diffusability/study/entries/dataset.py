"""Datasets that a study can name: of image files and archives, decoded when they are needed.

Those of small images, which are held in memory, are in `pixel_dataset.py`.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from diffusability.study.core.spec import COMPUTED, NamedContent, Need, OptionalPlace, Place
from diffusability.study.entries.dataset_entry import DATASETS, Dataset, FilesDataset, ImageCounts
from diffusability.study.entries.pixel_dataset import PixelDataset
from diffusability.study.sources.content import content_digest, is_digest
from diffusability.study.sources.folder_content import (
    count_images,
    folder_digest,
    images_identity,
    is_small,
)
from diffusability.study.sources.image_files import (
    archive_files,
    count_in_parquet,
    count_in_tars,
    count_in_zips,
    files_digest,
)

__all__ = ["DATASETS", "Dataset", "ImageCounts", "PixelDataset"]  # whole: all kinds are declared

# ImageNet-1k has 1,281,167 training and 50,000 validation images in 1,000 classes
FOLDER_TRAIN, FOLDER_VAL = 1281.167, 50.0


class DecodedDataset(Dataset):
    """Image files of any size, decoded when they are needed."""

    size: PositiveInt = Field(256, description="side of the square images in pixels")
    num_classes: PositiveInt = Field(1000, description="classes that are expected")
    train_crop: Literal["center", "random"] = Field(
        "center", description="ADM's centre crop, or its random crop, drawn again at every step"
    )
    smallest_crop: float = Field(
        0.8,
        gt=0,
        le=1,
        description="least share of the shorter side in a random crop; 1: only its position is "
        "drawn",
    )
    val_fraction: float = Field(
        0.05, gt=0, lt=1, description="share of every class held out without a validation split"
    )
    damaged: Literal["refuse", "skip"] = Field(
        "refuse",
        description="files that do not decode, or are of other formats (BMP, TIFF, GIF): stop, or "
        "leave out, named and counted",
    )

    def count_files(self) -> tuple[int, int | None] | None:
        """Return the images of training and validation as they lie on disk; None if unknown.

        Without a validation split, all are of training and the second number is None.
        """
        return None

    @cached_property
    def _found(self) -> ImageCounts | None:
        """The number of images per split, or None where there are none."""
        found = self.count_files()
        if found is None or found[0] + (found[1] or 0) == 0:
            return None
        train, val = found
        if val is None:
            val = round(self.val_fraction * train)
            train -= val
        return ImageCounts(train, val)

    @property
    def counted(self) -> bool:
        """Whether its images were counted; else they are taken to be as many as in ImageNet."""
        return self._found is not None

    def counts(self) -> ImageCounts:
        """Return the number of images; where it is unknown, as many as in ImageNet."""
        train, val = self.num_classes * FOLDER_TRAIN, self.num_classes * FOLDER_VAL
        return self._found or ImageCounts(round(train), round(val))


@DATASETS.add("diffusability.data.folder:Folder")
class FolderDataset(DecodedDataset):
    """Image files in folders, decoded when they are needed.

    `path` holds `train/` and `val/`, or `train/` alone, or directly what `train/` would hold;
    without `val/` a `val_fraction` is held out. Each holds one folder per class, as ImageNet does,
    or the images of one class, directly or in any folders (`num_classes: 1`). The index of the
    folder is an artifact, the images stay where they are.
    """

    kind: Literal["folder"] = Field(description="image files in folders")
    path: Place = Field(description="folder of the images; not part of the fingerprint")
    content: str | None = Field(
        None,
        description="a name for what the folder holds, which stands in the fingerprint; none: a "
        "hash of all image files and masks, for which every file is read once",
    )
    masks: OptionalPlace = Field(
        None,
        description="folder of PNG files named as the images, whose pixels hold class numbers as "
        "R + 256 G (ImageNet-S): all but 0 and 1000 are foreground; not part of the fingerprint",
    )
    masked: bool = Field(
        False,
        json_schema_extra=COMPUTED,
        description="whether there are masks; follows from `masks`",
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

    def count_files(self) -> tuple[int, int | None] | None:
        """Return the number of image files in the folders."""
        return count_images(self.path)

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


class ArchiveDataset(DecodedDataset, FilesDataset):
    """Image files with their labels in archives, read where they are; there are no masks."""

    suffix: ClassVar[str]

    path: Place = Field(
        description="an archive, a folder of archives, or a pattern such as `data/train-*`; not "
        "part of the fingerprint"
    )
    val: OptionalPlace = Field(
        None,
        description="archives of the validation split, given as `path`; none: a `val_fraction` is "
        "held out",
    )
    content: str | None = Field(
        None,
        json_schema_extra=COMPUTED,
        description="SHA-256 of the archives; part of the fingerprint, while their paths are not",
    )

    def files(self) -> tuple[list[Path], list[Path]]:
        """Return the archives of training and those of validation, each by name.

        Raises:
            ValueError: they share a file, or a folder holds those of several splits.
        """
        val = [] if self.val is None else archive_files(self.val, self.suffix)
        train = archive_files(self.path, self.suffix)
        held_out = {file.resolve() for file in val}
        if both := [file for file in train if file.resolve() in held_out]:
            raise ValueError(
                f"{both[0]} is part of both `path` and `val`, so its images would be trained on "
                "and held out; let the two name different files"
            )
        return train, val

    def count_files(self) -> tuple[int, int | None] | None:
        """Return the number of images in the archives, about so for tars."""
        train, val = self.files()
        images, held_out = self.count(train), self.count(val)
        if images is None or held_out is None:
            return None
        return images, None if self.val is None else held_out

    def count(self, files: Sequence[Path]) -> int | None:
        """Return the number of images in archives; None where it is unknown."""
        raise NotImplementedError(f"dataset of kind {self.kind}: count the images of archives")

    def content_now(self) -> str | None:
        """Return the SHA-256 of the archives as they are now; None where there are none."""
        train, val = (files_digest(files) for files in self.files())
        if train is None or (val is None and self.val is not None):
            return None
        return train if val is None else hashlib.sha256(f"{train} {val}".encode()).hexdigest()

    def needs(self) -> tuple[Need, ...]:
        """The archives of both splits."""
        needs = []
        places = (("path", self.path), ("val", self.val))
        for (key, path), files in zip(places, self.files(), strict=True):
            if path is not None:
                remedy = f"set the dataset's `{key}` to a {self.suffix} file, or a folder of them"
                lacking = None if files else f"no {self.suffix} file at {path}"
                needs.append(Need(f"images of kind {self.kind}", Path(path), remedy, lacking))
        return tuple(needs)


@DATASETS.add("diffusability.data.zip_archive:ZipImages")
class ZipDataset(ArchiveDataset):
    """A zip as EDM's dataset tool writes it: image files, and their labels in dataset.json."""

    suffix = ".zip"
    kind: Literal["zip"] = Field(description="a zip of images with dataset.json")

    def count(self, files: Sequence[Path]) -> int | None:
        """From the directories of the zips."""
        return count_in_zips(files)


@DATASETS.add("diffusability.data.parquet:ParquetImages")
class ParquetDataset(ArchiveDataset):
    """Parquet files as the Hugging Face hub stores image data sets."""

    suffix = ".parquet"
    kind: Literal["parquet"] = Field(description="Parquet files with columns of images and labels")
    image: str = Field("image", description="column of the images: bytes, or a struct with `bytes`")
    label: str = Field("label", description="column of the class numbers")

    def count(self, files: Sequence[Path]) -> int | None:
        """The rows."""
        return count_in_parquet(files)

    def packages(self) -> tuple[str, ...]:
        """The library that reads Parquet."""
        return ("pyarrow",)


@DATASETS.add("diffusability.data.tar_shards:TarImages")
class TarDataset(ArchiveDataset):
    """Tar shards as webdataset writes them: `key.jpg` with `key.cls` or `key.json`."""

    suffix = ".tar"
    kind: Literal["tar"] = Field(description="tar shards of images and labels")
    label: str = Field("label", description="key of the class number in `key.json`")

    def count(self, files: Sequence[Path]) -> int | None:
        """About as many as the first tar holds, by size."""
        return count_in_tars(files)


@DATASETS.add("diffusability.data.unseen:UnseenImages")
class UnseenDataset(Dataset):
    """Images that are known by their latents alone, with labels and masks where there are any.

    It goes with tokenizers of source `latents`. There is no validation split: metrics have
    `split: all`.
    """

    has_images = False

    kind: Literal["latents"] = Field(description="no images, only their latents (source `latents`)")
    size: PositiveInt = Field(1, description="side of the images, in pixels; known for masks alone")
    images: PositiveInt = Field(description="number of images")
    num_classes: PositiveInt = Field(1, description="classes that are expected; 1 without labels")
    labels: OptionalPlace = Field(
        None,
        description="npy, npz, safetensors or zarr of (images,) integers; not part of the "
        "fingerprint",
    )
    masks: OptionalPlace = Field(
        None,
        description="npy, npz, safetensors or zarr of (images, H, W) foreground, true or false or "
        "its share in [0, 1], at the resolution of the images or of the latents; not part of the "
        "fingerprint",
    )
    content: dict[str, str | None] = Field(
        {},
        json_schema_extra=COMPUTED,
        description="SHA-256 of the files of labels and masks; part of the fingerprint",
    )

    @model_validator(mode="before")
    @classmethod
    def _hash_files(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "content" in data:
            return data
        named = {key: data[key] for key in ("labels", "masks") if isinstance(data.get(key), str)}
        return data | {"content": {key: content_digest(path) for key, path in named.items()}}

    @model_validator(mode="after")
    def _classes_of_labels(self) -> "UnseenDataset":
        if "labels" not in self.content and self.num_classes > 1:
            raise ValueError(f"num_classes {self.num_classes} needs `labels`, a file of them")
        return self

    def counts(self) -> ImageCounts:
        """All are measured, and none is held out."""
        return ImageCounts(self.images, 0)

    def needs(self) -> tuple[Need, ...]:
        """The files that the entry names."""
        named = {"labels": self.labels, "masks": self.masks}
        return tuple(
            Need(f"{key} of latents", Path(path), f"set the dataset's `{key}`, or leave it out")
            for key, path in named.items()
            if path is not None
        )
