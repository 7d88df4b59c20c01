"""The persistent index of an image folder: every file is decoded once, none is copied.

Every image is fully decoded when the index is built, not just its header, so truncated files are
found before the first training. For ImageNet this takes 27 core-minutes (benchmarks/RESULTS.md),
far less than a thousandth of the decoding in a study's trainings.
"""

import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffusability.data.crops import centre_crop
from diffusability.data.folder_layout import Listing, list_images, named, unread_images
from diffusability.data.image_file import (
    INSIDE,
    PIXELS,
    DamagedImage,
    decode_foreground,
    decode_orientation,
    decode_rgb,
    upright,
)
from diffusability.errors import DataError
from diffusability.study.core.fingerprint import canonical_json
from diffusability.study.entries.dataset import DecodedDataset, FolderDataset
from diffusability.study.sources.folder_content import images_below

logger = logging.getLogger(__name__)
IGNORED = 1000  # class number of ImageNet-S for pixels that are neither object nor background
BLOCK = 4096  # files under inspection at a time
LOG_SECONDS = 10.0


class MaskFile(NamedTuple):
    """The mask of an image: its file, and the rotation that makes it upright.

    Attributes:
        file: name relative to the folder of masks.
        bytes: size of the file.
        turn: EXIF orientation of the image if the mask is stored in the same orientation; else 1.
        sha256: of the file's content, in hexadecimal.
    """

    file: str
    bytes: int
    turn: int
    sha256: str


