"""Stage `encoder`: train a small network on the study's images, or copy published weights."""

import logging
from pathlib import Path
from typing import assert_never

import torch
from safetensors.torch import save_file

from diffusability.artifacts.job import Job
from diffusability.encoders.held_out import held_out_numbers
from diffusability.encoders.inception import import_inception
from diffusability.encoders.load import build_encoder
from diffusability.encoders.pretext import (
    LOSS_NAMES,
    Network,
    Spec,
    build_loss,
    build_network,
    encoder_of,
)
from diffusability.encoders.representation import import_representation
from diffusability.encoders.vision import import_vision
from diffusability.stages.inputs import Inputs, training_images
from diffusability.study.encoder import (
    EncoderSpec,
    InceptionEncoder,
    LpipsEncoder,
    RepresentationEncoder,
    TrainedEncoder,
    VisionEncoder,
)
from diffusability.study.representations import representation_file
from diffusability.study.vision_models import weight_file
from diffusability.tokenizers.perceptual import LpipsPerceptual
from diffusability.training.loop import Phase, Run, Training, train

logger = logging.getLogger(__name__)


def make(inputs: Inputs, spec: EncoderSpec, out: Path) -> None:
    """Write model.safetensors and history.csv; its last row ends in held-out numbers."""
    if not isinstance(spec, TrainedEncoder):
        _copy_published(inputs.job, spec, out)
        return
    job, data = inputs.job, inputs.data
    training = _train(inputs, spec)
    network = training.averaged.eval()
    assert isinstance(network, Network)
    generator = torch.Generator(job.device).manual_seed(job.stream("held out"))
    numbers = held_out_numbers(spec, network, data, generator)
    logger.info("%s: %s", job.name, ", ".join(f"{name} {x:.4f}" for name, x in numbers.items()))
    training.history[-1].update(numbers)
    save_file(encoder_of(network).state_dict(), out / "model.safetensors")
    training.write_history(out / "history.csv")


def _train(inputs: Inputs, spec: Spec) -> Training:
    """Train the encoder of an entry, with what its kind puts on top, on the training images."""
    job, data = inputs.job, inputs.data
    network = build_network(spec, build_encoder(spec, data), data.images.shape[1])
    network.initialise(inputs.generator("weights"))
    network.to(job.device)
    chosen = data.split("train")
    images = training_images(inputs)
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
            seed=inputs.stream("steps"),
            state=job.state,
            averaged="encoder",
            device=inputs.device,
            minutes=job.minutes_left,
        )
    )


def _copy_published(
    job: Job,
    spec: VisionEncoder | RepresentationEncoder | InceptionEncoder | LpipsEncoder,
    out: Path,
) -> None:
    """Write model.safetensors, once the weights fit their network, and a history without rows.

    Raises:
        ArtifactError: the weight file is missing, damaged, or of another network.
        StudyError: the package that holds the network is missing.
    """
    target = out / "model.safetensors"
    match spec:
        case VisionEncoder():
            weights = weight_file(spec.model, spec.weights)
            import_vision(spec.model, weights, target)
        case RepresentationEncoder():
            weights = representation_file(spec.model, spec.weights)
            import_representation(spec.model, weights, target)
        case InceptionEncoder():
            weights = Path(spec.weights)
            import_inception(weights, target)
        case LpipsEncoder():
            weights = Path(spec.weights)
            LpipsPerceptual.from_vgg(weights).save(target)
        case _:
            assert_never(spec)
    logger.info("%s: copied %s", job.name, weights)
    (out / "history.csv").write_text("step\n")
