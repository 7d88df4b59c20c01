"""Tar shards as webdataset writes them: one sample is `key.jpg` with `key.cls` or `key.json`.

A tar has no directory, so it is read through once, and the place of every image is kept beside the
index.
"""

import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffusability.data.archive import Archive, Archives, Member
from diffusability.data.folder_layout import unread_format
from diffusability.data.image_file import DamagedImage
from diffusability.errors import DataError
from diffusability.study.entries.dataset import TarDataset
from diffusability.study.sources.folder_content import is_hidden, is_image

END = 1024  # zero bytes that mark the end of a tar, at least


class TarFiles(Archive[TarDataset]):
    """Tars without compression; every read opens the file, so processes share no position."""

    def __init__(self, spec: TarDataset, files: Sequence[Path]) -> None:
        """Read nothing yet."""
        super().__init__(spec, files)
        self._spans: dict[str, dict[str, list[int]]] = {}  # archive: image: first byte, bytes
        self._unread: dict[int, dict[str, str]] = {}  # archive: sample: image

    def members(self, number: int) -> list[Member]:
        """Return the images in their order, and keep where they are."""
        file = self.files[number]
        images: dict[str, str] = {}  # key of a sample to the name of its image
        labels: dict[str, int] = {}
        spans = self._spans[str(number)] = {}
        unread = self._unread[number] = {}
        try:
            with tarfile.open(file, "r:") as archive:
                for member in archive:
                    if is_hidden(member.name):
                        continue
                    if (member.issym() or member.islnk()) and is_image(member.name):
                        raise DataError(
                            f"{file}: {member.name} is a link to {member.linkname}, and links are "
                            "not followed; pack the files themselves: tar --dereference "
                            "--hard-dereference"
                        )
                    if not member.isfile():
                        continue
                    key, extension = _sample(member.name)
                    if is_image(f".{extension}"):
                        if key in images:
                            raise DataError(
                                f"{file}: {images[key]} and {member.name} are images of one sample"
                            )
                        images[key] = member.name
                        spans[member.name] = [member.offset_data, member.size]
                    elif unread_format(f"{key}.{extension}"):
                        unread[key] = member.name
                    elif extension in ("cls", "json"):
                        label = self._label(archive, member, file)
                        if label is not None:
                            labels[key] = label
                end = archive.offset  # tarfile stops at a header that it cannot read, too
        except tarfile.ReadError as error:
            raise DataError(
                f"{file}: cannot be read as a tar without compression ({error}); unpack its "
                "compression, or copy it again if it was cut short"
            ) from None
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from None
        rest = self._read(file, end, file.stat().st_size - end)
        if len(rest) < END or rest.strip(b"\0"):
            raise DataError(
                f"{file}: no end mark after {len(images)} images; it was cut short or altered, "
                "copy it again"
            )
        if alone := sorted(labels.keys() - images.keys() - unread.keys()):
            raise DataError(
                f"{file}: {len(alone)} samples have a label but no JPEG, PNG or WebP image, e.g. "
                f"{alone[0]}"
            )
        return [Member(name, labels.get(key)) for key, name in images.items()]

    def unread(self, number: int) -> Sequence[str]:
        """Return the images of formats that are not read; see `Archive.unread`."""
        return list(self._unread[number].values())

    def first(self) -> str | None:
        """Return the first image, without reading on to the end; see `Archive.first`."""
        with suppress(tarfile.ReadError, OSError), tarfile.open(self.files[0], "r:") as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                if is_image(member.name) and not is_hidden(member.name):
                    self._spans["0"] = {member.name: [member.offset_data, member.size]}
                    return member.name
        return None  # what is wrong with it is said when the dataset is made

    def content(self, number: int, name: str) -> bytes:
        """Return the bytes of a member."""
        first, count = self._spans[str(number)][name]
        content = self._read(self.files[number], first, count)
        if len(content) < count:
            raise DamagedImage(f"cut short after {len(content)} of {count} bytes")
        return content

    def _read(self, file: Path, first: int, count: int) -> bytes:
        try:
            with file.open("rb") as handle:
                return os.pread(handle.fileno(), count, first)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error

    def directory(self) -> Mapping[str, Any]:
        """Return where the images are."""
        return self._spans

    def use_directory(self, directory: Mapping[str, Any]) -> None:
        """Take where the images are."""
        self._spans = dict(directory)

    def _label(self, archive: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> int | None:
        """Return the class in a .cls or .json file; None in a .json file without the key."""
        taken = archive.extractfile(member)
        text = b"" if taken is None else taken.read()
        try:
            if member.name.lower().endswith(".cls"):
                return int(text)
            label = json.loads(text).get(self.spec.label)
        except (ValueError, AttributeError) as error:
            raise DataError(f"{file}: {member.name} holds no class number ({error})") from None
        if label is not None and type(label) is not int:
            raise DataError(
                f"{file}: `{self.spec.label}` of {member.name} is {label!r}, no class number"
            )
        return label


class TarImages(Archives[TarDataset]):
    """Images of tar shards."""

    archive = TarFiles


def _sample(name: str) -> tuple[str, str]:
    """Return key and extension: what is before and after the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    key, _, extension = last.partition(".")
    return f"{folder}{slash}{key}", extension.lower()
