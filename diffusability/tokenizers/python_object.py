"""Tokenizers and regularizers of the user's own package.

A tokenizer (`source: python`) is a `torch.nn.Module`, given by its class or by a function that
returns one. Images are (B, C, H, W) float32 in [-1, 1] of the study's dataset, latents (B, d, h, w)
with d = `channels`, h = H / `factor` and w = W / `factor`:

    class MyVAE(torch.nn.Module):
        def __init__(self, **options): ...
        def encode(self, images):   # one of:
            return mean                     # deterministic: no log-variance
            return mean, logvar             # each (B, d, h, w)
            return distribution             # with `mean` and `logvar` or `variance`, or
                                            # diffusers' output with `latent_dist` or `latent`
        def decode(self, latents):          # (B, d, h, w) -> (B, C, H, W), nominally in [-1, 1]
            return images                   # or diffusers' output with `sample`

A regularizer (`method: python`) is a subclass of `diffusability.tokenizers.regularizers.interface.
Regularizer`. It is called with the entry's `options` as keyword arguments. Where its signature has
them, it is also given what the base class takes: `options` (the entry itself), `latent_channels`
(d) and `feature_channels` (D of its encoder, 0 without one).
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusability.artifacts.job import Job
from diffusability.artifacts.tensors import require_finite
from diffusability.data.images import ImageSet
from diffusability.data.load import job_dataset
from diffusability.encoders.python_object import (
    build_from_artifact,
    build_object,
    build_with_weights,
    called,
    check_tensor,
    first_images,
    import_object,
    require_repeatable,
    require_trained,
    save_state,
)
from diffusability.errors import StudyError
from diffusability.study.entries.regularizer import PythonRegularizer
from diffusability.study.entries.tokenizer import PythonTokenizer
from diffusability.tokenizers.interface import Tokenizer, UntrainedTokenizer
from diffusability.tokenizers.load import WEIGHTS, TokenizerSource
from diffusability.tokenizers.posterior import LOGVAR_RANGE, Posterior, moments_of
from diffusability.tokenizers.regularizers.interface import Regularizer


class PythonSource(TokenizerSource[PythonTokenizer]):
    """Tokenizers of source python."""

    def make(self, job: Job, folder: Path) -> None:
        """Write the weights, once images of the dataset pass through as the entry says.

        Raises:
            StudyError: the code is missing, or what it returns is not what is asked for.
            ArtifactError: code or weights have changed since the study was planned, or weights are
                not finite.
        """
        data = job_dataset(job)
        network = build_with_weights(self.spec, job.spec.get("weights_content"))
        require_finite(dict(network.named_parameters()), f"weights of `{self.spec.object}`")
        tokenizer = ModuleTokenizer(self.spec, network, data.images.shape[1])
        tokenizer.to(job.device).eval()
        images = first_images(data, job.device)
        with torch.no_grad():
            mean, again = tokenizer.encode(images).mean, tokenizer.encode(images).mean
            tokenizer.decode(mean)
        require_repeatable(self.spec.object, "encode", mean, again)
        save_state(network, folder / WEIGHTS)

    def load(self, folder: Path, data: ImageSet) -> Tokenizer:
        """Return the tokenizer with the weights of its artifact."""
        network = build_from_artifact(self.spec, folder / WEIGHTS)
        return ModuleTokenizer(self.spec, network, data.images.shape[1])


class ModuleTokenizer(UntrainedTokenizer):
    """A module of the user's own behind the interface of the study's tokenizers.

    Where `encode` returns no log-variance, it is the smallest that a posterior may have (-30).
    """

    network: Any

    def __init__(self, spec: PythonTokenizer, network: nn.Module, image_channels: int) -> None:
        """Wrap a module.

        Raises:
            StudyError: it has no `encode` or no `decode`.
        """
        super().__init__()
        for method in ("encode", "decode"):
            if not callable(getattr(network, method, None)):
                raise StudyError(f"`{spec.object}`: it has no method `{method}`")
        self.spec, self.network = spec, network
        self.image_channels, self.latent_channels = image_channels, spec.channels

    @property
    def factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return self.spec.factor

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the posterior of the latents; see `Tokenizer.encode`."""
        name = self.spec.object
        if mask is not None:
            raise StudyError(f"`{name}`: images cannot be masked, it has no image tokens")
        shape = (len(images), self.latent_channels, *self.grid(images))
        mean, logvar = moments_of(called(name, "encode", self.network.encode, images))
        check_tensor(name, "encode", "the mean", mean, images, shape)
        if logvar is None:
            return Posterior(mean, torch.full_like(mean, LOGVAR_RANGE[0]))
        check_tensor(name, "encode", "the log-variance", logvar, images, shape)
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images that latents stand for; see `Tokenizer.decode`."""
        name = self.spec.object
        found = called(name, "decode", self.network.decode, latents)
        images = found if isinstance(found, Tensor) else getattr(found, "sample", found)
        sides = (side * self.factor for side in latents.shape[2:])
        shape = (len(latents), self.image_channels, *sides)
        check_tensor(name, "decode", "the images", images, latents, shape)
        return images


def probe_shape(entry: Mapping[str, Any], image_channels: int, size: int) -> tuple[int, int]:
    """Return factor and channels of the latents of a black image, once it is decoded again.

    Args:
        entry: of a tokenizer, as plain values, without `factor` and `channels`.
        image_channels: of the images. size: their side in pixels.

    Raises:
        StudyError: the code is missing, `encode` gives no latents (1, d, h, w), `decode` gives no
            such image, or the weights are not trained ones.
    """
    spec = PythonTokenizer.model_validate({**entry, "factor": 1, "channels": 1})
    network = build_with_weights(spec, spec.weights_content).eval()
    tokenizer = ModuleTokenizer(spec, network, image_channels)
    with torch.no_grad():
        image = torch.full((1, image_channels, size, size), -1.0)
        mean, _ = moments_of(called(spec.object, "encode", network.encode, image))
        if not isinstance(mean, Tensor) or mean.ndim != 4 or size % mean.shape[-1]:
            raise StudyError(
                f"`{spec.object}`: encode gives no latents (B, d, h, w) of a whole grid"
            )
        shape = {"factor": size // mean.shape[-1], "channels": mean.shape[1]}
        tokenizer.spec = spec.model_copy(update=shape)
        tokenizer.decode(mean)
    require_trained(spec, network)
    return shape["factor"], shape["channels"]


def build_python_regularizer(
    spec: PythonRegularizer, latent_channels: int, feature_channels: int
) -> Regularizer:
    """Return the regularizer of an entry.

    Raises:
        StudyError: the object is missing, or gives no Regularizer.
    """
    takes = inspect.signature(import_object(spec)).parameters
    offered = {
        "options": spec,
        "latent_channels": latent_channels,
        "feature_channels": feature_channels,
    }
    found = build_object(spec, {key: value for key, value in offered.items() if key in takes})
    if not isinstance(found, Regularizer):
        raise StudyError(
            f"`{spec.object}`: it gives a {type(found).__name__}; a regularizer is a subclass of "
            "diffusability.tokenizers.regularizers.interface.Regularizer"
        )
    return found
