"""The images behind a dataset entry of a study."""

import hashlib
import json
from pathlib import Path
from typing import Any

from diffusability.artifacts.card import rebuild_command
from diffusability.data.digits import load_digits
from diffusability.data.folder import open_folder
from diffusability.data.folder_index import FolderIndex
from diffusability.data.images import ImageSet
from diffusability.data.shapes import load_shapes
from diffusability.errors import ArtifactError
from diffusability.study.dataset import DigitsDataset, FolderDataset, ShapesDataset

INDEX = "index.json"  # beside the manifest of an image folder


def load_spec(spec: dict[str, object]) -> ImageSet:
    """Return the images of a resolved dataset entry that needs no file."""
    if spec["kind"] == "shapes":
        return load_shapes(ShapesDataset.model_validate(spec))
    return load_digits(DigitsDataset.model_validate(spec))


def load_dataset(folder: Path) -> ImageSet:
    """Return the images of a prepared dataset after comparing them with its manifest.

    Those of an image folder are decoded where they are indexed, and compared with its index then.

    Raises:
        ArtifactError: the images are not those that were prepared (another library version).
        DataError: the image folder is no longer where it was.
    """
    manifest = json.loads((folder / "manifest.json").read_text())
    if manifest["spec"]["kind"] == "folder":
        return _load_folder(folder, manifest)
    images = load_spec(manifest["spec"])
    if images.digest() != manifest["sha256"]:
        raise ArtifactError(
            f"{folder}: the images are not those of the manifest; the library that ships them has "
            "changed. Install the versions of requirements.lock, or prepare the dataset again"
        )
    return images


def _load_folder(folder: Path, manifest: dict[str, Any]) -> ImageSet:
    text = (folder / INDEX).read_text()
    if hashlib.sha256(text.encode()).hexdigest() != manifest["sha256"]:
        raise ArtifactError(
            f"{folder}: {INDEX} is not that of the manifest. Make both again with: "
            f"{rebuild_command(folder)}"
        )
    spec = FolderDataset.model_validate({**manifest["spec"], **manifest["places"]})
    return open_folder(folder, FolderIndex.from_json(text), spec)
