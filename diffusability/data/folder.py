"""The images of an indexed folder and their masks, decoded where they are indexed."""

import hashlib
import os
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusability.artifacts.atomic import write_bytes
from diffusability.artifacts.card import rebuild_command
from diffusability.artifacts.named_content import record_name
from diffusability.data.crops import Crop, centre_crop, random_crop
from diffusability.data.folder_index import (
    IGNORED,
    FolderIndex,
    build_index,
    find_files,
    read_file,
    refuse_damaged,
)
from diffusability.data.image_file import (
    INSIDE,
    UNDECIDED,
    DamagedImage,
    decode_foreground,
    decode_rgb,
    stored_size,
    upright,
)
from diffusability.data.images import ImageSet
from diffusability.data.load import DataSource
from diffusability.errors import ArtifactError, DataError
from diffusability.study.core.commands import snakemake_command
from diffusability.study.entries.dataset import DecodedDataset, FolderDataset
from diffusability.study.sources.content import is_digest
from diffusability.study.sources.folder_content import (
    dataset_images,
    images_below,
    is_small,
    joint_digest,
    names_digest,
)

INDEX = "index.json"  # beside the manifest of an image folder


class Folder(DataSource[FolderDataset]):
    """Image files: indexed once, then decoded when they are needed and compared with the index."""

    def first_stored(self) -> tuple[str, tuple[int, int]] | None:
        """Return place and size of the first image file; see `DataSource.first_stored`."""
        root = Path(self.spec.path)
        name = next(dataset_images(root), None)
        size = None if name is None else stored_size(read_file(root / name))
        return None if size is None else (str(root / str(name)), size)

    def check(self) -> None:
        """Compare the names of a small folder with the study; see `DataSource.check`."""
        if is_small(self.spec.path):
            listing, _, unread = find_files(self.spec)
            refuse_damaged(self.spec, self.spec.path, len(listing.files), unread)

    def prepare(self, folder: Path, published: Path) -> tuple[ImageSet, dict[str, Any]]:
        """Write index.json; return the images and what the manifest says of a folder alone.

        Raises:
            DataError: files are damaged, or the images are not those that the study means.
        """
        given = {"path": self.spec.path, "masks": self.spec.masks}
        places = {key: os.path.abspath(place) for key, place in given.items() if place}
        spec = self.spec.model_copy(update=places)
        indexed = build_index(spec, torch.get_num_threads())
        digest = indexed.index.digest()
        _refuse_other_images(spec, indexed.index)
        write_bytes(folder / INDEX, indexed.index.to_json().encode())
        notes = {
            "sha256": digest,
            "foreground_share": indexed.foreground_share,
            "masks": len(indexed.index.masks),
            "damaged": dict(indexed.damaged),
            "enlarged": indexed.enlarged,
            "places": places,
        }
        return open_folder(published, indexed.index, spec), notes

    def open(self, folder: Path, manifest: Mapping[str, Any]) -> ImageSet:
        """Return the images that the index names.

        Raises:
            ArtifactError: the index is not that of the manifest.
            DataError: the image folder is no longer where it was.
        """
        text = (folder / INDEX).read_text()
        if hashlib.sha256(text.encode()).hexdigest() != manifest["sha256"]:
            raise ArtifactError(
                f"{folder}: {INDEX} is not that of the manifest. Make both again with: "
                f"{rebuild_command(folder)}"
            )
        try:
            index = FolderIndex.from_json(text)
        except TypeError:
            raise ArtifactError(
                f"{folder}: {INDEX} is of an earlier version, without hashes of the files. Index "
                f"the folder again with: {rebuild_command(folder)}"
            ) from None
        return open_folder(folder, index, self.spec)


def _refuse_other_images(spec: FolderDataset, index: FolderIndex) -> None:
    """Refuse images that are not those by which the artifact is named."""
    masks = [mask for _, mask in sorted(index.masks.items())]
    images = _digest(Path(spec.path), dict(zip(index.files, index.digests, strict=True)), True)
    drawn = None
    if spec.masks is not None:
        drawn = _digest(Path(spec.masks), {mask.file: mask.sha256 for mask in masks}, False)
    found = images if drawn is None else joint_digest(images, drawn)
    if not is_digest(spec.identity):
        record_name("images", spec.identity, {"images": images, "masks": drawn}, spec.path)
    elif spec.identity != found:
        raise DataError(
            f"{spec.path}: its images have changed since the study was planned. Start the workflow "
            f"again ({snakemake_command('-c1')}); what is made from them gets a new name then"
        )


