"""What a trained tokenizer also offers: another level of its latents, or its posterior means."""

import shutil
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.study.entries.tokenizer import DerivedTokenizer, LevelTokenizer, MeansTokenizer
from diffusability.tokenizers.interface import Tokenizer, UntrainedTokenizer
from diffusability.tokenizers.load import WEIGHTS, TokenizerSource, load_network
from diffusability.tokenizers.posterior import LOGVAR_RANGE, Posterior

Entry = TypeVar("Entry", bound=DerivedTokenizer)


class Derived(TokenizerSource[Entry]):
    """Tokenizers with the weights of a trained one."""

    def make(self, job: Job, folder: Path) -> None:
        """Copy the weights of the tokenizer that this is derived from."""
        shutil.copyfile(job.input("trained") / WEIGHTS, folder / WEIGHTS)

    def load(self, folder: Path, data: ImageSet) -> Tokenizer:
        """Return the network of the entry with these weights."""
        return load_network(self.spec.network.canonical(), folder, data)


class Level(Derived[LevelTokenizer]):
    """Other levels of trained hierarchical tokenizers, which the options of the network name."""


class Means(Derived[MeansTokenizer]):
    """The posterior means of trained tokenizers."""

    def load(self, folder: Path, data: ImageSet) -> Tokenizer:
        """Return that tokenizer, without the noise of its posteriors."""
        return PosteriorMeans(super().load(folder, data))


class PosteriorMeans(UntrainedTokenizer):
    """A tokenizer whose latents are the posterior means of another.

    Args:
        trained: the tokenizer with posteriors.
    """

    def __init__(self, trained: Tokenizer) -> None:
        super().__init__()
        self.trained = trained
        self.image_channels = trained.image_channels
        self.latent_channels = trained.latent_channels

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return self.trained.factor

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the means of images (B, C, H, W), with the smallest variance, (B, d, h, w)."""
        mean = self.trained.encode(images, mask).mean  # (B, d, h, w)
        return Posterior(mean, torch.full_like(mean, LOGVAR_RANGE[0]))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images (B, C, H, W) that the tokenizer decodes from (B, d, h, w)."""
        return self.trained.decode(latents)
