"""Linear tokenizers: drawn, or fitted to the principal directions of the training images."""

from collections.abc import Iterable
from pathlib import Path
from typing import assert_never

import numpy as np
import scipy.linalg
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, in_batches, to_float
from diffusability.data.load import load_dataset
from diffusability.errors import StudyError
from diffusability.study.tokenizer import LinearTokenizer as LinearSpec
from diffusability.tokenizers.linear import (
    HaarTokenizer,
    LinearTokenizer,
    PermutationTokenizer,
    PixelTokenizer,
    ProjectionTokenizer,
)
from diffusability.tokenizers.load import WEIGHTS, TokenizerSource

BATCH = 1024


class Linear(TokenizerSource[LinearSpec]):
    """Linear maps of the image."""

    def make(self, job: Job, folder: Path) -> None:
        """Write a map: its order, or its directions about the training images' mean."""
        data = load_dataset(job.input("dataset"))
        tokenizer = build_linear(self.spec, data.images.shape[1], data.images.shape[-1])
        generator = torch.Generator().manual_seed(job.stream("weights"))
        if isinstance(tokenizer, PermutationTokenizer):
            tokenizer.draw(generator)
        if isinstance(tokenizer, ProjectionTokenizer):
            count = len(tokenizer.rows)
            mean, covariance = image_moments(
                map(to_float, in_batches(data.images, data.split("train"), BATCH))
            )
            if self.spec.source == "pca":
                rows = principal_directions(covariance, count)
            else:
                rows = random_directions(len(mean), count, generator)
            tokenizer.set_directions(mean, rows)
        save_file(tokenizer.state_dict(), folder / WEIGHTS)

    def load(self, folder: Path, data: ImageSet) -> LinearTokenizer:
        """Return the map of an artifact's folder."""
        tokenizer = build_linear(self.spec, data.images.shape[1], data.images.shape[-1])
        tokenizer.load_state_dict(load_file(folder / WEIGHTS), assign=True)
        return tokenizer


def build_linear(spec: LinearSpec, image_channels: int, size: int) -> LinearTokenizer:
    """Return the linear map of an entry; permutations and projections are not yet drawn."""
    match spec.source:
        case "pixels":
            return PixelTokenizer(image_channels)
        case "haar":
            return HaarTokenizer(image_channels, spec.factor)
        case "permuted-pixels" | "permuted-positions":
            positions = spec.source == "permuted-positions"
            return PermutationTokenizer(image_channels, size, positions)
        case "pca" | "projection":
            return ProjectionTokenizer(image_channels, size, spec.channels, spec.factor)
        case unknown:
            assert_never(unknown)


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
