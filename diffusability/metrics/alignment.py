"""Alignment cosine: how well a latent predicts vision-encoder features at the same position.

The projections of alignment losses differ between methods and are not saved. Here a linear map from
latents to features of unit length is fitted by least squares for every tokenizer, and the cosine
between its predictions and the features is measured on other images.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from diffusability.errors import MeasurementError
from diffusability.metrics.measurement import Measurement


@dataclass(frozen=True)
class AlignmentFit:
    """A linear map from latents to features.

    Attributes:
        weight: (d + 1, D) float64; the last row is the intercept.
        centre: (D,) float64, mean of the features of unit length: the best guess without a latent.
        images: number of images that the map was fitted on.
    """

    weight: Tensor
    centre: Tensor
    images: int


def fit_alignment(batches: Iterable[tuple[Tensor, Tensor]]) -> AlignmentFit:
    """Fit features of unit length by latents, over all positions of all images.

    Args:
        batches: pairs (latents (B, d, h, w), normalised per channel; features (B, D, h, w)).

    Returns:
        The least-squares map; the one of least norm if it is not unique (a constant channel).

    Raises:
        MeasurementError: if there is no image, or a pair does not fit together.
    """
    images, positions = 0, 0
    gram, cross = torch.zeros(()), torch.zeros(())
    for latents, features in batches:
        x, y = _rows(latents, features)  # (B, N, d + 1), (B, N, D)
        gram = gram + torch.einsum("bni,bnj->ij", x, x)
        cross = cross + torch.einsum("bni,bnj->ij", x, y)
        images, positions = images + len(x), positions + x.shape[0] * x.shape[1]
    if not images:
        raise MeasurementError("alignment: no image to fit the features on")
    # (d + 1, d + 1) @ (d + 1, D)
    weight = torch.linalg.pinv(gram, hermitian=True) @ cross
    return AlignmentFit(weight, cross[-1] / positions, images)


def measure_alignment(
    batches: Iterable[tuple[Tensor, Tensor]], fit: AlignmentFit, flags: tuple[str, ...] = ()
) -> Measurement:
    """Measure the cosine between features and their prediction from latents.

    Args:
        batches: pairs as for ``fit_alignment``, of images that the map was not fitted on.
        fit: the map.
        flags: flags of the measurement.

    Returns:
        ``reconstruction.alignment_cosine`` in [-1, 1], the mean over positions and images; HIGHER
        is better aligned. The option ``constant_cosine`` is the cosine of a constant prediction,
        the features' mean. The standard error is over images.

    Raises:
        MeasurementError: if there are fewer than two images, or a pair does not fit together.
    """
    found, constant = [], []
    for latents, features in batches:
        x, y = _rows(latents, features)
        found.append(functional.cosine_similarity(x @ fit.weight, y, dim=2).mean(1))  # (B,)
        constant.append(functional.cosine_similarity(fit.centre, y, dim=2).mean(1))  # (B,)
    cosines = torch.cat(found) if found else torch.zeros(0)
    if len(cosines) < 2:
        raise MeasurementError("alignment: a standard error needs at least two images")
    return Measurement(
        "reconstruction.alignment_cosine",
        float(cosines.mean()),
        float(cosines.std(correction=1)) / len(cosines) ** 0.5,
        len(cosines),
        higher_is_better=True,
        options={
            "constant_cosine": float(torch.cat(constant).mean()),
            "fitted_images": fit.images,
        },
        flags=flags,
    )


def _rows(latents: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return latents with a one (B, N, d + 1) and features of length one (B, N, D), float64."""
    if latents.ndim != 4 or features.ndim != 4 or latents[:, 0].shape != features[:, 0].shape:
        raise MeasurementError(
            f"alignment: latents {tuple(latents.shape)} and features {tuple(features.shape)} must "
            "be (B, d, h, w) and (B, D, h, w) of one grid"
        )
    x, y = (part.double().flatten(2).transpose(1, 2) for part in (latents, features))
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise MeasurementError("alignment: latents or features are not finite")
    return functional.pad(x, (0, 1), value=1.0), functional.normalize(y, dim=2)
