"""A zip as EDM's dataset tool writes it: image files, and dataset.json with their labels."""

import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from diffusability.data.archive import Archive, Archives, Member
from diffusability.data.folder_layout import unread_format
from diffusability.data.image_file import DamagedImage
from diffusability.errors import DataError
from diffusability.study.entries.dataset import ZipDataset
from diffusability.study.sources.folder_content import is_hidden, is_image

LABELS = "dataset.json"
_ALTERED = (zlib.error, lzma.LZMAError)  # members that do not unpack
UNPACK = "write the zip with EDM's dataset_tool.py, or unpack it and use a dataset of kind folder"


class ZipFiles(Archive[ZipDataset]):
    """Zips, whose directories are read once per process; `zipfile` locks while threads read."""

    def __init__(self, spec: ZipDataset, files: Sequence[Path]) -> None:
        """Open nothing yet."""
        super().__init__(spec, files)
        self._opened: dict[tuple[int, int], zipfile.ZipFile] = {}

    def members(self, number: int) -> list[Member]:
        """Return the images by name, with the labels of dataset.json."""
        file, archive = self.files[number], self._open(number)
        images = sorted(
            name for name in archive.namelist() if is_image(name) and not is_hidden(name)
        )
        if twice := [name for name, after in pairwise(images) if name == after]:
            raise DataError(
                f"{file}: holds {twice[0]} twice, and only its last copy can be read; {UNPACK}"
            )
        if LABELS not in archive.namelist():
            if self.spec.num_classes > 1:
                raise DataError(f"{file}: has no {LABELS}, which holds the labels; {UNPACK}")
            return [Member(name, None) for name in images]
        try:
            labels = json.loads(archive.read(LABELS))["labels"]
            named = {} if labels is None else {str(name): label for name, label in labels}
        except (ValueError, KeyError, TypeError, zipfile.BadZipFile, *_ALTERED) as error:
            raise DataError(
                f"{file}: {LABELS} does not hold `labels` as pairs of name and class ({error!r}); "
                f"{UNPACK}"
            ) from None
        if unknown := sorted(named.keys() - {*images, *self.unread(number)}):
            raise DataError(
                f"{file}: {len(unknown)} images of {LABELS} are not in the zip, e.g. {unknown[0]}"
            )
        for name, label in named.items():
            if type(label) is not int:
                raise DataError(f"{file}: {LABELS} gives {name} the label {label!r}, no class")
        return [Member(name, named.get(name)) for name in images]

    def unread(self, number: int) -> Sequence[str]:
        """Return the images of formats that are not read; see `Archive.unread`."""
        names = self._open(number).namelist()
        return sorted(name for name in names if unread_format(name) and not is_hidden(name))

    def content(self, number: int, name: str) -> bytes:
        """Return a member, whose checksum `zipfile` compares."""
        try:
            return self._open(number).read(name)
        except (zipfile.BadZipFile, *_ALTERED, EOFError, RuntimeError, KeyError) as error:
            raise DamagedImage(str(error)) from None
        except OSError as error:
            raise DataError(f"{self.files[number]}: cannot be read ({error.strerror})") from error

    def _open(self, number: int) -> zipfile.ZipFile:
        """Return the archive as this process has it: a handle from before a fork is shared."""
        key = os.getpid(), number
        if key not in self._opened:
            file = self.files[number]
            try:
                self._opened[key] = zipfile.ZipFile(file)
            except (zipfile.BadZipFile, OSError) as error:
                reason = getattr(error, "strerror", None) or error
                raise DataError(f"{file}: cannot be read as a zip ({reason})") from None
        return self._opened[key]


class ZipImages(Archives[ZipDataset]):
    """Images of zips."""

    archive = ZipFiles
