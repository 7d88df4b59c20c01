"""Image files in archives: indexed once, read where they are, decoded as files of a folder are."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch

from diffusability.artifacts.atomic import write_bytes
from diffusability.artifacts.card import rebuild_command
from diffusability.data.folder import (
    INDEX,
    FolderImages,
    FolderMasks,
    IndexedFile,
    indexed_images,
)
from diffusability.data.folder_index import (
    FolderIndex,
    Inspection,
    index_images,
    inspect_file,
    refuse_damaged,
)
from diffusability.data.folder_layout import Listing, unread_format
from diffusability.data.image_file import DamagedImage, stored_size
from diffusability.data.images import ImageSet, stratified_validation
from diffusability.data.load import DataSource
from diffusability.errors import ArtifactError, DataError
from diffusability.study.core.commands import snakemake_command
from diffusability.study.core.fingerprint import canonical_json, derive_seed
from diffusability.study.entries.dataset import ArchiveDataset

QUICKLY_LISTED = 2**31  # bytes of archives, whose members are listed in a moment
MEMBERS = "members.json"  # beside the index, where an archive has no directory of its own
Entry = TypeVar("Entry", bound=ArchiveDataset)


class Member(NamedTuple):
    """One image of an archive: its name there, and its class number or None without a label."""

    name: str
    label: int | None


class Archive(Generic[Entry]):
    """Archives of one kind, in a fixed order, whose members are read by several threads at a time.

    Nothing is shared between processes: after a fork, each has handles of its own.

    Attributes:
        files: the archives.
    """

    def __init__(self, spec: Entry, files: Sequence[Path]) -> None:
        """Take the entry of the study and the archives."""
        self.spec, self.files = spec, files

    def members(self, number: int) -> list[Member]:
        """Return the images of an archive.

        Raises:
            DataError: the archive is damaged, or not what the study says.
        """
        raise NotImplementedError(f"{type(self).__name__}: define members")

    def unread(self, number: int) -> Sequence[str]:
        """Return the images, among the members, whose formats are not read; after `members`."""
        return ()

    def first(self) -> str | None:
        """Return the name of the first image of the first archive; None: it has none."""
        return next((member.name for member in self.members(0)), None)

    def content(self, number: int, name: str) -> bytes:
        """Return the image file `name` of an archive.

        Raises:
            DataError: the archive cannot be read.
            DamagedImage: the member is damaged.
        """
        raise NotImplementedError(f"{type(self).__name__}: define content")

    def directory(self) -> Mapping[str, Any]:
        """Return what `members` found and `content` needs in later processes."""
        return {}

    def use_directory(self, directory: Mapping[str, Any]) -> None:
        """Take what `directory` returned in the process that listed the members."""


@dataclass(frozen=True)
class ArchivedFile(IndexedFile):
    """Reads image files named `<number of the archive>/<name in it>`."""

    archive: Archive[Any]

    def place(self, name: str) -> str:
        """Return archive and member, for messages."""
        number, member = _split(name)
        return f"{self.archive.files[number]}: {member}"

    def read(self, name: str) -> bytes:
        """Return the member's content; see `IndexedFile.read`."""
        return self.archive.content(*_split(name))


