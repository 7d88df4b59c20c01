"""Train a geometry-preserving encoder, freeze it, and train its decoder."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, in_batches, to_float
from diffusability.study.regularizer import Gpe
from diffusability.study.tokenizer import TokenizerSpec
from diffusability.tokenizers.geometry_preservation import geometry_preservation_loss
from diffusability.tokenizers.objective import Objective
from diffusability.tokenizers.serpentine import to_vector
from diffusability.tokenizers.vector import VectorAutoencoder
from diffusability.training.images import TrainingImages
from diffusability.training.loop import Batch, Losses, Phase, Run, Training, train

BATCH = 256


@dataclass(frozen=True)
class GeometryPreservingTraining:
    """Both trainings of one tokenizer, each with its own checkpoints below the job's state.

    Attributes:
        job: the artifact that is made.
        spec: its entry.
        options: those of method gpe in it.
        tokenizer: the network, with its first weights, on the job's device.
        objective: what the decoder descends.
        data: the images.
    """

    job: Job
    spec: TokenizerSpec
    options: Gpe
    tokenizer: VectorAutoencoder
    objective: Objective
    data: ImageSet

    def run(self) -> list[dict[str, float]]:
        """Train encoder and decoder; the tokenizer ends with their averaged weights.

        Returns:
            The loss curves, rows of the encoder's steps before those of the decoder's, which count
            on from them.

        Raises:
            TrainingInterrupted: time is up or a signal came; the state is saved.
        """
        encoder = self._train_encoder()
        self.tokenizer.set_scale(self._sample())
        decoder = self._train_decoder()
        steps = self.spec.train.steps
        return encoder.history + [row | {"step": steps + row["step"]} for row in decoder.history]

    def _train_encoder(self) -> Training:
        """Train the encoder's layers; its finished state is kept while the decoder is trained."""
        layers = self.tokenizer.encoder_layers
        images = self._images()

        def loss(batch: Batch) -> Losses:
            shown = images(batch)  # (B, C, H, W)
            with torch.autocast(shown.device.type, enabled=False):  # distances need full precision
                mean = self.tokenizer.encode(shown).mean
                total = geometry_preservation_loss(shown, mean)
            return Losses(total)

        run = Run(
            name=f"{self.job.name} encoder",
            spec=self.spec.train,
            modules={"encoder": layers},
            phases=[Phase("geometry", list(layers.parameters()), loss)],
            images=len(images),
            seed=self.job.stream("steps"),
            state=self.job.state / "encoder",
            averaged="encoder",
            device=torch.device(self.job.device),
            minutes=self._minutes(),
        )
        training = train(run)
        training.save()
        layers.load_state_dict(training.averaged.state_dict())
        self.tokenizer.make_deterministic()
        layers.requires_grad_(False)
        return training

    def _train_decoder(self) -> Training:
        layers = self.tokenizer.decoder_layers
        images = self._images()

        def loss(batch: Batch) -> Losses:
            shown = images(batch)  # (B, C, H, W)
            with torch.no_grad():
                mean = to_vector(self.tokenizer.encode(shown).mean)  # (B, d)
            vectors = (mean - self.tokenizer.shift) * self.tokenizer.scale
            if self.options.decoder_noise:
                where = batch.generator.device
                noise = torch.randn(vectors.shape, generator=batch.generator, device=where)
                vectors = vectors + self.options.decoder_noise * noise.to(vectors)
            decoded = self.tokenizer.decode_vectors(vectors)
            decoded = decoded.to(torch.promote_types(decoded.dtype, torch.float32))
            total, terms = self.objective.reconstruction(shown, decoded, None)
            return Losses(total, {name: term.detach() for name, term in terms.items()})

        steps = self.options.decoder_steps or self.spec.train.steps
        run = Run(
            name=f"{self.job.name} decoder",
            spec=self.spec.train.model_copy(update={"steps": steps}),
            modules={"decoder": layers},
            phases=[Phase("reconstruction", list(layers.parameters()), loss)],
            images=len(images),
            seed=self.job.stream("decoder steps"),
            state=self.job.state / "decoder",
            averaged="decoder",
            device=torch.device(self.job.device),
            minutes=self._minutes(),
        )
        training = train(run)
        layers.load_state_dict(training.averaged.state_dict())
        return training

    def _images(self) -> TrainingImages:
        train_split = self.data.split("train")
        return TrainingImages(self.data, train_split, self.job.device, self.job.stream("crops"))

    @torch.no_grad()
    def _sample(self) -> Tensor:
        """Return the (N, d) latents of training images that centre and scale rest on."""
        split = self.data.split("train")
        generator = torch.Generator().manual_seed(self.job.stream("scale"))
        chosen = split[torch.randperm(len(split), generator=generator)[: self.options.scale_images]]
        batches = in_batches(self.data.images, chosen, BATCH)
        device = self.job.device
        means = [self.tokenizer.encode(to_float(part).to(device)).mean for part in batches]
        return torch.cat([to_vector(mean) for mean in means])

    def _minutes(self) -> float | None:
        """Return what is left of the job's time."""
        if self.job.minutes is None:
            return None
        return max(0.0, self.job.minutes - (time.time() - self.job.started) / 60.0)
