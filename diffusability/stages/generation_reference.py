"""Stage `generation_reference`: features of the real images that samples are compared with."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.data.load import load_dataset
from diffusability.metrics.fdr6 import load_references, save_references
from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.stages.features import Extractor
from diffusability.stages.reference_statistics import read_reference
from diffusability.study.metrics import GenerationMetric
from diffusability.study.metrics import GenerationReference as ReferenceSpec

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


def make(job: Job, folder: Path) -> None:
    """Write moments.safetensors and vectors.safetensors."""
    spec = ReferenceSpec.model_validate({**job.spec, **job.local})
    data = load_dataset(job.input("dataset"))
    found = extract_reference(spec, Extractor(job, spec.extractor, data), data)
    save_references(folder / MOMENTS, list(found.moments.values()))
    save_file({"vectors": found.vectors}, folder / VECTORS)


def load_reference(folder: Path) -> Reference:
    """Return what `make` wrote."""
    return Reference(load_file(folder / VECTORS)["vectors"], load_references(folder / MOMENTS))


def extract_reference(
    spec: GenerationMetric | ReferenceSpec, extractor: Extractor, data: ImageSet
) -> Reference:
    """Return the reference of a dataset: published moments where they are named, else its own.

    Raises:
        MeasurementError: the published moments are of other images.
    """
    split = data.split(spec.reference)
    compared = _evenly(split, spec.compared or len(split))
    features = extractor.of_dataset(data, compared)
    if spec.reference_statistics is not None:
        found = [read_reference(spec, extractor.name + part) for part in features.parts()]
    elif len(compared) == len(split):
        found = [extractor.moments(values, part) for part, values in features.parts().items()]
    else:
        found = list(extractor.moments_of_parts(data, split).values())
    return Reference(features.vectors, {each.extractor: each for each in found})


def _evenly(chosen: Tensor, count: int) -> Tensor:
    """Return `count` of (n,) indices, or all; evenly, as they may be sorted by class."""
    if count >= len(chosen):
        return chosen
    return chosen[torch.arange(count) * len(chosen) // count]
