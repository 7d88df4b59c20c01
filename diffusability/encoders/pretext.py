"""Encoders that the study trains itself: what their kinds share, and the supervised kind."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar, assert_never

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet
from diffusability.data.load import job_dataset
from diffusability.encoders.convnet import ConvEncoder
from diffusability.encoders.held_out import held_out_numbers, token_numbers
from diffusability.encoders.interface import StudyEncoder
from diffusability.encoders.load import HISTORY, WEIGHTS, EncoderKind
from diffusability.encoders.vit import VitEncoder
from diffusability.nn.transfer import to_device
from diffusability.study.entries.encoder import TrainedEncoder
from diffusability.study.entries.trained_encoder import SupervisedEncoder
from diffusability.training.images import TrainingImages
from diffusability.training.loop import Training, train
from diffusability.training.run import Batch, Losses, Phase, Run

logger = logging.getLogger(__name__)
SHIFT = 1  # largest random shift of a supervised batch, in pixels, along both axes

Entry = TypeVar("Entry", bound=TrainedEncoder)
Network = Any  # a StudyEncoder, or a module with one as `encoder` and with `initialise`


class Pretext(EncoderKind[Entry]):
    """What an encoder is trained for; a kind defines `loss` and its name.

    Attributes:
        loss_name: of the loss in the curves.
        divisible: whether the loss of a batch is a sum over its images.
    """

    loss_name: ClassVar[str]
    divisible: ClassVar[bool] = True

    def loss(
        self, network: Network, images: Callable[[Batch], Tensor], labels: Tensor
    ) -> Callable[[Batch], Losses]:
        """Return the loss of a network on a batch; labels, (N,) on the device, may go unused."""
        raise NotImplementedError(f"{type(self).__name__}: define loss")

    def network(self, encoder: StudyEncoder, image_channels: int) -> Network:
        """Return the encoder with what only its training needs on top."""
        return encoder

    def classes(self, data: ImageSet) -> int:
        """Return the number of class logits; only who was trained to name classes has any."""
        return 0

    def build(self, data: ImageSet) -> StudyEncoder:
        """Return the encoder itself, without weights; `data` gives image shape and classes."""
        channels, size = data.images.shape[1:3]
        match self.spec.arch:
            case "convnet":
                return ConvEncoder(self.spec, channels, self.classes(data))
            case "vit":
                return VitEncoder(self.spec, channels, size, self.classes(data))
            case arch:
                assert_never(arch)

    def make(self, job: Job, folder: Path) -> None:
        """Train; write model.safetensors and history.csv, whose last row has held-out numbers."""
        data = job_dataset(job)
        training = self._train(job, data)
        network = training.averaged.eval()
        encoder = encoder_of(network)
        generator = torch.Generator(job.device).manual_seed(job.stream("held out"))

        def loss_on(asked: Tensor) -> Callable[[Batch], Losses]:
            images = TrainingImages(data, asked, generator.device, 0)
            return self.loss(network, images, data.labels[asked].to(generator.device))

        numbers = held_out_numbers(
            encoder, data, loss_on, self.loss_name, self.spec.train.batch, generator
        ) | token_numbers(encoder, data, generator)
        logger.info("%s: %s", job.name, ", ".join(f"{name} {x:.4f}" for name, x in numbers.items()))
        training.history[-1].update(numbers)
        save_file(encoder.state_dict(), folder / WEIGHTS)
        training.write_history(folder / HISTORY)

    def load(self, folder: Path, data: ImageSet) -> StudyEncoder:
        """Return the encoder of an artifact's folder."""
        model = self.build(data)
        model.load_state_dict(load_file(folder / WEIGHTS), assign=True)
        return model

    def _train(self, job: Job, data: ImageSet) -> Training:
        """Train the encoder, with what its kind puts on top, on the training images."""
        network = self.network(self.build(data), data.images.shape[1])
        network.initialise(torch.Generator().manual_seed(job.stream("weights")))
        network.to(job.device)
        chosen = data.split("train")
        images = TrainingImages(data, chosen, job.device, job.stream("crops"))
        loss = self.loss(network, images, data.labels[chosen].to(job.device))
        return train(
            Run(
                name=job.name,
                spec=self.spec.train,
                modules={"encoder": network},
                phases=[
                    Phase(
                        self.loss_name,
                        list(network.parameters()),
                        loss,
                        divisible=self.divisible,
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


def encoder_of(network: Network) -> StudyEncoder:
    """Return the encoder inside a network under training."""
    encoder = network if isinstance(network, StudyEncoder) else network.encoder
    assert isinstance(encoder, StudyEncoder)
    return encoder


class Classification(Pretext[SupervisedEncoder]):
    """Encoders of kind supervised."""

    loss_name = "cross_entropy"

    def classes(self, data: ImageSet) -> int:
        """One logit per class of the dataset."""
        return data.num_classes

    def loss(
        self, network: Network, images: Callable[[Batch], Tensor], labels: Tensor
    ) -> Callable[[Batch], Losses]:
        """Return the cross-entropy."""
        return ClassificationLoss(network, images, labels)


class ClassificationLoss:
    """Cross-entropy of a classifier on the images of a training."""

    def __init__(self, model: nn.Module, images: Callable[[Batch], Tensor], labels: Tensor) -> None:
        """Take what gives a batch's (B, C, H, W) images, and (N,) int64 labels on their device."""
        self.model, self.images, self.labels = model, images, labels

    def __call__(self, batch: Batch) -> Losses:
        """Return the loss of one batch; the accuracy is logged."""
        device = self.labels.device
        shift = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=batch.generator, device=device)
        moved = torch.roll(self.images(batch), shift.tolist(), dims=(2, 3))  # (B, C, H, W)
        logits = self.model(moved).float()  # (B, K)
        labels = self.labels[to_device(batch.picked, device)]  # (B,)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return Losses(F.cross_entropy(logits, labels), {"accuracy": accuracy})
