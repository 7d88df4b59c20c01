"""Stage `latents`: encode every image once, and write statistics of the latents."""

from pathlib import Path
from typing import Any

from torch import Tensor

from diffusability.artifacts.atomic import write_json
from diffusability.latents.channel_statistics import channel_statistics, mean_variance
from diffusability.latents.mapped import MappedLatents
from diffusability.stages.inputs import Inputs
from diffusability.study.entries.tokenizer import EncodingSpec


def make(inputs: Inputs, spec: EncodingSpec, out: Path) -> None:
    """Write latents.json; the shards go to the cache beside the artifacts."""
    data, latents = inputs.data, inputs.ensure_latents(spec)
    write_json(
        out / "latents.json",
        {
            "images": len(latents),
            "shape": list(latents.mean.shape[1:]),
            "dtype": spec.dtype,
            "images_per_shard": spec.shard,
            "statistics_split": "train",
            **describe(latents, data.split("train")),
            "finite": True,  # others are refused when they are encoded
        },
    )


def describe(latents: MappedLatents, images: Tensor) -> dict[str, Any]:
    """Return channel statistics and posterior variance of (n,) images.

    Raises:
        MeasurementError: there is no image, or a mean is not finite.
    """
    statistics = channel_statistics(latents.mean, images)
    by_channel = mean_variance(latents.logvar, images)  # (C,)
    variance = by_channel.mean().item()
    return {
        "channel_statistics": statistics.to_json(),
        "posterior_variance": variance,
        "posterior_variance_by_channel": by_channel.tolist(),
        "posterior_variance_share": variance / (variance + statistics.std.square().mean().item()),
        "constant_channels": statistics.constant_channels,
    }
