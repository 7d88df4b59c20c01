"""Standard error of a statistic by leaving out one block of samples at a time."""

import torch
from torch import Tensor

from diffusability.errors import MeasurementError


def delete_block_stderr(full: float, left_out: Tensor, sizes: Tensor) -> float:
    """Return the delete-a-block jackknife standard error for blocks of any sizes.

    With h_j = n / m_j for block j of m_j among n samples, the pseudo-values are
    h_j full - (h_j - 1) left_out_j, the jackknife estimate is
    B full - sum_j (1 - 1/h_j) left_out_j, and the variance is the mean over blocks of
    (pseudo_j - estimate)^2 / (h_j - 1). For equal blocks this is the ordinary grouped jackknife.
    Source: Busing, Meijer, van der Leeden, "Delete-m jackknife for unequal m",
    Statistics and Computing 9 (1999).

    Args:
        full: the statistic of all samples.
        left_out: (B,) the statistic of all samples but those of block j.
        sizes: (B,) number of samples in each block.

    Returns:
        Standard error, in the statistic's unit, >= 0.

    Raises:
        MeasurementError: if there are fewer than two blocks.
    """
    blocks = len(left_out)
    if blocks < 2:
        raise MeasurementError(
            f"a jackknife error needs at least two blocks of samples, there is {blocks}; "
            "give the samples as several shards"
        )
    left_out, sizes = left_out.to(torch.float64), sizes.to(torch.float64)
    ratio = sizes.sum() / sizes  # (B,)
    pseudo = ratio * full - (ratio - 1) * left_out
    # With unequal blocks the estimate is not the plain mean of the pseudo-values.
    estimate = blocks * full - ((1 - 1 / ratio) * left_out).sum()
    return float(((pseudo - estimate).square() / (ratio - 1)).mean().sqrt())
