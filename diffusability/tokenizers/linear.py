"""Linear isometries of images as tokenizers: exact controls of the trained ones.

Each maps distances between images (those in its subspace, for projections) to equal distances
between latents, and has no posterior variance.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import assert_never

import numpy as np
import scipy.linalg
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, in_batches, to_float
from diffusability.data.load import job_dataset
from diffusability.errors import StudyError
from diffusability.study.entries.tokenizer import LinearTokenizer
from diffusability.tokenizers.interface import Tokenizer, UntrainedTokenizer
from diffusability.tokenizers.load import WEIGHTS, TokenizerSource
from diffusability.tokenizers.posterior import LOGVAR_RANGE, Posterior
from diffusability.tokenizers.serpentine import to_grid, to_vector

BATCH = 1024  # images of a fit in memory at a time


class Isometry(UntrainedTokenizer, ABC):
    """A deterministic map of images without a layer that could be trained."""

    def __init__(self, spec: LinearTokenizer, image_channels: int) -> None:
        """Set the sizes that every tokenizer states."""
        super().__init__()
        self.image_channels, self.latent_channels = image_channels, spec.channels
        self._factor = spec.factor

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return self._factor

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return latents as means of the smallest variance; see `Tokenizer.encode`."""
        if mask is not None:
            raise StudyError(f"{type(self).__name__}: images cannot be masked, it has no tokens")
        self.grid(images)
        mean = self.map(images)  # (B, d, h, w)
        return Posterior(mean, torch.full_like(mean, LOGVAR_RANGE[0]))

    @abstractmethod
    def map(self, images: Tensor) -> Tensor:
        """Return the (B, d, h, w) latents of (B, C, H, W) images."""


class PixelTokenizer(Isometry):
    """The image itself, of any size."""

    def map(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images, which the latents are."""
        return latents


class PermutationTokenizer(Isometry):
    """The image's entries, or its pixels with all their channels, in a fixed random order."""

    order: Tensor  # (D,) int64 over entries or (H·W,) over positions

    def __init__(self, spec: LinearTokenizer, image_channels: int, size: int) -> None:
        """Leave the order as it is; `draw` or loaded weights set it.

        Args:
            spec: source permuted-positions moves pixels with all their channels, source
                permuted-pixels every entry separately.
            image_channels: channels of an image.
            size: its height and width in pixels.
        """
        super().__init__(spec, image_channels)
        self._size = size
        positions = spec.source == "permuted-positions"
        self._dims = 2 if positions else 1  # from where the image is flattened
        entries = size**2 * (1 if positions else image_channels)
        self.register_buffer("order", torch.arange(entries))

    def draw(self, generator: torch.Generator) -> None:
        """Draw another order."""
        self.order = torch.randperm(len(self.order), generator=generator)

    def map(self, images: Tensor) -> Tensor:
        """Return the images with their entries moved."""
        _of_size(images, self._size, self)
        return images.flatten(self._dims)[..., self.order].view_as(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images with their entries where they were."""
        return latents.flatten(self._dims)[..., self.order.argsort()].view_as(latents)


class ProjectionTokenizer(Isometry):
    """Coordinates on orthonormal directions, in serpentine order; decoded by least squares."""

    mean: Tensor  # (D,)
    rows: Tensor  # (d, D), orthonormal

    def __init__(self, spec: LinearTokenizer, image_channels: int, size: int) -> None:
        """Leave mean and directions at zero; `set_directions` or loaded weights set them.

        Raises:
            StudyError: there are more directions than the image has dimensions.
        """
        super().__init__(spec, image_channels)
        self._size = size
        side = size // spec.factor
        self._shape = (spec.channels, side, side)
        entries, pixels = spec.channels * side**2, image_channels * size**2
        if entries > pixels:
            raise StudyError(
                f"{entries} orthonormal directions do not exist among images of {pixels} entries; "
                "give the latent fewer channels or a larger factor"
            )
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("rows", torch.zeros(entries, pixels))

    def set_directions(self, mean: Tensor, rows: Tensor) -> None:
        """Take a (D,) centre and (d, D) orthonormal directions, kept in float32."""
        self.mean.copy_(mean)
        self.rows.copy_(rows)

    def map(self, images: Tensor) -> Tensor:
        """Return rows · (x - mean) as a grid."""
        _of_size(images, self._size, self)
        return to_grid((images.flatten(1) - self.mean) @ self.rows.T, self._shape)

    def decode(self, latents: Tensor) -> Tensor:
        """Return mean + rowsᵀ z, the nearest of all images with the latent z to the mean."""
        images = self.mean + to_vector(latents) @ self.rows  # (B, D)
        return images.view(-1, self.image_channels, self._size, self._size)


class HaarTokenizer(Isometry):
    """The low-pass band of an orthonormal Haar pyramid: factor times the mean of a cell."""

    def map(self, images: Tensor) -> Tensor:
        """Return the band; its squared norm is at most the image's."""
        return self.factor * functional.avg_pool2d(images, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the image whose other bands are zero."""
        return functional.interpolate(latents / self.factor, scale_factor=float(self.factor))


def _of_size(images: Tensor, size: int, tokenizer: Tokenizer) -> None:
    height, width = images.shape[-2:]
    if (height, width) != (size, size):
        raise StudyError(
            f"{type(tokenizer).__name__}: images of {height}x{width} pixels, it was made for "
            f"{size}x{size} only"
        )


class Linear(TokenizerSource[LinearTokenizer]):
    """Linear maps of the image."""

    def make(self, job: Job, folder: Path) -> None:
        """Write a map: its order, or its directions about the training images' mean."""
        data = job_dataset(job)
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

    def load(self, folder: Path, data: ImageSet) -> Isometry:
        """Return the map of an artifact's folder."""
        tokenizer = build_linear(self.spec, data.images.shape[1], data.images.shape[-1])
        tokenizer.load_state_dict(load_file(folder / WEIGHTS), assign=True)
        return tokenizer


def build_linear(spec: LinearTokenizer, image_channels: int, size: int) -> Isometry:
    """Return the linear map of an entry; permutations and projections are not yet drawn."""
    match spec.source:
        case "pixels":
            return PixelTokenizer(spec, image_channels)
        case "haar":
            return HaarTokenizer(spec, image_channels)
        case "permuted-pixels" | "permuted-positions":
            return PermutationTokenizer(spec, image_channels, size)
        case "pca" | "projection":
            return ProjectionTokenizer(spec, image_channels, size)
        case _:
            assert_never(spec.source)


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
