"""The images behind a dataset entry of a study."""

import json
from pathlib import Path

from diffusability.data.digits import load_digits
from diffusability.data.images import ImageSet
from diffusability.data.shapes import load_shapes
from diffusability.errors import ArtifactError
from diffusability.study.dataset import DigitsDataset, ShapesDataset


def load_spec(spec: dict[str, object]) -> ImageSet:
    """Return the images of a resolved dataset entry."""
    if spec["kind"] == "shapes":
        return load_shapes(ShapesDataset.model_validate(spec))
    return load_digits(DigitsDataset.model_validate(spec))


def load_dataset(folder: Path) -> ImageSet:
    """Return the images of a prepared dataset after comparing them with its manifest.

    Raises:
        ArtifactError: the images are not those that were prepared (another library version).
    """
    manifest = json.loads((folder / "manifest.json").read_text())
    images = load_spec(manifest["spec"])
    if images.digest() != manifest["sha256"]:
        raise ArtifactError(
            f"{folder}: the images are not those of the manifest; the library that ships them has "
            "changed. Install the versions of requirements.lock, or prepare the dataset again"
        )
    return images
