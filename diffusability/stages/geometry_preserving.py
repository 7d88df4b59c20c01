"""Train a geometry-preserving encoder, freeze it, and train its decoder."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.data.images import in_batches, to_float
from diffusability.nn.chunks import chunks
from diffusability.stages.inputs import Inputs, training_images
from diffusability.study.entries.regularizer import Gpe
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.tokenizers.geometry_preservation import geometry_preservation_loss
from diffusability.tokenizers.objective import Objective
from diffusability.tokenizers.serpentine import to_vector
from diffusability.tokenizers.vector import VectorAutoencoder
from diffusability.training.loop import Training, train
from diffusability.training.run import Batch, Losses, Phase, Run

BATCH = 256


@dataclass(frozen=True)
class GeometryPreservingTraining:
    """Both trainings of one tokenizer, with separate checkpoints in the job's state folder.

    Attributes:
        inputs: inputs of the job.
        spec: entry of the tokenizer.
        options: its options of method gpe.
        tokenizer: the network, with its initial weights, on the job's device.
        objective: loss of the decoder.
    """

    inputs: Inputs
    spec: TokenizerSpec
    options: Gpe
    tokenizer: VectorAutoencoder
    objective: Objective

    def run(self) -> list[dict[str, float]]:
        """Train encoder and decoder; the tokenizer ends with their averaged weights.

        Returns:
            The loss curves: rows of the encoder's steps, then of the decoder's, numbered
            consecutively.

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
        images = training_images(self.inputs)

        def loss(batch: Batch) -> Losses:
            shown = images(batch)  # (B, C, H, W)
            with torch.autocast(shown.device.type, enabled=False):  # distances need full precision
                mean = self.tokenizer.encode(shown).mean
                total = geometry_preservation_loss(shown, mean)
            return Losses(total)

        run = Run(
            name=f"{self.inputs.job.name} encoder",
            spec=self.spec.train,
            modules={"encoder": layers},
            phases=[Phase("geometry", list(layers.parameters()), loss)],
            images=len(images),
            seed=self.inputs.stream("steps"),
            state=self.inputs.job.state / "encoder",
            averaged="encoder",
            device=self.inputs.device,
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
        images = training_images(self.inputs)

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
            name=f"{self.inputs.job.name} decoder",
            spec=self.spec.train.model_copy(update={"steps": steps}),
            modules={"decoder": layers},
            phases=[Phase("reconstruction", list(layers.parameters()), loss)],
            images=len(images),
            seed=self.inputs.stream("decoder steps"),
            state=self.inputs.job.state / "decoder",
            averaged="decoder",
            device=self.inputs.device,
            minutes=self._minutes(),
        )
        training = train(run)
        layers.load_state_dict(training.averaged.state_dict())
        return training

    @torch.no_grad()
    def _sample(self) -> Tensor:
        """Return the (N, d) latents of training images for computing centre and scale."""
        data = self.inputs.data
        split = data.split("train")
        order = torch.randperm(len(split), generator=self.inputs.generator("scale"))
        batches = in_batches(data.images, split[order[: self.options.scale_images]], BATCH)
        device = self.inputs.device
        parts = (few for batch in batches for few in chunks(batch))
        means = [self.tokenizer.encode(to_float(part).to(device)).mean for part in parts]
        return torch.cat([to_vector(mean) for mean in means])

    def _minutes(self) -> float | None:
        """Return the remaining time of the job."""
        left = self.inputs.job.minutes_left
        return None if left is None else max(0.0, left)
