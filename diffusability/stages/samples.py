"""Stage `samples`: generate images at one guidance scale and follow their trajectories."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusability.artifacts.atomic import write_json
from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, to_uint8
from diffusability.data.load import load_dataset
from diffusability.diffusion.guidance import guided_velocity
from diffusability.diffusion.latent_diffusion import LatentDiffusion
from diffusability.diffusion.load import load_diffusion
from diffusability.diffusion.sampler import balanced_labels, draw_noise, integrate, steps_for
from diffusability.figures.image_grid import write_image_grid
from diffusability.metrics.trajectory import TrajectoryRecorder
from diffusability.stages.open import open_tokenizer
from diffusability.study.fingerprint import derive_seed
from diffusability.tokenizers.interface import Tokenizer
from diffusability.training.progress import Progress

BATCH = 256
SHARD = 10_000
PICTURED_ROWS = 8


def make(job: Job, folder: Path) -> None:
    """Write uint8 image shards, samples.json (labels, trajectory) and samples.png."""
    spec = job.spec
    data = load_dataset(job.input("dataset"))
    tokenizer = open_tokenizer(job, data)
    model = _model(job, data, tokenizer)
    recorder = TrajectoryRecorder(steps_for(spec["solver"], spec["evaluations"]))
    count = spec["count"]
    progress = Progress(job.name, -(-count // BATCH))
    shards: list[str] = []
    for start in range(0, count, SHARD):
        stop = min(start + SHARD, count)
        images = []
        for first in range(start, stop, BATCH):
            indices = range(first, min(first + BATCH, stop))
            images.append(_generate(job, model, tokenizer, recorder, indices))
            progress.advance({})
        name = f"shard-{len(shards):05d}.safetensors"
        labels = balanced_labels(range(start, stop), data.num_classes)
        # a decoder may leave channels innermost in memory, which a file cannot hold
        pictures = torch.cat(images).contiguous()  # (N, C, H, W)
        save_file({"images": pictures, "labels": labels}, folder / name)
        shards.append(name)
    progress.close()
    ratios, errors = recorder.moments.length_ratio()
    options = {key: spec[key] for key in ("solver", "evaluations", "guidance")}
    write_json(
        folder / "samples.json",
        {
            "images": count,
            "labels": "balanced: index modulo classes",
            "classes": data.num_classes,
            "shards": shards,
            "trajectory": [m.to_json() for m in recorder.moments.measurements(options)],
            "length_ratio": ratios.tolist(),
            "length_ratio_stderr": errors.tolist() if errors is not None else None,
        },
    )
    pictured = load_file(folder / shards[0])["images"][: PICTURED_ROWS * data.num_classes]
    write_image_grid(folder / "samples.png", pictured, columns=data.num_classes)


def _model(job: Job, data: ImageSet, tokenizer: Tokenizer) -> LatentDiffusion:
    height, width = (side // tokenizer.factor for side in data.images.shape[-2:])
    shape = (tokenizer.latent_channels, height, width)
    return load_diffusion(job.input("diffusion"), shape, data.num_classes, job.device)


@torch.no_grad()
def _generate(
    job: Job,
    model: LatentDiffusion,
    tokenizer: Tokenizer,
    recorder: TrajectoryRecorder,
    indices: range,
) -> Tensor:
    """Return the (B, C, H, W) uint8 images of the given sample indices.

    The noise depends on sampling seed and index alone: every cell of a study starts from the same.
    """
    network = model.network
    shape = (network.latent_channels, *network.grid)
    seed = derive_seed("sampling noise", job.seed)
    noise = draw_noise(seed, indices, shape).to(job.device)  # (B, d, h, w)
    labels = balanced_labels(indices, network.num_classes).to(job.device)
    velocity = guided_velocity(model, labels, network.num_classes, job.spec["guidance"])
    latents = integrate(
        velocity, noise, recorder.steps, solver=job.spec["solver"], on_step=recorder
    )
    return to_uint8(tokenizer.decode(model.denormalise(latents))).cpu()
