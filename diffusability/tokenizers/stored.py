"""Latents on disk in the place of a tokenizer: they are looked up, not encoded."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.array_files import read_array
from diffusability.data.images import ImageSet
from diffusability.data.load import job_dataset
from diffusability.errors import ArtifactError, DataError, StudyError
from diffusability.study.entries.tokenizer import LatentsTokenizer
from diffusability.study.sources.content import content_digest
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.load import WEIGHTS, TokenizerSource
from diffusability.tokenizers.posterior import LOGVAR_RANGE

NAMES = ("latents", "mean", "z", "arr_0")
BLOCK = 256  # images looked at together


class StoredLatents(TokenizerSource[LatentsTokenizer]):
    """Files of latents."""

    def make(self, job: Job, folder: Path) -> None:
        """Check the latents, and write their shape; they stay where they are."""
        latents = read_latents(self.spec)
        images = len(job_dataset(job).labels)
        if len(latents) != images:
            raise DataError(
                f"{self.spec.path}: {len(latents)} latents, but the dataset has {images} images; "
                "there must be one per image, in the same order"
            )
        check_latents(latents, self.spec.path)
        save_file({"shape": torch.tensor(latents.shape)}, folder / WEIGHTS)

    def load(self, folder: Path, data: ImageSet) -> Tokenizer:
        """Refuse: there is no network.

        Raises:
            StudyError: always.
        """
        raise StudyError(f"{folder}: latents on disk have no network to encode or decode with")

    def stored(self, folder: Path) -> "LatentRows":
        """Return the latents of every image.

        Raises:
            ArtifactError: the file is no longer what it was.
        """
        if content_digest(self.spec.path) != self.spec.content:
            raise ArtifactError(
                f"{self.spec.path}: the file of latents is missing or was changed after {folder} "
                "was made; put it back, or start the study again"
            )
        return LatentRows(read_latents(self.spec))


class LatentRows:
    """Posteriors of images, found by the images' numbers."""

    def __init__(self, latents: Tensor) -> None:
        """Keep the (N, C, h, w) latents, which may be mapped."""
        self._latents = latents
        self.numbers = torch.arange(len(latents))[:, None, None, None]  # (N, 1, 1, 1)

    def __call__(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance (B, C, h, w) of images, given by (B, 1, 1, 1) numbers.

        The mean is the latent; the variance is the smallest that a posterior may have.
        """
        mean = self._latents[numbers.flatten()].float()  # (B, C, h, w)
        return mean, torch.full_like(mean, LOGVAR_RANGE[0])


def read_latents(spec: LatentsTokenizer) -> Tensor:
    """Return the (N, C, h, w) latents of an entry; tokens (N, L, D) as (N, D, L, 1).

    Raises:
        DataError: they cannot be read, or have another shape than the entry says.
    """
    latents = read_array(spec.path, NAMES, spec.key)
    dims, words = (4, "(N, C, H, W)") if spec.layout == "grid" else (3, "(N, L, D)")
    if latents.ndim != dims:
        raise DataError(
            f"{spec.path}: latents of shape {tuple(latents.shape)}; the layout `{spec.layout}` is "
            f"{words}"
        )
    if dims == 4:
        check_layout(latents, spec.path)
    grid = latents if dims == 4 else latents.transpose(1, 2)[..., None]  # (N, C, h, w)
    if grid.shape[1] != spec.channels:
        raise DataError(
            f"{spec.path}: latents of {grid.shape[1]} channels (shape {tuple(latents.shape)}), the "
            f"entry says channels: {spec.channels}"
        )
    return grid


def check_layout(latents: Tensor, path: str) -> None:
    """Refuse (N, H, W, C), of which every metric would be a number of another space.

    Raises:
        DataError: with how to turn them.
    """
    shape = tuple(latents.shape)
    if shape[1] == shape[2] != shape[3]:
        raise DataError(
            f"{path}: latents of shape {shape} look like (N, H, W, C), and are (N, C, H, W): turn "
            "them with numpy.moveaxis(latents, -1, 1). If they are (N, C, H, W), swap H and W, "
            "which changes no metric"
        )


def check_latents(latents: Tensor, path: str) -> None:
    """Refuse latents with a value that is no number, or no real numbers.

    Raises:
        DataError: naming the first images.
    """
    if not latents.is_floating_point():
        raise DataError(f"{path}: latents are floating-point numbers, these are {latents.dtype}")
    wrong: list[int] = []
    for start in range(0, len(latents), BLOCK):
        finite = latents[start : start + BLOCK].isfinite().flatten(1).all(dim=1)  # (B,)
        wrong += (start + (~finite).nonzero().flatten()).tolist()
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} latents hold NaN or infinite values, the first are numbers "
            f"{wrong[:5]}; leave these images out"
        )
