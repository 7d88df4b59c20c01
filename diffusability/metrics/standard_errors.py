"""Standard errors that need no recomputation of the statistic: means and jackknife replicates."""

import torch
from torch import Tensor

from diffusability.errors import MeasurementError


def mean_and_stderr(values: Tensor, what: str) -> tuple[float, float]:
    """Return the mean over independent units and its standard error.

    The standard error, std / sqrt(n) with ddof = 1, is the limit of the bootstrap over units
    when the number of resamples grows, so none is drawn.

    Args:
        values: (n,) float64, one value an independent unit.
        what: name of the quantity, for the message.

    Returns:
        Mean and standard error, both in the unit of ``values``.

    Raises:
        MeasurementError: fewer than two units.
    """
    if values.numel() < 2:
        raise MeasurementError(
            f"{what}: {values.numel()} usable images carry no standard error; give at least two"
        )
    return float(values.mean()), float(values.std(correction=1)) / values.numel() ** 0.5


def jackknife_stderr(replicates: Tensor) -> float:
    """Return the delete-one jackknife standard error (Efron and Stein 1981).

    Args:
        replicates: (n,) float64, the statistic with each unit left out in turn.

    Returns:
        Standard error in the unit of the statistic.
    """
    count = replicates.numel()
    spread = (replicates - replicates.mean()).square().sum()
    return float(torch.sqrt(spread * (count - 1) / count))