def _digest(root: Path, known: dict[str, str], split: bool) -> str:
    """Return the digest of a folder, reading only files that were not indexed (damaged, unused)."""
    for name in dataset_images(root) if split else images_below(root):
        if name not in known:
            known[name] = hashlib.sha256(read_file(root / name)).hexdigest()
    return names_digest(known)


@dataclass(frozen=True)
class IndexedFile:
    """Reads indexed files, and detects files changed since indexing.

    Attributes:
        root: folder that the names are relative to.
        artifact: folder of the prepared dataset, for messages.
    """

    root: Path
    artifact: Path

    def place(self, name: str) -> str:
        """Return where the file is, for messages."""
        return str(self.root / name)

    def read(self, name: str) -> bytes:
        """Return the file's content.

        Raises:
            DataError: it cannot be read.
            DamagedImage: it is there, but damaged.
        """
        return read_file(self.root / name)

    def decode(
        self, name: str, size: int, sha256: str, decoder: Callable[[bytes], Image.Image]
    ) -> Image.Image:
        """Return the picture in the file `name`, which had this size and hash when it was indexed.

        Raises:
            DataError: the file is missing, or not the one that was indexed.
        """
        remedy = (
            f"Put it back, or start the workflow again ({snakemake_command('-c1')}): what is made "
            "from other images gets a new name"
        )
        try:
            content = self.read(name)
        except DataError as error:
            raise DataError(f"{error}, but is in the index of {self.artifact}. {remedy}") from (
                error.__cause__
            )
        except DamagedImage as damage:
            raise self._damaged(name, damage, remedy) from None
        if len(content) != size:
            raise DataError(
                f"{self.place(name)}: has {len(content)} bytes, had {size} when it was indexed in "
                f"{self.artifact}. {remedy}"
            )
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DataError(
                f"{self.place(name)}: has other content than when it was indexed in "
                f"{self.artifact}. {remedy}"
            )
        try:
            return decoder(content)
        except DamagedImage as damage:
            raise self._damaged(name, damage, remedy) from None

    def _damaged(self, name: str, damage: DamagedImage, remedy: str) -> DataError:
        return DataError(
            f"{self.place(name)}: was intact when it was indexed in {self.artifact} but does not "
            f"decode now ({damage}). {remedy}"
        )


class FolderImages:
    """The (N, 3, S, S) uint8 images of a folder; indexing decodes ADM's centre crop.

    Attributes:
        shape: N, 3, S, S.
        random: whether trainings see ADM's random crop instead of the centre crop.
    """

    def __init__(
        self, index: FolderIndex, files: IndexedFile, spec: DecodedDataset, threads: int | None
    ) -> None:
        """Store the options; `threads` decode in parallel, by default as many as torch uses."""
        self.shape = torch.Size((len(index.files), 3, spec.size, spec.size))
        self.random = spec.train_crop == "random"
        self._index, self._files, self._spec = index, files, spec
        self._workers = _Workers(threads)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return the centre crops of the chosen images, (n, 3, S, S) uint8."""
        return self._decode(rows, None)

    def random_crops(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return a random crop of each chosen image, (n, 3, S, S) uint8, each with its own seed."""
        return self._decode(rows, seeds)

    def _decode(self, rows: Tensor | slice, seeds: Sequence[int] | None) -> Tensor:
        numbers = _numbers(rows, len(self))
        out = torch.empty(len(numbers), *self.shape[1:], dtype=torch.uint8)

        def fill(position: int) -> None:
            number = numbers[position]
            name, size = self._index.files[number], self._index.sizes[number]
            image = self._files.decode(name, size, self._index.digests[number], decode_rgb)
            crop = self._crop(image, None if seeds is None else seeds[position])
            pixels = np.array(crop.of_image(image))  # (S, S, 3), a copy of its own
            out[position] = torch.from_numpy(pixels).permute(2, 0, 1)

        self._workers.run(fill, len(numbers))
        return out

    def _crop(self, image: Image.Image, seed: int | None) -> Crop:
        side = self._spec.size
        if seed is None:
            return centre_crop(*image.size, side)
        return random_crop(*image.size, side, self._spec.smallest_crop, random.Random(seed))


