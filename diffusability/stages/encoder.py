"""Stage `encoder`: train a small classifier on the study's own training images."""

import logging
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, in_batches, to_float
from diffusability.data.load import load_dataset
from diffusability.encoders.classification import ClassificationLoss
from diffusability.encoders.load import build_encoder
from diffusability.study.encoder import SupervisedEncoder
from diffusability.training.images import TrainingImages
from diffusability.training.loop import Phase, Run, train

logger = logging.getLogger(__name__)
BATCH = 256


def make(job: Job, folder: Path) -> None:
    """Write model.safetensors and history.csv; the validation accuracy goes to the log."""
    spec = SupervisedEncoder.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    model = build_encoder(spec, data)
    model.initialise(torch.Generator().manual_seed(job.stream("weights")))
    model.to(job.device)
    chosen = data.split("train")
    images = TrainingImages(data, chosen, job.device, job.stream("crops"))
    loss = ClassificationLoss(model, images, data.labels[chosen].to(job.device))
    training = train(
        Run(
            name=job.name,
            spec=spec.train,
            modules={"encoder": model},
            phases=[Phase("cross_entropy", list(model.parameters()), loss)],
            images=len(images),
            seed=job.stream("steps"),
            state=job.state,
            averaged="encoder",
            device=torch.device(job.device),
            minutes=job.minutes,
        )
    )
    kept = training.averaged.eval()
    logger.info("%s: validation accuracy %.4f", job.name, _accuracy(kept, data, job.device))
    save_file(kept.state_dict(), folder / "model.safetensors")
    training.write_history(folder / "history.csv")


@torch.no_grad()
def _accuracy(model: nn.Module, data: ImageSet, device: str) -> float:
    """Return the share of validation images whose class the classifier finds."""
    held_out = data.split("val")
    batches = in_batches(data.images, held_out, BATCH)
    predicted = [model(to_float(batch).to(device)).argmax(1).cpu() for batch in batches]
    return (torch.cat(predicted) == data.labels[held_out]).float().mean().item()
