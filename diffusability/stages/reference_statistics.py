"""Published moments of reference images, read from the file that a study names."""

from pathlib import Path

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import (
    IMAGENET_TRAIN,
    FeatureMoments,
    read_adm_reference,
    reference_image_side,
)
from diffusability.study.metrics import GenerationMetric, PublishedReference


def read_reference(spec: GenerationMetric | PublishedReference, extractor: str) -> FeatureMoments:
    """Return the published moments; their images must have the size of the study's.

    Args:
        spec: names the file and says what it does not hold.
        extractor: whose features the moments are of.

    Raises:
        MeasurementError: nothing tells that size, or entry and file tell different ones.
    """
    assert spec.reference_statistics is not None
    path, stated = Path(spec.reference_statistics), spec.reference_resolution
    found = reference_image_side(path)
    side = stated if found is None else found
    if side is None:
        raise MeasurementError(
            f"reference statistics {path} hold no image to tell its size by; set "
            "metrics.generation.reference_resolution"
        )
    if stated not in (None, side):
        raise MeasurementError(
            f"reference statistics {path} hold images of {side} pixels a side, and "
            f"metrics.generation.reference_resolution says {stated}; correct it or leave it out"
        )
    return read_adm_reference(
        path,
        count=spec.reference_count or IMAGENET_TRAIN,
        resolution=side,
        extractor=extractor,
    )
