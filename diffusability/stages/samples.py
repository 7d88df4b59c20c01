"""Stage `samples`: generate images at one guidance scale and follow their trajectories."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusability.artifacts.atomic import write_json
from diffusability.artifacts.card import read_card
from diffusability.diffusion.edm_sampler import Churn, integrate_denoiser, sigma_grid
from diffusability.diffusion.guidance import guided_denoiser, guided_velocity
from diffusability.diffusion.latent_diffusion import LatentDenoiser, LatentDiffusion
from diffusability.diffusion.load import backbone_spec, load_diffusion
from diffusability.diffusion.sampler import balanced_labels, draw_noise, integrate, random_labels
from diffusability.figures.image_grid import write_image_grid
from diffusability.metrics.trajectory import TrajectoryRecorder
from diffusability.stages.controls import ControlOptions, Draw, control_source
from diffusability.stages.inputs import Inputs
from diffusability.statistics import require_finite
from diffusability.study.core.fingerprint import derive_seed
from diffusability.study.core.spec import Spec
from diffusability.study.entries.sampling import EDMSampling, Solver, solver_steps
from diffusability.training.progress import Progress

BATCH = 256
SHARD = 10_000
PICTURED_ROWS, PICTURED_CLASSES = 8, 16
PICTURED_OF_MANY = (4, 8)  # rows and columns where there are more classes: images are large then
NO_TRAJECTORY = (
    "the statistics are of even steps in the time of the linear path; EDM's steps are even in "
    "sigma^(1/rho)"
)
CONTROL = "no diffusion model made the samples"
SHIFTED = "the statistics are of even steps in time; sampling.shift makes them uneven"
TOLD = {"balanced": "balanced: index modulo classes", "random": "random: drawn uniformly"}
ALWAYS = (0.0, 1.0)  # guidance acts at every time


class SampleOptions(Spec):
    """How one set of images is generated."""

    solver: Solver
    evaluations: int
    guidance: float
    guidance_channels: int | None = None  # first ones that guidance acts on; None: all
    labels: Literal["balanced", "random"] = "balanced"
    count: int
    shift: float = 1.0
    guidance_interval: tuple[float, float] = ALWAYS
    edm: EDMSampling | None = None  # of models of process edm
    step: int | None = None  # of the model's weights; None: the last

    @property
    def steps(self) -> int:
        """Steps of the solver."""
        return solver_steps(self.solver, self.evaluations)


@dataclass(frozen=True)
class _Source:
    """Where latents come from.

    Attributes:
        draw: latents and labels.
        labels: how they are chosen, in words; None without labels.
        cyclic: whether the label of an image is its index modulo the classes.
        trajectory: notes on the trajectories of all that was drawn.
    """

    draw: Draw
    labels: str | None
    cyclic: bool
    trajectory: Callable[[], dict[str, Any]]


def make(inputs: Inputs, spec: SampleOptions | ControlOptions, out: Path) -> None:
    """Write uint8 image shards, samples.json (labels, trajectory) and samples.png."""
    if isinstance(spec, ControlOptions):
        draw = control_source(inputs, spec)
        source = _Source(draw, "of the control", True, lambda: _no_trajectory(CONTROL))
    else:
        source = _model_source(inputs, spec)
    shards = _write_shards(inputs, spec.count, source.draw, out)
    notes = {
        "images": spec.count,
        "labels": source.labels,
        "classes": inputs.data.num_classes,
        "shards": shards,
    }
    write_json(out / "samples.json", notes | source.trajectory())
    # of random labels no column is one class
    classes = inputs.data.num_classes if source.cyclic else 1
    pictured, columns = pictured_indices(min(spec.count, SHARD), classes)
    first_images = load_file(out / shards[0])["images"]
    write_image_grid(out / "samples.png", first_images[pictured], columns)


def _write_shards(inputs: Inputs, count: int, draw: Draw, out: Path) -> list[str]:
    """Decode what a source draws into files of images and labels; return their names."""
    progress = Progress(inputs.job.name, -(-count // BATCH))
    shards: list[str] = []
    for start in range(0, count, SHARD):
        stop = min(start + SHARD, count)
        images, labels = [], []
        for first in range(start, stop, BATCH):
            latents, asked = draw(range(first, min(first + BATCH, stop)))
            images.append(inputs.decode(latents, "decoded samples"))
            labels.append(asked.cpu())
            progress.advance({})
        name = f"shard-{len(shards):05d}.safetensors"
        # a decoder may leave channels innermost in memory, which a file cannot hold
        pictures = torch.cat(images).contiguous()  # (N, C, H, W)
        save_file({"images": pictures, "labels": torch.cat(labels)}, out / name)
        shards.append(name)
    progress.close()
    return shards


def _model_source(inputs: Inputs, spec: SampleOptions) -> _Source:
    """Return what draws latents from a diffusion model."""
    model = _model(inputs, spec.step)
    conditional = backbone_spec(read_card(inputs.folder("diffusion"))["spec"]).conditional
    recorded = isinstance(model, LatentDiffusion) and spec.shift == 1
    recorder = TrajectoryRecorder(spec.steps) if recorded else None

    def draw(indices: range) -> tuple[Tensor, Tensor]:
        labels = _labels(inputs, spec, indices, model, conditional)
        latents = _latents(inputs, spec, model, labels, recorder, indices)
        require_finite(latents, inputs.of("samples", "diffusion"))
        return latents, labels

    def trajectory() -> dict[str, Any]:
        if recorder is None:
            return _no_trajectory(SHIFTED if spec.shift != 1 else NO_TRAJECTORY)
        return _trajectory(spec, recorder)

    told = TOLD[spec.labels] if conditional else None
    return _Source(draw, told, spec.labels == "balanced", trajectory)


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


def _model(inputs: Inputs, step: int | None) -> LatentDiffusion | LatentDenoiser:
    data, tokenizer = inputs.data, inputs.tokenizer
    height, width = (side // tokenizer.factor for side in data.images.shape[-2:])
    shape = (tokenizer.latent_channels, height, width)
    folder = inputs.folder("diffusion")
    return load_diffusion(folder, shape, data.num_classes, inputs.job.device, step)


def _labels(
    inputs: Inputs,
    spec: SampleOptions,
    indices: range,
    model: LatentDiffusion | LatentDenoiser,
    conditional: bool,
) -> Tensor:
    """Return (B,) labels on the CPU, of an unconditional model the null class."""
    classes = model.network.num_classes
    if not conditional:
        return model.null_labels(len(indices)).cpu()
    if spec.labels == "random":
        return random_labels(derive_seed("sampling labels", inputs.job.seed), indices, classes)
    return balanced_labels(indices, classes)


@torch.no_grad()
def _latents(
    inputs: Inputs,
    spec: SampleOptions,
    model: LatentDiffusion | LatentDenoiser,
    labels: Tensor,
    recorder: TrajectoryRecorder | None,
    indices: range,
) -> Tensor:
    """Return the (B, C, H, W) latents of the given sample indices.

    The noise depends on sampling seed and index alone: every cell of a study starts from the same.
    """
    network, guidance, guided = model.network, spec.guidance, spec.guidance_channels
    shape, null = (network.latent_channels, *network.grid), network.num_classes

    def draw(*use: str | int) -> Tensor:
        seed = derive_seed(*use, inputs.job.seed)
        return draw_noise(seed, indices, shape).to(inputs.device)

    noise, labels = draw("sampling noise"), labels.to(inputs.device)  # (B, C, H, W), (B,)
    if isinstance(model, LatentDiffusion):
        velocity = guided_velocity(model, labels, null, guidance, spec.guidance_interval, guided)
        found = integrate(velocity, noise, spec.steps, spec.solver, spec.shift, on_step=recorder)
        return model.denormalise(found)
    edm = spec.edm
    assert edm is not None  # the plan gives it to every model of that process
    churn = Churn(partial(draw, "churn"), edm) if edm.churn else None
    denoise = guided_denoiser(model, labels, null, guidance, guided)
    sigmas = sigma_grid(spec.steps, edm)
    return model.denormalise(integrate_denoiser(denoise, noise, sigmas, spec.solver, churn))


def _no_trajectory(reason: str) -> dict[str, Any]:
    return {"trajectory": None, "no_trajectory": reason}


def _trajectory(spec: SampleOptions, recorder: TrajectoryRecorder) -> dict[str, Any]:
    """Return the notes on the trajectories."""
    ratios, errors = recorder.moments.length_ratio()
    options = spec.model_dump(include={"solver", "evaluations", "guidance"})
    if spec.guidance_interval != ALWAYS:
        options["guidance_interval"] = list(spec.guidance_interval)
    if spec.guidance_channels is not None:
        options["guidance_channels"] = spec.guidance_channels
    return {
        "trajectory": [m.to_json() for m in recorder.moments.measurements(options)],
        "length_ratio": ratios.tolist(),
        "length_ratio_stderr": errors.tolist() if errors is not None else None,
    }