class FolderMasks:
    """The (N, S, S) bool regions of one kind in the centre crops; False for images without a mask.

    Attributes:
        shape: N, S, S.
    """

    def __init__(
        self,
        index: FolderIndex,
        files: IndexedFile,
        size: int,
        threads: int | None,
        region: int = INSIDE,
    ) -> None:
        """Store the options; see `FolderImages`. `region` is a grey level of the decoded masks."""
        self.shape = torch.Size((len(index.files), size, size))
        self._region = region
        self._index, self._files = index, files
        self._workers = _Workers(threads)

    def __len__(self) -> int:
        """Return the number of images, with or without a mask."""
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return the region of the chosen images, (n, S, S) bool."""
        numbers = _numbers(rows, len(self))
        out = torch.zeros(len(numbers), *self.shape[1:], dtype=torch.bool)

        def fill(position: int) -> None:
            entry = self._index.masks.get(numbers[position])
            if entry is None:
                return
            decoder = partial(decode_foreground, ignored=IGNORED)
            mask = self._files.decode(entry.file, entry.bytes, entry.sha256, decoder)
            mask = upright(mask, entry.turn)
            cropped = centre_crop(*mask.size, self.shape[-1]).of_mask(mask)
            out[position] = torch.from_numpy(np.asarray(cropped) == self._region)

        self._workers.run(fill, len(numbers))
        return out


def open_folder(
    artifact: Path, index: FolderIndex, spec: FolderDataset, threads: int | None = None
) -> ImageSet:
    """Return the images of an indexed folder.

    Args:
        artifact: folder of the prepared dataset, for messages.
        index: of the folder `spec.path`.
        spec: the entry, with the current folders of images and masks.
        threads: decoding threads; by default as many as torch uses.

    Raises:
        DataError: the folder of images, or of masks, does not exist.
    """
    for folder, key in ((spec.path, "path"), (spec.masks, "masks")):
        if folder is not None and not Path(folder).is_dir():
            raise DataError(
                f"{folder}: no such folder; it contained the images of {artifact}. If they were "
                f"moved, set the dataset's `{key}` to where they are and start the workflow "
                f"again ({snakemake_command('-c1')}); nothing is made twice"
            )
    masks = IndexedFile(Path(spec.masks or spec.path), artifact)
    images = indexed_images(
        index,
        FolderImages(index, IndexedFile(Path(spec.path), artifact), spec, threads),
        FolderMasks(index, masks, spec.size, threads),
        masked=spec.masked,
        num_classes=spec.num_classes,
    )
    if not spec.masked:
        return images
    return replace(images, undecided=FolderMasks(index, masks, spec.size, threads, UNDECIDED))


def indexed_images(
    index: FolderIndex, images: FolderImages, masks: FolderMasks, masked: bool, num_classes: int
) -> ImageSet:
    """Return images and masks with the labels and the split of their index."""
    return ImageSet(
        images=images,
        labels=torch.tensor(index.labels, dtype=torch.int64),
        masks=masks,
        validation=torch.tensor(index.validation, dtype=torch.bool),
        num_classes=num_classes,
        masked=masked,
    )


class _Workers:
    """Threads that are started when they are needed; Pillow decodes without the GIL."""

    def __init__(self, threads: int | None) -> None:
        self._threads = threads or torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None

    def run(self, task: Callable[[int], None], count: int) -> None:
        """Call task(0) ... task(count - 1); the first error is raised."""
        if self._threads == 1:
            for position in range(count):
                task(position)
            return
        self._pool = self._pool or ThreadPoolExecutor(self._threads)
        for _ in self._pool.map(task, range(count)):
            pass


def _numbers(rows: Tensor | slice, count: int) -> list[int]:
    """Return the positions that an index selects."""
    if isinstance(rows, slice):
        return list(range(count)[rows])
    return [int(number) for number in rows]
