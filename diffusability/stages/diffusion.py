"""Stage `diffusion`: train one diffusion model on the cached latents of one tokenizer."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.diffusion.latent_diffusion import LatentDenoiser, LatentDiffusion
from diffusability.diffusion.load import backbone_spec, build_diffusion
from diffusability.diffusion.training_loss import diffusion_loss
from diffusability.latents.channel_statistics import ChannelStatistics
from diffusability.latents.posteriors import Posteriors
from diffusability.stages.open import open_latents
from diffusability.study.backbone import Backbone
from diffusability.training.distributed import processes
from diffusability.training.loop import Phase, Run, train


def make(job: Job, folder: Path) -> None:
    """Write model.safetensors (averaged weights, with the latent scale) and history.csv."""
    spec, together = backbone_spec(job.options), processes()
    device = torch.device(job.device)
    data = load_dataset(job.input("dataset"))
    with together.leader_first():  # evicted shards are encoded once
        latents = open_latents(job, data, checked=not together.leads)
    posteriors = Posteriors(latents, data.split("train"), device)
    model = _model(job, spec, posteriors, data.num_classes).to(device)
    loss = diffusion_loss(model, posteriors, spec)
    training = train(
        Run(
            name=job.name,
            spec=spec.train,
            modules={"diffusion": model},
            phases=[Phase("loss", list(model.parameters()), loss, divisible=True)],
            images=len(posteriors),
            versions=posteriors.versions,
            seed=job.stream("steps"),
            state=job.state,
            averaged="diffusion",
            device=device,
            minutes=job.minutes_left,
            processes=together,
        )
    )
    if together.leads:
        save_file(training.averaged.state_dict(), folder / "model.safetensors")
        training.write_history(folder / "history.csv")


def _model(
    job: Job, spec: Backbone, posteriors: Posteriors, classes: int
) -> LatentDiffusion | LatentDenoiser:
    """Return the model with its first weights and the scale of its training latents."""
    channels, height, width = posteriors.shape
    model = build_diffusion(spec, (channels, height, width), classes)
    model.network.initialise(torch.Generator().manual_seed(job.stream("weights")))
    stated = json.loads((job.input("latents") / "latents.json").read_text())
    statistics = ChannelStatistics.from_json(stated["channel_statistics"])
    model.set_normalisation(statistics.mean, statistics.std)
    return model
