"""Ratio of two means over the same images, with its standard error."""

from torch import Tensor

from diffusability.errors import MeasurementError


def ratio_influences(numerators: Tensor, denominators: Tensor, what: str) -> tuple[float, Tensor]:
    """Return sum(a) / sum(b) over images and the influence of each image on it.

    Args:
        numerators: (N,) float64 a_i, one an image.
        denominators: (N,) float64 b_i of the same images; their sum must be positive.
        what: name of the quantity, for the message.

    Returns:
        The ratio R and the (N,) influences (a_i - R b_i) / mean(b), which average to 0.

    Raises:
        MeasurementError: if there are fewer than two images, or the denominators vanish.
    """
    if len(numerators) < 2:
        raise MeasurementError(f"{what}: {len(numerators)} image(s) carry no standard error")
    scale = float(denominators.mean())
    if not scale > 0:
        raise MeasurementError(f"{what}: the latents do not vary, a relative value is undefined")
    ratio = float(numerators.mean()) / scale
    return ratio, (numerators - ratio * denominators) / scale


def influence_stderr(influences: Tensor) -> float:
    """Return the standard error of an estimate from its (N,) influences (the delta method)."""
    return float(influences.square().sum() / (len(influences) - 1)) ** 0.5 / len(influences) ** 0.5


def mean_influences(values: Tensor) -> tuple[float, Tensor]:
    """Return the mean of (N,) values and the influence of each, as ``ratio_influences`` does."""
    return float(values.mean()), values - values.mean()
