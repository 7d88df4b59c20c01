"""Stage `encoder`: train a small network on the study's images, or copy published weights."""

import logging
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.data.load import load_dataset
from diffusability.encoders.held_out import held_out_numbers
from diffusability.encoders.load import build_encoder, trained_spec
from diffusability.encoders.pretext import (
    LOSS_NAMES,
    Network,
    Spec,
    build_loss,
    build_network,
    encoder_of,
)
from diffusability.stages.published import PUBLISHED, copy_published
from diffusability.training.images import TrainingImages
from diffusability.training.loop import Phase, Run, Training, train

logger = logging.getLogger(__name__)


def make(job: Job, folder: Path) -> None:
    """Write model.safetensors and history.csv; its last row ends in held-out numbers."""
    if job.spec["kind"] in PUBLISHED:
        copy_published(job, folder)
        return
    spec = trained_spec(job.options)
    data = load_dataset(job.input("dataset"))
    training = _train(job, spec, data)
    network = training.averaged.eval()
    assert isinstance(network, Network)
    generator = torch.Generator(job.device).manual_seed(job.stream("held out"))
    numbers = held_out_numbers(spec, network, data, generator)
    logger.info("%s: %s", job.name, ", ".join(f"{name} {x:.4f}" for name, x in numbers.items()))
    training.history[-1].update(numbers)
    save_file(encoder_of(network).state_dict(), folder / "model.safetensors")
    training.write_history(folder / "history.csv")


def _train(job: Job, spec: Spec, data: ImageSet) -> Training:
    """Train the encoder of an entry, with what its kind puts on top, on the training images."""
    network = build_network(spec, build_encoder(spec, data), data.images.shape[1])
    network.initialise(torch.Generator().manual_seed(job.stream("weights")))
    network.to(job.device)
    chosen = data.split("train")
    images = TrainingImages(data, chosen, job.device, job.stream("crops"))
    loss = build_loss(spec, network, images, data.labels[chosen].to(job.device))
    return train(
        Run(
            name=job.name,
            spec=spec.train,
            modules={"encoder": network},
            phases=[
                Phase(
                    LOSS_NAMES[spec.kind],
                    list(network.parameters()),
                    loss,
                    divisible=spec.kind != "contrastive",  # it compares all views of a batch
                )
            ],
            images=len(chosen),
            seed=job.stream("steps"),
            state=job.state,
            averaged="encoder",
            device=torch.device(job.device),
            minutes=job.minutes_left,
        )
    )
