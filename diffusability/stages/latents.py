"""Stage `latents`: encode every image once, and state what the latents look like."""

from pathlib import Path

import torch

from diffusability.artifacts.atomic import write_json
from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.latents.channel_statistics import channel_statistics
from diffusability.stages.open import ensure_latents
from diffusability.study.tokenizer import EncodingSpec


def make(job: Job, folder: Path) -> None:
    """Write latents.json; the shards go to the cache beside the artifacts."""
    spec = EncodingSpec.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    latents = ensure_latents(job, spec, job.fingerprint, data)
    train = latents[data.split("train")]
    statistics = channel_statistics(train.mean)
    posterior_variance = train.logvar.double().exp().mean().item()
    write_json(
        folder / "latents.json",
        {
            "images": len(latents.mean),
            "shape": list(latents.mean.shape[1:]),
            "dtype": spec.dtype,
            "images_per_shard": spec.shard,
            "channel_statistics": statistics.to_json(),
            "statistics_split": "train",
            "posterior_variance": posterior_variance,
            "posterior_variance_share": posterior_variance
            / (posterior_variance + statistics.std.square().mean().item()),
            "constant_channels": statistics.constant_channels,
            "finite": bool(torch.isfinite(latents.mean).all()),
        },
    )
