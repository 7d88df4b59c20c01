"""The images behind a dataset entry of a study, whatever its kind."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.errors import ArtifactError
from diffusability.study.dataset import DATASETS, Dataset

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
