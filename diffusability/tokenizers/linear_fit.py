"""Directions of projections: principal ones of the training images, or random ones."""

from collections.abc import Iterable

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from diffusability.errors import StudyError


def image_moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of images in one pass, each batch centred on the last mean.

    Args:
        batches: (B, C, H, W) images; D = C·H·W entries cost 8 D^2 bytes.

    Returns:
        Mean (D,) and covariance (D, D) with the divisor N, float64.

    Raises:
        StudyError: there is no image.
    """
    count, mean, scatter = 0, torch.zeros(0), torch.zeros(0)
    for images in batches:
        x = images.to(torch.float64).flatten(1)  # (B, D)
        if not count:
            mean, scatter = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])
        before, count = count, count + len(x)
        centred = x - x.mean(0)
        shift = x.mean(0) - mean
        # Chan, Golub & LeVeque (1983): the scatters of two parts, and that between their means
        scatter += centred.T @ centred + torch.outer(shift, shift) * (before * len(x) / count)
        mean = mean + shift * (len(x) / count)
    if not count:
        raise StudyError("the training split is empty: there is nothing to fit directions to")
    return mean, scatter / count


def principal_directions(covariance: Tensor, count: int) -> Tensor:
    """Return the directions of largest variance, in decreasing order.

    Args:
        covariance: (D, D), float64, symmetric.
        count: how many.

    Returns:
        (count, D) orthonormal rows, float64; the largest entry of each is positive.
    """
    size = len(covariance)
    _, columns = scipy.linalg.eigh(covariance.numpy(), subset_by_index=[size - count, size - 1])
    rows = torch.from_numpy(np.ascontiguousarray(columns.T[::-1]))  # largest first
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))  # (count, 1)
    return rows * largest.sign()


def random_directions(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Return an orthonormal basis of a uniformly random subspace.

    Args:
        size: D, dimensions of the space.
        count: dimensions of the subspace.
        generator: source of the draw.

    Returns:
        (count, D) orthonormal rows, float64.
    """
    normal = torch.randn(size, count, generator=generator, dtype=torch.float64)
    orthonormal, upper = torch.linalg.qr(normal)
    return (orthonormal * upper.diagonal().sign()).T.contiguous()