@dataclass(frozen=True)
class FolderIndex:
    """The images of a folder in a fixed order: training first, then by class and name.

    Attributes:
        classes: names of the class folders.
        files: names relative to the root.
        labels: class of each file, a position in `classes`.
        sizes: bytes of each file.
        digests: SHA-256 of the content of each file, in hexadecimal.
        validation: whether each file is held out.
        masks: by position in `files`; most images of ImageNet have none.
    """

    classes: Sequence[str]
    files: Sequence[str]
    labels: Sequence[int]
    sizes: Sequence[int]
    digests: Sequence[str]
    validation: Sequence[bool]
    masks: Mapping[int, MaskFile]

    def to_json(self) -> str:
        """Return the index as one line of JSON."""
        masks = {str(number): list(mask) for number, mask in self.masks.items()}
        return canonical_json(vars(self) | {"masks": masks})

    @classmethod
    def from_json(cls, text: str) -> "FolderIndex":
        """Return the index that `to_json` wrote."""
        values = json.loads(text)
        masks = {int(number): MaskFile(*mask) for number, mask in values["masks"].items()}
        return cls(**values | {"masks": masks})

    def digest(self) -> str:
        """Return the SHA-256 of `to_json`: of names, contents, classes, split and masks."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


class Inspection(NamedTuple):
    """Result of inspecting one image file and its mask.

    Attributes:
        bytes: size of the image file.
        sha256: of its content, in hexadecimal.
        mask: None without an intact mask.
        foreground: share of the mask's centre crop that is foreground.
        damaged: name of the damaged file to the reason.
        whole: whether the image itself can be decoded.
        enlarged: whether its shorter side has fewer pixels than the study's images.
    """

    bytes: int
    sha256: str
    mask: MaskFile | None = None
    foreground: float = 0.0
    damaged: Mapping[str, str] = MappingProxyType({})
    whole: bool = True
    enlarged: bool = False


@dataclass(frozen=True)
class IndexedFolder:
    """An index, and the findings while it was built.

    Attributes:
        index: of the intact files.
        damaged: files that were left out, also of formats that are not read, relative to root or
            masks, with the reason.
        foreground_share: mean share of foreground pixels over the images that have a mask.
        enlarged: number of images that are smaller than the study's.
    """

    index: FolderIndex
    damaged: Mapping[str, str]
    foreground_share: float
    enlarged: int


class FoundFiles(NamedTuple):
    """The files of an image folder, by their names alone.

    Attributes:
        listing: of the images.
        masks: of each image that has one, by the image's position.
        unread: images of formats that are not read, with the reason.
    """

    listing: Listing
    masks: Mapping[int, str]
    unread: Mapping[str, str]


def find_files(spec: FolderDataset) -> FoundFiles:
    """Return the images below `spec.path`, and their masks below `spec.masks`; none is read.

    Raises:
        DataError: the layout is not as declared, or masks do not belong to the images.
    """
    root = _existing(spec.path, "path")
    listing = list_images(root, spec)
    masks_root = None if spec.masks is None else _existing(spec.masks, "masks")
    if spec.masked and masks_root is None:
        raise DataError(f"{root}: the study declares masks; name their folder in `masks`")
    masks = {} if masks_root is None else match_masks(masks_root, listing.files)
    return FoundFiles(listing, masks, unread_images(root, masks_root))


def build_index(spec: FolderDataset, threads: int) -> IndexedFolder:
    """Inspect every image below `spec.path`, and its mask below `spec.masks`, once.

    Raises:
        DataError: see `find_files`; or a file cannot be read, or files are damaged and the study
            does not skip them.
    """
    root, (listing, masks, unread) = Path(spec.path), find_files(spec)

    def inspect(number: int) -> Inspection:
        mask = masks.get(number)
        mask_path = None if mask is None or spec.masks is None else (Path(spec.masks), mask)
        content = read_file(root / listing.files[number])
        return inspect_file(content, listing.files[number], mask_path, spec.size)

    indexed = index_images(spec, str(root), listing, inspect, threads, unread)
    if spec.masked and not indexed.foreground_share:
        raise DataError(f"{spec.masks}: no mask has any foreground in the crop of its image")
    return indexed


def index_images(
    spec: DecodedDataset,
    place: str,
    listing: Listing,
    inspect: Callable[[int], Inspection],
    threads: int,
    unread: Mapping[str, str],
) -> IndexedFolder:
    """Inspect every image of a listing once.

    Args:
        spec: says what to do with damaged images.
        place: where the images are, for messages.
        listing: names, classes and split.
        inspect: returns the inspection of an image, given its position in the listing.
        threads: inspecting at a time.
        unread: images of formats that are not read, with the reason.

    Raises:
        DataError: images are damaged and the study does not skip them, or all of a class are.
    """
    inspections = list(_inspect_all(inspect, len(listing.files), threads))
    damaged = {name: why for found in inspections for name, why in found.damaged.items()}
    damaged |= unread
    for name, why in damaged.items():
        logger.warning("damaged: %s (%s)", name, why)
    refuse_damaged(spec, place, len(listing.files), damaged)
    shares = [found.foreground for found in inspections if found.mask is not None]
    index = _join(place, listing, inspections)
    enlarged = sum(found.enlarged for found in inspections)
    if enlarged:
        logger.warning(
            "%d of %d images are enlarged to %d pixels", enlarged, len(inspections), spec.size
        )
    return IndexedFolder(index, damaged, float(np.mean(shares)) if shares else 0.0, enlarged)


def refuse_damaged(
    spec: DecodedDataset, place: str, count: int, damaged: Mapping[str, str]
) -> None:
    """Refuse damaged files unless the study skips them.

    Args:
        spec: says what to do with them.
        place: where the `count` images are, for messages.
        count: of all images.
        damaged: names of files, with the reason.

    Raises:
        DataError: naming the first of them.
    """
    if damaged and spec.damaged == "refuse":
        reasons = [f"{name} ({why})" for name, why in damaged.items()]
        raise DataError(
            f"{place}: {len(damaged)} damaged files among {count} images and their masks: "
            f"{named(reasons)}. Repair or convert them, or set `damaged: skip` to leave them out"
        )


def inspect_file(content: bytes, file: str, mask: tuple[Path, str] | None, size: int) -> Inspection:
    """Inspect the content of one image, and its mask given as (folder, name), by decoding them."""
    found = Inspection(len(content), hashlib.sha256(content).hexdigest())
    try:
        image = decode_rgb(content)
    except DamagedImage as damage:
        return found._replace(damaged={file: str(damage)}, whole=False)
    if size**2 * max(image.size) / min(image.size) > PIXELS:  # once its shorter side is `size`
        thin = f"{image.width} x {image.height} pixels are too thin to be resized to {size}"
        return found._replace(damaged={file: thin}, whole=False)
    found = found._replace(enlarged=min(image.size) < size)
    if mask is None:
        return found
    folder, name = mask
    drawn = read_file(folder / name)
    try:
        foreground = decode_foreground(drawn, IGNORED)
    except DamagedImage as damage:
        return found._replace(damaged={name: str(damage)})
    turn = 1
    if foreground.size != image.size:
        turn = decode_orientation(content)
        foreground = upright(foreground, turn)
    if foreground.size != image.size:
        raise DataError(
            f"{folder / name}: {foreground.width} x {foreground.height} pixels, its image {file} "
            f"has {image.width} x {image.height}"
        )
    entry = MaskFile(name, len(drawn), turn, hashlib.sha256(drawn).hexdigest())
    return found._replace(mask=entry, foreground=_cropped_share(foreground, size))


def match_masks(folder: Path, files: Sequence[str]) -> dict[int, str]:
    """Return the mask of each image that has one, by the image's position.

    A mask belongs to the image whose path, without its suffix, ends in the mask's: `a/b.png` and
    `b.png` are both masks of `val/a/b.JPEG`, and the longest match counts.

    Raises:
        DataError: no mask belongs to any image, or a mask belongs to several.
    """
    names = {_stem(name): name for name in sorted(images_below(folder))}
    owners: dict[str, int] = {}
    for number, file in enumerate(files):
        parts = PurePosixPath(_stem(file)).parts
        ends = ("/".join(parts[k:]) for k in range(len(parts)))
        stem = next((end for end in ends if end in names), None)
        if stem is None:
            continue
        if stem in owners:
            raise DataError(
                f"{folder / names[stem]}: a mask of both {files[owners[stem]]} and {file}; sort "
                "the masks into the class folders of their images"
            )
        owners[stem] = number
    if not owners:
        raise DataError(f"{folder}: none of its {len(names)} masks has the name of an image")
    if unused := [name for stem, name in names.items() if stem not in owners]:
        logger.info("%d masks belong to no image, e.g. %s", len(unused), unused[0])
    return {number: names[stem] for stem, number in owners.items()}


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DataError(f"{path}: is no regular file; remove it from the images")
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a named pipe, which nobody may write to, does not block."""
    return os.open(path, flags | os.O_NONBLOCK)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _cropped_share(foreground: Image.Image, size: int) -> float:
    cropped = centre_crop(*foreground.size, size).of_mask(foreground)
    return float((np.asarray(cropped) == INSIDE).mean())