class Archives(DataSource[Entry]):
    """Archives of images: indexed once, then read when images are needed."""

    archive: ClassVar[type[Archive[Any]]]

    def first_stored(self) -> tuple[str, tuple[int, int]] | None:
        """Return place and size of the first image; see `DataSource.first_stored`.

        Raises:
            DataError: the first archive is damaged, or not what the study says.
        """
        train, _ = self.spec.files()
        archive = self.archive(self.spec, train)
        name = archive.first()
        if name is None:
            return None
        try:
            size = stored_size(archive.content(0, name))
        except DamagedImage:  # named with all others when the dataset is made
            return None
        return None if size is None else (f"{train[0]}: {name}", size)

    def check(self) -> None:
        """Compare the members of small archives with the study; see `DataSource.check`."""
        train, val = self.spec.files()
        files = [*train, *val]
        if sum(file.stat().st_size for file in files) > QUICKLY_LISTED:
            return
        archive = self.archive(self.spec, files)
        listing = _listing(archive, len(train))
        file = ArchivedFile(Path(self.spec.path), Path(), archive)
        refuse_damaged(self.spec, self.spec.path, len(listing.files), _unread(file))

    def count_classes(self) -> int:
        """Return the number of classes that the labels name; 1 where there are none.

        Raises:
            DataError: an archive is damaged or not what the study says, or labels have gaps.
        """
        train, val = self.spec.files()
        archive = self.archive(self.spec, [*train, *val])
        members = chain.from_iterable(map(archive.members, range(len(archive.files))))
        found = sorted({member.label for member in members if member.label is not None})
        if found and found != list(range(len(found))):
            raise DataError(
                f"{self.spec.path}: {len(found)} classes with labels from {found[0]} to "
                f"{found[-1]}; number them from 0 without gaps. `num_classes: 1` takes all images "
                "as one class"
            )
        return max(1, len(found))

    def prepare(self, folder: Path, published: Path) -> tuple[ImageSet, dict[str, Any]]:
        """Write index.json and members.json; return the images and what the manifest says.

        Raises:
            DataError: images are damaged or have no label, or the archives are not those that the
                study was planned with.
        """
        spec = self.spec
        if spec.content not in (None, spec.content_now()):
            raise DataError(
                f"{spec.path}: the archives changed after the study was planned; start it again"
            )
        train, val = spec.files()
        archive = self.archive(spec, [*train, *val])
        file = ArchivedFile(Path(spec.path), published, archive)
        listing = _listing(archive, len(train))

        def inspect(number: int) -> Inspection:
            name = listing.files[number]
            place = file.place(name)
            try:
                return inspect_file(file.read(name), place, None, spec.size)
            except DamagedImage as damage:
                return Inspection(0, "", damaged={place: str(damage)}, whole=False)

        threads, unread = torch.get_num_threads(), _unread(file)
        indexed = index_images(spec, spec.path, listing, inspect, threads, unread)
        write_bytes(folder / INDEX, indexed.index.to_json().encode())
        write_bytes(folder / MEMBERS, canonical_json(archive.directory()).encode())
        given = {"path": spec.path, "val": spec.val}
        notes = {
            "sha256": indexed.index.digest(),
            "foreground_share": 0.0,
            "damaged": dict(indexed.damaged),
            "enlarged": indexed.enlarged,
            "archives": [[file.name, file.stat().st_size] for file in archive.files],
            "places": {key: os.path.abspath(place) for key, place in given.items() if place},
        }
        return self._images(indexed.index, file), notes

    def open(self, folder: Path, manifest: Mapping[str, Any]) -> ImageSet:
        """Return the images that the index names.

        Raises:
            ArtifactError: the index is not that of the manifest.
            DataError: the archives are no longer where they were, or have other sizes.
        """
        text = (folder / INDEX).read_text()
        if hashlib.sha256(text.encode()).hexdigest() != manifest["sha256"]:
            raise ArtifactError(
                f"{folder}: {INDEX} is not that of the manifest. Make both again with: "
                f"{rebuild_command(folder)}"
            )
        train, val = self.spec.files()
        files = [*train, *val]
        sizes = [size for _, size in manifest["archives"]]
        if [file.stat().st_size for file in files] != sizes:
            names = ", ".join(name for name, _ in manifest["archives"][:5])
            raise DataError(
                f"{self.spec.path}: not the {len(sizes)} archives that were indexed in {folder} "
                f"({names}). If they were moved, set the dataset's `path` and `val` to where they "
                f"are now and start the workflow again ({snakemake_command('-c1')}); nothing is "
                "made twice"
            )
        archive = self.archive(self.spec, files)
        archive.use_directory(json.loads((folder / MEMBERS).read_text()))
        file = ArchivedFile(Path(self.spec.path), folder, archive)
        return self._images(FolderIndex.from_json(text), file)

    def _images(self, index: FolderIndex, file: ArchivedFile) -> ImageSet:
        images = FolderImages(index, file, self.spec, None)
        masks = FolderMasks(index, file, self.spec.size, None)  # none has any foreground
        return indexed_images(index, images, masks, masked=False, num_classes=self.spec.num_classes)


def _split(name: str) -> tuple[int, str]:
    number, _, member = name.partition("/")
    return int(number), member


def _unread(file: ArchivedFile) -> dict[str, str]:
    """Return the images of formats that are not read, with the reason; after `_listing`."""
    return {
        file.place(f"{number}/{name}"): str(unread_format(name))
        for number in range(len(file.archive.files))
        for name in file.archive.unread(number)
    }


def _listing(archive: Archive[Any], training: int) -> Listing:
    """Return all members, of which those of the first `training` archives are for training."""
    spec = archive.spec
    files, labels, validation = [], [], []
    for number, file in enumerate(archive.files):
        members = archive.members(number)
        if not members:
            raise DataError(f"{file}: holds no images that are read (.jpg, .png, .webp)")
        for member in members:
            if member.label is None and spec.num_classes > 1:
                raise DataError(
                    f"{file}: {member.name} has no label; images without labels are one class, "
                    "`num_classes: 1`"
                )
            files.append(f"{number}/{member.name}")
            labels.append(0 if spec.num_classes == 1 else member.label or 0)
            validation.append(number >= training)
    if not files:
        raise DataError(f"{spec.path}: no {spec.suffix} file")
    found = sorted(set(labels))
    if found != list(range(spec.num_classes)):
        raise DataError(
            f"{spec.path}: {len(found)} classes with labels from {found[0]} to {found[-1]}, but "
            f"`num_classes: {spec.num_classes}`, which are the labels 0 to {spec.num_classes - 1}; "
            "`num_classes: 1` takes all images as one class"
        )
    if not any(validation):
        seed = derive_seed("folder split")
        validation = stratified_validation(torch.tensor(labels), spec.val_fraction, seed).tolist()
    return Listing([str(label) for label in found], files, labels, validation)
