"""References of generated images: features of real ones, or published moments of them."""

import logging
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusability.data.images import ImageSet, thinned
from diffusability.errors import MeasurementError
from diffusability.metrics.fdr6 import (
    FrechetNormaliser,
    compute_normaliser,
    load_references,
    save_normalisers,
    save_references,
)
from diffusability.metrics.feature_moments import (
    IMAGENET_TRAIN,
    FeatureMoments,
    read_adm_reference,
    reference_image_side,
)
from diffusability.stages.features import Extractor
from diffusability.stages.inputs import Inputs
from diffusability.study.core.names import INCEPTION, fdr6_role
from diffusability.study.metrics.generation import (
    Fdr6Reference,
    GenerationMetric,
    GenerationReference,
    PublishedReference,
)

logger = logging.getLogger(__name__)
MOMENTS, VECTORS = "moments.safetensors", "vectors.safetensors"


@dataclass(frozen=True)
class Reference:
    """Features of real images.

    Attributes:
        vectors: (n, D) float32, of the images that samples are compared with one by one.
        moments: of all images of the split, by the extractor's name and what part adds to it.
    """

    vectors: Tensor
    moments: dict[str, FeatureMoments]


def make_generation_reference(inputs: Inputs, spec: GenerationReference, out: Path) -> None:
    """Write moments.safetensors and vectors.safetensors."""
    found = extract_reference(spec, Extractor(inputs, spec.extractor), inputs.data)
    save_references(out / MOMENTS, list(found.moments.values()))
    save_file({"vectors": found.vectors}, out / VECTORS)


def load_reference(folder: Path) -> Reference:
    """Load the files of `make_generation_reference`."""
    return Reference(load_file(folder / VECTORS)["vectors"], load_references(folder / MOMENTS))


def extract_reference(
    spec: GenerationMetric | GenerationReference, extractor: Extractor, data: ImageSet
) -> Reference:
    """Return the reference of a dataset: published moments where they are named, else its own.

    Raises:
        MeasurementError: the published moments are of other images.
    """
    split, compared = data.split(spec.reference), compared_images(spec, data)
    features = extractor.of_dataset(data, compared)
    if spec.reference_statistics is not None:
        found = [read_reference(spec, extractor.name + part) for part in features.parts()]
    elif len(compared) == len(split):
        found = [extractor.moments(values, part) for part, values in features.parts().items()]
    else:
        found = list(extractor.moments_of_parts(data, split).values())
    return Reference(features.vectors, {each.extractor: each for each in found})


def compared_images(spec: GenerationMetric | GenerationReference, data: ImageSet) -> Tensor:
    """Return the (n,) int64 images of the dataset that samples are compared with one by one."""
    split = data.split(spec.reference)
    return thinned(split, spec.compared or len(split), data.labels[split])


def make_fdr6_reference(inputs: Inputs, spec: Fdr6Reference, out: Path) -> None:
    """Write references.safetensors (moments of the train split) and normalisers.json."""
    data = inputs.data
    references: list[FeatureMoments] = []
    normalisers: list[FrechetNormaliser] = []
    for position, name in enumerate(spec.fdr6):
        extractor = Extractor(inputs, name, fdr6_role(position))
        reference = _fdr6_moments(spec, extractor, data)
        validation = extractor.moments_of_dataset(data, data.split("val"))
        normalisers.append(compute_normaliser(reference=reference, validation=validation))
        references.append(reference)
        value = normalisers[-1].value
        logger.info("%s: normaliser of %s is %.6g", inputs.job.name, name, value)
    save_references(out / "references.safetensors", references)
    save_normalisers(out / "normalisers.json", normalisers)


def _fdr6_moments(spec: Fdr6Reference, extractor: Extractor, data: ImageSet) -> FeatureMoments:
    """Return the moments of the train split, of Inception the published ones where named."""
    if extractor.name == INCEPTION and spec.reference_statistics is not None:
        return read_reference(spec, extractor.name)
    return extractor.moments_of_dataset(data, data.split("train"))


def read_reference(spec: GenerationMetric | PublishedReference, extractor: str) -> FeatureMoments:
    """Return the published moments; their images must have the size of the study's.

    Args:
        spec: names the file and says what it does not hold.
        extractor: whose features the moments are of.

    Raises:
        MeasurementError: the size is unknown, or differs between entry and file.
    """
    assert spec.reference_statistics is not None
    path, stated = Path(spec.reference_statistics), spec.reference_resolution
    found = reference_image_side(path)
    side = stated if found is None else found
    if side is None:
        raise MeasurementError(
            f"reference statistics {path} contain no images to read their size from; set "
            "metrics.generation.reference_resolution"
        )
    if stated not in (None, side):
        raise MeasurementError(
            f"reference statistics {path} hold images of {side} pixels per side, but "
            f"metrics.generation.reference_resolution says {stated}; correct it or leave it out"
        )
    return read_adm_reference(
        path,
        count=spec.reference_count or IMAGENET_TRAIN,
        resolution=side,
        extractor=extractor,
    )