def _existing(folder: str, key: str) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; set the dataset's `{key}` to its path")
    return path


def _inspect_all(
    inspect: Callable[[int], Inspection], count: int, threads: int
) -> Iterator[Inspection]:
    """Yield the inspections in order, and log progress."""
    begun = reported = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, BLOCK):
            stop = min(start + BLOCK, count)
            yield from pool.map(inspect, range(start, stop))
            now = time.monotonic()
            if now - reported > LOG_SECONDS or stop == count:
                rate = stop / (now - begun)
                logger.info("inspected %d of %d images, %.0f per second", stop, count, rate)
                reported = now


def _join(place: str, listing: Listing, inspections: Sequence[Inspection]) -> FolderIndex:
    """Return the index of the intact files."""
    kept = [number for number, found in enumerate(inspections) if found.whole]
    labels = [listing.labels[number] for number in kept]
    if gone := sorted(set(listing.labels) - set(labels)):
        classes = [listing.classes[label] or "the only class" for label in gone]
        raise DataError(f"{place}: every file is damaged in {named(classes)}")
    masks = [inspections[number].mask for number in kept]
    return FolderIndex(
        classes=listing.classes,
        files=[listing.files[number] for number in kept],
        labels=labels,
        sizes=[inspections[number].bytes for number in kept],
        digests=[inspections[number].sha256 for number in kept],
        validation=[listing.validation[number] for number in kept],
        masks={image: mask for image, mask in enumerate(masks) if mask is not None},
    )
