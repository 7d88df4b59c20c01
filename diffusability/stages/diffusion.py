"""Stage `diffusion`: train one flow-matching model on the cached latents of one tokenizer."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.diffusion.load import backbone_spec, build_diffusion
from diffusability.diffusion.training_loss import FlowMatchingLoss
from diffusability.latents.channel_statistics import channel_statistics
from diffusability.stages.open import open_latents
from diffusability.training.loop import Phase, Run, train


def make(job: Job, folder: Path) -> None:
    """Write model.safetensors (averaged weights, with the latent scale) and history.csv."""
    spec = backbone_spec(job.spec)
    device = torch.device(job.device)
    data = load_dataset(job.input("dataset"))
    latents = open_latents(job, data)[data.split("train")]
    channels, height, width = latents.mean.shape[1:]
    model = build_diffusion(spec, (channels, height, width), data.num_classes)
    model.network.initialise(torch.Generator().manual_seed(job.stream("weights")))
    statistics = channel_statistics(latents.mean)
    model.set_normalisation(statistics.mean, statistics.std)
    model.to(device)
    loss = FlowMatchingLoss(model, latents, spec, device)
    training = train(
        Run(
            name=job.name,
            spec=spec.train,
            modules={"diffusion": model},
            phases=[Phase("loss", list(model.parameters()), loss)],
            images=len(latents.labels),
            seed=job.stream("steps"),
            state=job.state,
            averaged="diffusion",
            device=device,
            minutes=job.minutes,
        )
    )
    save_file(training.averaged.state_dict(), folder / "model.safetensors")
    training.write_history(folder / "history.csv")
