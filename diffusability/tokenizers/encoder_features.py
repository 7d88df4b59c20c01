"""Features of a frozen encoder in the place of latents, as in representation autoencoders (RAE)."""

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.data.load import job_dataset
from diffusability.encoders.interface import Encoder
from diffusability.encoders.load import encoder_kind
from diffusability.encoders.python_object import first_images
from diffusability.errors import StudyError
from diffusability.study.core.merge import merge
from diffusability.study.entries.tokenizer import EncoderTokenizer
from diffusability.tokenizers.interface import Tokenizer, UntrainedTokenizer
from diffusability.tokenizers.load import WEIGHTS, TokenizerSource
from diffusability.tokenizers.posterior import LOGVAR_RANGE, Posterior

ENTRY = "encoder.json"


class EncoderFeatures(TokenizerSource[EncoderTokenizer]):
    """Tokenizers of source encoder."""

    def make(self, job: Job, folder: Path) -> None:
        """Copy the encoder, once the dataset's images give the feature map that the entry states.

        Raises:
            StudyError: the feature map has another shape.
        """
        data, source = job_dataset(job), job.input("encoder")
        card = read_card(source)
        (folder / ENTRY).write_text(json.dumps(merge(card["spec"], card["local"])) + "\n")
        shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
        with torch.no_grad():
            tokenizer = self.load(folder, data).to(job.device).eval()
            tokenizer.encode(first_images(data, job.device))

    def load(self, folder: Path, data: ImageSet) -> Tokenizer:
        """Return the encoder of an artifact's folder behind the interface of tokenizers."""
        entry = json.loads((folder / ENTRY).read_text())
        encoder = encoder_kind(entry).load(folder, data)
        return FeatureTokenizer(self.spec, encoder, data.images.shape[1])


class FeatureTokenizer(UntrainedTokenizer):
    """An encoder's feature map as the mean of a posterior of the smallest variance."""

    def __init__(self, spec: EncoderTokenizer, encoder: Encoder, image_channels: int) -> None:
        """Wrap a frozen encoder."""
        super().__init__()
        self.spec, self.encoder = spec, encoder
        self.image_channels, self.latent_channels = image_channels, spec.channels

    @property
    def factor(self) -> int:
        """Image pixels per cell of the feature map, along one side."""
        return self.spec.factor

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the features (B, D, h, w) as the mean; see `Tokenizer.encode`."""
        if mask is not None:
            raise StudyError("images of a tokenizer of source encoder cannot be masked")
        side = self.grid(images)
        mean = self.encoder.grid(images).float()  # (B, D, h, w)
        expected = (len(images), self.latent_channels, *side)
        if tuple(mean.shape) != expected:
            raise StudyError(
                f"encoder `{self.spec.encoder}`: its feature map of images of {images.shape[-1]} "
                f"pixels is {tuple(mean.shape)}, with factor {self.factor} and "
                f"{self.latent_channels} channels it would be {expected}; correct the entry's "
                "`factor` and `channels`"
            )
        return Posterior(mean, torch.full_like(mean, LOGVAR_RANGE[0]))

    def decode(self, latents: Tensor) -> Tensor:
        """Refuse: an encoder decodes nothing."""
        raise StudyError(f"encoder `{self.spec.encoder}`: its features have no decoder")
