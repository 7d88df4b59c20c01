"""Stage `fdr6_reference`: what FDr6 holds every set of generated images against."""

import logging
from pathlib import Path

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.data.load import load_dataset
from diffusability.metrics.fdr6 import (
    FrechetNormaliser,
    compute_normaliser,
    save_normalisers,
    save_references,
)
from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.stages.features import Extractor
from diffusability.stages.reference_statistics import read_reference
from diffusability.study.metrics import Fdr6Reference
from diffusability.study.names import INCEPTION, fdr6_role

logger = logging.getLogger(__name__)


def make(job: Job, folder: Path) -> None:
    """Write references.safetensors (moments of the train split) and normalisers.json."""
    spec = Fdr6Reference.model_validate({**job.spec, **job.local})
    data = load_dataset(job.input("dataset"))
    references: list[FeatureMoments] = []
    normalisers: list[FrechetNormaliser] = []
    for place, name in enumerate(spec.fdr6):
        extractor = Extractor(job, name, data, fdr6_role(place))
        reference = _reference(spec, extractor, data)
        validation = extractor.moments_of_dataset(data, data.split("val"))
        normalisers.append(compute_normaliser(reference=reference, validation=validation))
        references.append(reference)
        logger.info("%s: normaliser of %s is %.6g", job.name, name, normalisers[-1].value)
    save_references(folder / "references.safetensors", references)
    save_normalisers(folder / "normalisers.json", normalisers)


def _reference(spec: Fdr6Reference, extractor: Extractor, data: ImageSet) -> FeatureMoments:
    """Return the moments of the train split, of Inception the published ones where named."""
    if extractor.name == INCEPTION and spec.reference_statistics is not None:
        return read_reference(spec, extractor.name)
    return extractor.moments_of_dataset(data, data.split("train"))
