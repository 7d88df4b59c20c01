"""Make tokenizers that are not trained by gradient: linear maps, and levels of trained ones."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusability.artifacts.job import Job
from diffusability.data.images import in_batches, to_float
from diffusability.data.load import load_dataset
from diffusability.study.linear_tokenizer import LinearTokenizer as LinearSpec
from diffusability.tokenizers.linear import (
    PermutationTokenizer,
    ProjectionTokenizer,
    build_linear,
    image_moments,
    principal_directions,
    random_directions,
)

BATCH = 1024
WEIGHTS = "model.safetensors"


def make_linear(job: Job, folder: Path) -> None:
    """Write a linear map: its order, or its directions about the training images' mean."""
    spec = LinearSpec.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    tokenizer = build_linear(spec, data.images.shape[1], data.images.shape[-1])
    generator = torch.Generator().manual_seed(job.stream("weights"))
    if isinstance(tokenizer, PermutationTokenizer):
        tokenizer.draw(generator)
    if isinstance(tokenizer, ProjectionTokenizer):
        count = len(tokenizer.rows)
        mean, covariance = image_moments(
            map(to_float, in_batches(data.images, data.split("train"), BATCH))
        )
        if spec.source == "pca":
            rows = principal_directions(covariance, count)
        else:
            rows = random_directions(len(mean), count, generator)
        tokenizer.set_directions(mean, rows)
    save_file(tokenizer.state_dict(), folder / WEIGHTS)


def copy_level(job: Job, folder: Path) -> None:
    """Write the weights of the tokenizer that this is a level of."""
    shutil.copyfile(job.input("trained") / WEIGHTS, folder / WEIGHTS)
