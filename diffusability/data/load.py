"""The images behind a dataset entry of a study, whatever its kind."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.errors import ArtifactError, DataError
from diffusability.study.core.commands import snakemake_command
from diffusability.study.entries.dataset import DATASETS, Dataset

Entry = TypeVar("Entry", bound=Dataset)


class DataSource(Generic[Entry]):
    """How the images of one kind of dataset are prepared once, and opened by every job.

    A kind whose entry says all that the images depend on defines `load` alone.
    """

    def __init__(self, spec: Entry) -> None:
        """Take the entry of the study."""
        self.spec = spec

    def load(self) -> ImageSet:
        """Return the images that the entry alone stands for."""
        raise NotImplementedError(f"{type(self).__name__}: define load, or prepare and open")

    def first_stored(self) -> tuple[str, tuple[int, int]] | None:
        """Return place and (width, height) of the first image as it is stored, read in a moment.

        None: it cannot be read, or images of this kind are never enlarged.
        """
        return None

    def check(self) -> None:
        """Refuse what `prepare` would refuse by names, labels and headers alone, in a moment.

        Raises:
            DataError: see `prepare`.
        """

    def prepare(self, folder: Path, published: Path) -> tuple[ImageSet, dict[str, Any]]:
        """Look at every image once; return the images and what the manifest says of them.

        Args:
            folder: takes further files of the artifact.
            published: folder that the artifact will have.

        Returns:
            The images, and a mapping with at least `sha256` (of all that they are) and
            `foreground_share`, in [0, 1].
        """
        data = self.load()
        share = data.masks[slice(None)].float().mean().item()
        return data, {"sha256": data.digest(), "foreground_share": share}

    def open(self, folder: Path, manifest: Mapping[str, Any]) -> ImageSet:
        """Return the images of a prepared dataset after comparing them with its manifest.

        Raises:
            ArtifactError: the images are not those that were prepared.
        """
        images = self.load()
        if images.digest() != manifest["sha256"]:
            raise ArtifactError(
                f"{folder}: the images are not those of the manifest; the library that ships them "
                "has changed. Install the versions of requirements.lock, or prepare the dataset "
                "again"
            )
        return images


class OwnFiles(DataSource[Entry]):
    """Files of the user's own, read whole by every job; they may move, and are compared.

    Attributes:
        keys: of the entry, which name the files. what: they hold, for messages.
    """

    keys: ClassVar[tuple[str, ...]]
    what: ClassVar[str] = "images"

    def prepare(self, folder: Path, published: Path) -> tuple[ImageSet, dict[str, Any]]:
        """Add where the files are to what the manifest says."""
        data, notes = super().prepare(folder, published)
        given = {key: getattr(self.spec, key) for key in self.keys}
        places = {key: os.path.abspath(path) for key, path in given.items() if path is not None}
        return data, notes | {"places": places}

    def open(self, folder: Path, manifest: Mapping[str, Any]) -> ImageSet:
        """Return what is read after comparing it with the manifest.

        Raises:
            DataError: the files are not where they were, or not those that were prepared.
        """
        remedy = (
            f"Put the files back, or set the dataset's {' and '.join(f'`{k}`' for k in self.keys)} "
            f"to where they are and start the workflow again ({snakemake_command('-c1')}); what is "
            "made from other files gets a new name"
        )
        try:
            data = self.load()
        except DataError as error:
            raise DataError(f"{error}. They were read when {folder} was made. {remedy}") from None
        if data.digest() != manifest["sha256"]:
            place = getattr(self.spec, self.keys[0])
            raise DataError(f"{place}: not the {self.what} that {folder} was made of. {remedy}")
        return data


def data_source(entry: Mapping[str, Any]) -> DataSource[Any]:
    """Return the source of a dataset entry, given as plain values.

    Raises:
        StudyError: no such kind is declared.
    """
    spec = DATASETS[str(entry["kind"])].model_validate(entry)
    source: DataSource[Any] = DATASETS.code(spec)(spec)
    return source


def job_dataset(job: Job) -> ImageSet:
    """Return the dataset that a job reads, from where the study says that its images are now.

    Raises:
        ArtifactError: the prepared dataset, or its images, are not those that the job means.
        DataError: the image folder is not there.
    """
    return load_dataset(job.input("dataset"), job.upstream["dataset"].get("local", {}))


def load_dataset(folder: Path, places: Mapping[str, Any] = MappingProxyType({})) -> ImageSet:
    """Return the images of a prepared dataset; its kind decides when they are read and compared.

    Args:
        folder: of the artifact.
        places: where the images are on this machine, as keys of the entry; where they were when
            they were prepared, for keys that are not given.

    Raises:
        ArtifactError: the images are not those that were prepared.
        DataError: the image folder is no longer where it was.
    """
    manifest = json.loads((folder / "manifest.json").read_text())
    given = {key: place for key, place in places.items() if place is not None}
    source = data_source({**manifest["spec"], **manifest.get("places", {}), **given})
    return source.open(folder, manifest)
