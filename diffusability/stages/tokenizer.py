"""Stage `tokenizer`: train one tokenizer with its objective, or make one without training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusability.artifacts.job import Job
from diffusability.data.images import ImageSet, to_float
from diffusability.data.load import load_dataset
from diffusability.encoders.interface import Encoder
from diffusability.encoders.load import load_encoder
from diffusability.stages.geometry_preserving import GeometryPreservingTraining
from diffusability.stages.open import open_perceptual
from diffusability.study.network import ConvNetwork
from diffusability.study.regularizer import Gpe
from diffusability.study.tokenizer import TokenizerSpec
from diffusability.tokenizers.build import build_objective, build_regularizer, build_tokenizer
from diffusability.tokenizers.discriminator import PatchDiscriminator
from diffusability.tokenizers.hierarchical import HierarchicalAutoencoder, hierarchical_loss
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.load import tokenizer_source
from diffusability.tokenizers.training_step import TokenizerLosses
from diffusability.tokenizers.vector import VectorAutoencoder
from diffusability.training.images import TrainingImages
from diffusability.training.loop import Batch, Losses, Phase, Run, Training, train, write_history

HELD_BYTES = 2 * 2**30  # features of all images up to this size stay on the device


def make(job: Job, folder: Path) -> None:
    """Write model.safetensors (averaged weights) and history.csv.

    A published autoencoder is copied with its config.json; the history of what is not trained has
    no rows.
    """
    if "source" in job.spec:
        tokenizer_source(job.options).make(job, folder)
        (folder / "history.csv").write_text("step\n")
        return
    spec = typed_spec(job)
    data = load_dataset(job.input("dataset"))
    weights: Mapping[str, Tensor]
    if spec.network.arch == "hierarchical":
        training = _train_hierarchical(job, spec, data)
        weights, history = training.averaged.state_dict(), training.history
    elif isinstance(spec.regularizer, Gpe):
        weights, history = _train_geometry_preserving(job, spec, spec.regularizer, data)
    else:
        training = _train_regularized(job, spec, data)
        weights, history = training.averaged.state_dict(), training.history
    whole = {name: value.contiguous() for name, value in weights.items()}
    save_file(whole, folder / "model.safetensors")
    write_history(history, folder / "history.csv")


def _train_regularized(job: Job, spec: TokenizerSpec, data: ImageSet) -> Training:
    """Train autoencoder, regularizer and discriminator in turn."""
    encoder = _encoder(job, data)
    losses = _losses(job, spec, data, encoder)
    images = TrainingImages(data, data.split("train"), job.device, job.stream("crops"))
    features = None if encoder is None else TargetFeatures(encoder, images)

    def autoencoder(batch: Batch) -> Losses:
        shown = images(batch)  # (B, C, H, W)
        target = None if features is None else features(batch, shown)
        return losses.autoencoder_loss(shown, target, batch.step, batch.generator)

    def discriminator(batch: Batch) -> Losses | None:
        return losses.discriminator_loss(batch.step)

    phases = [Phase("autoencoder", list(losses.autoencoder_parameters()), autoencoder)]
    modules = {"tokenizer": losses.tokenizer, "regularizer": losses.regularizer}
    if losses.discriminator is not None:
        parameters = list(losses.discriminator.parameters())
        phases.append(Phase("discriminator", parameters, discriminator))
        modules["discriminator"] = losses.discriminator
    return _train(job, spec, modules, phases, len(images))


def _train_hierarchical(job: Job, spec: TokenizerSpec, data: ImageSet) -> Training:
    """Train the levels of a hierarchical VAE together."""
    tokenizer = _first_weights(job, spec, data)
    assert isinstance(tokenizer, HierarchicalAutoencoder)
    objective = build_objective(spec.objective)
    images = TrainingImages(data, data.split("train"), job.device, job.stream("crops"))

    def loss(batch: Batch) -> Losses:
        return hierarchical_loss(tokenizer, objective, images(batch), batch.step, batch.generator)

    phases = [Phase("autoencoder", list(tokenizer.parameters()), loss)]
    return _train(job, spec, {"tokenizer": tokenizer}, phases, len(images))


def _train_geometry_preserving(
    job: Job, spec: TokenizerSpec, options: Gpe, data: ImageSet
) -> tuple[Mapping[str, Tensor], list[dict[str, float]]]:
    """Train encoder and decoder one after the other; return weights and history."""
    tokenizer = _first_weights(job, spec, data)
    assert isinstance(tokenizer, VectorAutoencoder)
    objective = build_objective(spec.objective)
    history = GeometryPreservingTraining(job, spec, options, tokenizer, objective, data).run()
    return tokenizer.state_dict(), history


def _train(
    job: Job,
    spec: TokenizerSpec,
    modules: Mapping[str, nn.Module],
    phases: Sequence[Phase],
    images: int,
) -> Training:
    """Run the phases; the tokenizer among the modules is averaged."""
    return train(
        Run(
            name=job.name,
            spec=spec.train,
            modules=modules,
            phases=phases,
            images=images,
            seed=job.stream("steps"),
            state=job.state,
            averaged="tokenizer",
            device=torch.device(job.device),
            minutes=job.minutes_left,
        )
    )


def _first_weights(job: Job, spec: TokenizerSpec, data: ImageSet) -> Tokenizer:
    """Return the network of an entry; equal seeds give equal weights."""
    tokenizer = build_tokenizer(spec.network, data.images.shape[1], data.images.shape[-1])
    return tokenizer.initialise(_generator(job, "weights")).to(job.device)


def typed_spec(job: Job) -> TokenizerSpec:
    """Return the typed entry of a job; encoders entered it by their fingerprints alone."""
    values = {key: dict(value) for key, value in job.options.items()}
    if "encoder" in job.upstream:
        values["regularizer"]["encoder"] = "encoder"
    if "perceptual" in job.upstream:
        values["objective"]["perceptual_encoder"] = "perceptual"
    return TokenizerSpec.model_validate(values)


def _losses(
    job: Job, spec: TokenizerSpec, data: ImageSet, encoder: Encoder | None
) -> TokenizerLosses:
    """Build every network of the objective; equal seeds give equal autoencoders."""
    channels = None if encoder is None else encoder.grid_channels
    tokenizer = build_tokenizer(spec.network, data.images.shape[1], data.images.shape[-1])
    regularizer = build_regularizer(spec, channels)
    tokenizer.initialise(_generator(job, "weights"))
    if isinstance(spec.network, ConvNetwork) and spec.network.channels_last:
        # after the draw, which follows memory; torch declares this overload in no stub
        tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    regularizer.initialise(_generator(job, "regularizer"))
    discriminator = None
    if spec.objective.gan:
        discriminator = PatchDiscriminator(
            data.images.shape[1], spec.objective.gan_width, spec.objective.gan_layers
        )
        discriminator.initialise(_generator(job, "discriminator"))
        discriminator.to(job.device)
    return TokenizerLosses(
        tokenizer.to(job.device),
        build_objective(spec.objective),
        regularizer.to(job.device),
        discriminator,
        open_perceptual(job, data),
    )


def _encoder(job: Job, data: ImageSet) -> Encoder | None:
    """Return the target of alignment, if the tokenizer has one."""
    if "encoder" not in job.upstream:
        return None
    return load_encoder(job.input("encoder"), data, job.device)


def _generator(job: Job, use: str) -> torch.Generator:
    return torch.Generator().manual_seed(job.stream(use))


class TargetFeatures:
    """The encoder's features of each batch: of images in memory computed once, else every time."""

    @torch.no_grad()
    def __init__(self, encoder: Encoder, images: TrainingImages) -> None:
        """Compute the features of all images, if those are held and it takes HELD_BYTES."""
        self._encoder = encoder
        self._held: Tensor | None = None  # (N, D, h, w)
        if images.held is None:
            return
        first = encoder.grid(to_float(images.held[:1]))
        if len(images) * first.numel() * first.element_size() <= HELD_BYTES:
            parts = images.held.split(256)
            self._held = torch.cat([encoder.grid(to_float(part)) for part in parts])

    @torch.no_grad()
    def __call__(self, batch: Batch, shown: Tensor) -> Tensor:
        """Return the (B, D, h, w) features of the images `shown` in a step."""
        if self._held is not None:
            return self._held[batch.picked.to(self._held.device)]
        return self._encoder.grid(shown)
