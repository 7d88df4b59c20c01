"""Stage `encoder`: train a small classifier on the study's own training images."""

import logging
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusability.artifacts.job import Job
from diffusability.data.images import to_float
from diffusability.data.load import load_dataset
from diffusability.encoders.classification import ClassificationLoss
from diffusability.encoders.load import build_encoder
from diffusability.stages.published import PUBLISHED, copy_published
from diffusability.study.encoder import SupervisedEncoder
from diffusability.training.loop import Phase, Run, train

logger = logging.getLogger(__name__)


def make(job: Job, folder: Path) -> None:
    """Write model.safetensors and history.csv; the validation accuracy goes to the log."""
    if job.spec["kind"] in PUBLISHED:
        copy_published(job, folder)
        return
    spec = SupervisedEncoder.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    model = build_encoder(spec, data)
    model.initialise(torch.Generator().manual_seed(job.stream("weights")))
    model.to(job.device)
    chosen = data.split("train")
    images, labels = to_float(data.images[chosen]), data.labels[chosen]
    loss = ClassificationLoss(model, images.to(job.device), labels.to(job.device))
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
    held_out = data.split("val")
    with torch.no_grad():
        predicted = kept(to_float(data.images[held_out]).to(job.device)).argmax(1).cpu()
    accuracy = (predicted == data.labels[held_out]).float().mean().item()
    logger.info("%s: validation accuracy %.4f", job.name, accuracy)
    save_file(kept.state_dict(), folder / "model.safetensors")
    training.write_history(folder / "history.csv")
