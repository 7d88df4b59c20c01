"""Stage `samples`: generate images at one guidance scale and follow their trajectories."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusability.artifacts.atomic import write_json
from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, to_uint8
from diffusability.data.load import load_dataset
from diffusability.diffusion.edm_sampler import Churn, integrate_denoiser, sigma_grid
from diffusability.diffusion.guidance import guided_denoiser, guided_velocity
from diffusability.diffusion.latent_diffusion import LatentDenoiser, LatentDiffusion
from diffusability.diffusion.load import backbone_spec, load_diffusion
from diffusability.diffusion.sampler import balanced_labels, draw_noise, integrate
from diffusability.figures.image_grid import write_image_grid
from diffusability.metrics.trajectory import TrajectoryRecorder
from diffusability.stages.open import open_tokenizer
from diffusability.study.backbone import SamplingSpec
from diffusability.study.fingerprint import derive_seed
from diffusability.tokenizers.interface import Tokenizer
from diffusability.training.progress import Progress

BATCH = 256
SHARD = 10_000
PICTURED_ROWS, PICTURED_CLASSES = 8, 16
PICTURED_OF_MANY = (4, 8)  # rows and columns where there are more classes: images are large then
NO_TRAJECTORY = (
    "the statistics are of even steps in the time of the linear path; EDM's steps are even in "
    "sigma^(1/rho)"
)
SHIFTED = "the statistics are of even steps in time; sampling.shift makes them uneven"


def make(job: Job, folder: Path) -> None:
    """Write uint8 image shards, samples.json (labels, trajectory) and samples.png."""
    spec = job.spec
    data = load_dataset(job.input("dataset"))
    tokenizer = open_tokenizer(job, data)
    model = _model(job, data, tokenizer)
    recorder = None
    sampling = _options(job)
    if isinstance(model, LatentDiffusion) and sampling.shift == 1:
        recorder = TrajectoryRecorder(sampling.steps)
    conditional = backbone_spec(read_card(job.input("diffusion"))["spec"]).conditional
    count = spec["count"]
    progress = Progress(job.name, -(-count // BATCH))
    shards: list[str] = []
    for start in range(0, count, SHARD):
        stop = min(start + SHARD, count)
        images = []
        for first in range(start, stop, BATCH):
            indices = range(first, min(first + BATCH, stop))
            latents = _latents(job, model, _labels(indices, model, conditional), recorder, indices)
            images.append(to_uint8(tokenizer.decode(latents)).cpu())
            progress.advance({})
        name = f"shard-{len(shards):05d}.safetensors"
        labels = _labels(range(start, stop), model, conditional)
        # a decoder may leave channels innermost in memory, which a file cannot hold
        pictures = torch.cat(images).contiguous()  # (N, C, H, W)
        save_file({"images": pictures, "labels": labels}, folder / name)
        shards.append(name)
    progress.close()
    notes = {
        "images": count,
        "labels": "balanced: index modulo classes" if conditional else None,
        "classes": data.num_classes,
        "shards": shards,
    }
    write_json(folder / "samples.json", notes | _trajectory(job, recorder))
    pictured, columns = pictured_indices(min(count, SHARD), data.num_classes)
    first_images = load_file(folder / shards[0])["images"]
    write_image_grid(folder / "samples.png", first_images[pictured], columns)


def pictured_indices(count: int, classes: int) -> tuple[list[int], int]:
    """Return which of `count` samples a grid shows, row by row, and its columns.

    A column is a class: of many classes a few, evenly chosen. Where there are fewer classes than
    rows they take turns along the rows.
    """
    if classes < PICTURED_ROWS:
        return list(range(min(count, PICTURED_ROWS**2))), PICTURED_ROWS
    few = classes <= PICTURED_CLASSES
    rows, columns = (PICTURED_ROWS, classes) if few else PICTURED_OF_MANY
    chosen = [k * classes // columns for k in range(columns)]
    indices = [row * classes + label for row in range(rows) for label in chosen]
    return [index for index in indices if index < count], columns


def _model(job: Job, data: ImageSet, tokenizer: Tokenizer) -> LatentDiffusion | LatentDenoiser:
    height, width = (side // tokenizer.factor for side in data.images.shape[-2:])
    shape = (tokenizer.latent_channels, height, width)
    return load_diffusion(job.input("diffusion"), shape, data.num_classes, job.device)


def _options(job: Job) -> SamplingSpec:
    """Return the typed options of a job, which has one guidance scale."""
    return SamplingSpec.model_validate({**job.spec, "guidance": [job.spec["guidance"]]})


def _labels(indices: range, model: LatentDiffusion | LatentDenoiser, conditional: bool) -> Tensor:
    """Return (B,) labels on the CPU: balanced, or the null class of an unconditional model."""
    if conditional:
        return balanced_labels(indices, model.network.num_classes)
    return model.null_labels(len(indices)).cpu()


@torch.no_grad()
def _latents(
    job: Job,
    model: LatentDiffusion | LatentDenoiser,
    labels: Tensor,
    recorder: TrajectoryRecorder | None,
    indices: range,
) -> Tensor:
    """Return the (B, C, H, W) latents of the given sample indices.

    The noise depends on sampling seed and index alone: every cell of a study starts from the same.
    """
    options, network = _options(job), model.network
    solver, steps, (guidance,) = options.solver, options.steps, options.guidance
    shape, null = (network.latent_channels, *network.grid), network.num_classes

    def draw(*use: str | int) -> Tensor:
        return draw_noise(derive_seed(*use, job.seed), indices, shape).to(job.device)

    noise, labels = draw("sampling noise"), labels.to(job.device)  # (B, C, H, W), (B,)
    if isinstance(model, LatentDiffusion):
        interval = options.guidance_interval
        velocity = guided_velocity(model, labels, null, guidance, interval)
        found = integrate(velocity, noise, steps, solver, options.shift, on_step=recorder)
        return model.denormalise(found)
    edm = options.edm
    churn = Churn(partial(draw, "churn"), edm) if edm.churn else None
    denoise = guided_denoiser(model, labels, null, guidance)
    sigmas = sigma_grid(steps, edm)
    return model.denormalise(integrate_denoiser(denoise, noise, sigmas, solver, churn))


def _trajectory(job: Job, recorder: TrajectoryRecorder | None) -> dict[str, Any]:
    """Return the notes on the trajectories, or why there are none."""
    if recorder is None:
        reason = SHIFTED if "shift" in job.spec else NO_TRAJECTORY
        return {"trajectory": None, "no_trajectory": reason}
    ratios, errors = recorder.moments.length_ratio()
    keys = ("solver", "evaluations", "guidance", "guidance_interval")
    options = {key: job.spec[key] for key in keys if key in job.spec}
    return {
        "trajectory": [m.to_json() for m in recorder.moments.measurements(options)],
        "length_ratio": ratios.tolist(),
        "length_ratio_stderr": errors.tolist() if errors is not None else None,
    }
