"""Stage `tokenizer`: train one tokenizer with its objective, or make one without training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusability.data.images import to_float
from diffusability.encoders.interface import Encoder
from diffusability.nn.chunks import chunks
from diffusability.nn.transfer import to_device
from diffusability.stages.geometry_preserving import GeometryPreservingTraining
from diffusability.stages.inputs import Inputs, training_images
from diffusability.study.entries.network import ConvNetwork
from diffusability.study.entries.regularizer import Gpe
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.tokenizers.build import build_regularizer, build_tokenizer
from diffusability.tokenizers.discriminator import PatchDiscriminator
from diffusability.tokenizers.hierarchical import HierarchicalAutoencoder, hierarchical_loss
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.load import WEIGHTS, tokenizer_source
from diffusability.tokenizers.objective import Objective
from diffusability.tokenizers.training_step import TokenizerLosses
from diffusability.tokenizers.vector import VectorAutoencoder
from diffusability.training.distributed import processes
from diffusability.training.history import write_history
from diffusability.training.images import TrainingImages
from diffusability.training.loop import Training, train
from diffusability.training.run import Batch, Losses, Phase, Run

HELD_BYTES = 2 * 2**30  # features of all images up to this size stay on the device


def make(inputs: Inputs, spec: Mapping[str, Any], out: Path) -> None:
    """Write model.safetensors (averaged weights) and history.csv.

    A published autoencoder is copied with its config.json; the history of what is not trained has
    no rows.
    """
    if "source" in spec:
        tokenizer_source(spec).make(inputs.job, out)
        (out / "history.csv").write_text("step\n")
        return
    weights, history = _train_by_method(inputs, _typed(inputs, spec))
    save_file({name: value.contiguous() for name, value in weights.items()}, out / WEIGHTS)
    write_history(history, out / "history.csv")


def _typed(inputs: Inputs, spec: Mapping[str, Any]) -> TokenizerSpec:
    """Return the typed entry; encoders entered it by their fingerprints, and are named by role."""
    values = dict(spec)
    for role, part, key in (
        ("encoder", "regularizer", "encoder"),
        ("perceptual", "objective", "perceptual_encoder"),
    ):
        if role in inputs:
            values[part] = {**values[part], key: role}
    return TokenizerSpec.model_validate(values)


def _train_by_method(
    inputs: Inputs, spec: TokenizerSpec
) -> tuple[Mapping[str, Tensor], list[dict[str, float]]]:
    """Train the network of an entry; return weights and history."""
    if isinstance(spec.regularizer, Gpe):
        return _train_geometry_preserving(inputs, spec, spec.regularizer)
    hierarchical = spec.network.arch == "hierarchical"
    training = (_train_hierarchical if hierarchical else _train_regularized)(inputs, spec)
    return training.averaged.state_dict(), training.history


def _train_regularized(inputs: Inputs, spec: TokenizerSpec) -> Training:
    """Train autoencoder, regularizer and discriminator in turn."""
    encoder = inputs.encoder("encoder") if "encoder" in inputs else None
    losses = _losses(inputs, spec, encoder)
    images = training_images(inputs)
    features = None if encoder is None else TargetFeatures(encoder, images)

    def autoencoder(batch: Batch) -> Losses:
        shown = images(batch)  # (B, C, H, W)
        target = None if features is None else features(batch, shown)
        return losses.autoencoder_loss(shown, target, batch.step, batch.generator)

    def discriminator(batch: Batch) -> Losses:
        return losses.discriminator_loss()

    # not complete: the token that masking puts in for others is not used in every step
    phases = [Phase("autoencoder", list(losses.autoencoder_parameters()), autoencoder)]
    modules = {"tokenizer": losses.tokenizer, "regularizer": losses.regularizer}
    if losses.discriminator is not None:
        parameters = list(losses.discriminator.parameters())
        starts = spec.objective.gan_start
        phases.append(
            Phase("discriminator", parameters, discriminator, complete=True, starts=starts)
        )
        modules["discriminator"] = losses.discriminator
    return _train(inputs, spec, modules, phases, len(images))


def _train_hierarchical(inputs: Inputs, spec: TokenizerSpec) -> Training:
    """Train the levels of a hierarchical VAE together."""
    tokenizer = _first_weights(inputs, spec)
    assert isinstance(tokenizer, HierarchicalAutoencoder)
    objective = Objective(spec.objective)
    images = training_images(inputs)

    def loss(batch: Batch) -> Losses:
        return hierarchical_loss(tokenizer, objective, images(batch), batch.step, batch.generator)

    phases = [Phase("autoencoder", list(tokenizer.parameters()), loss)]
    return _train(inputs, spec, {"tokenizer": tokenizer}, phases, len(images))


def _train_geometry_preserving(
    inputs: Inputs, spec: TokenizerSpec, options: Gpe
) -> tuple[Mapping[str, Tensor], list[dict[str, float]]]:
    """Train encoder and decoder one after the other; return weights and history."""
    tokenizer = _first_weights(inputs, spec)
    assert isinstance(tokenizer, VectorAutoencoder)
    objective = Objective(spec.objective)
    history = GeometryPreservingTraining(inputs, spec, options, tokenizer, objective).run()
    return tokenizer.state_dict(), history


def _train(
    inputs: Inputs,
    spec: TokenizerSpec,
    modules: Mapping[str, nn.Module],
    phases: Sequence[Phase],
    images: int,
) -> Training:
    """Run the phases; the tokenizer among the modules is averaged."""
    return train(
        Run(
            name=inputs.job.name,
            spec=spec.train,
            modules=modules,
            phases=phases,
            images=images,
            seed=inputs.stream("steps"),
            state=inputs.job.state,
            averaged="tokenizer",
            part=spec.train.part,
            device=inputs.device,
            minutes=inputs.job.minutes_left,
            processes=processes(),
        )
    )


def _first_weights(inputs: Inputs, spec: TokenizerSpec) -> Tokenizer:
    """Return the network of an entry; equal seeds give equal weights."""
    shape = inputs.data.images.shape
    tokenizer = build_tokenizer(spec.network, shape[1], shape[-1])
    return tokenizer.initialise(inputs.generator("weights")).to(inputs.device)


def _losses(inputs: Inputs, spec: TokenizerSpec, encoder: Encoder | None) -> TokenizerLosses:
    """Build every network of the objective; equal seeds give equal autoencoders."""
    channels = None if encoder is None else encoder.grid_channels
    shape = inputs.data.images.shape  # (N, C, H, W)
    tokenizer = build_tokenizer(spec.network, shape[1], shape[-1])
    regularizer = build_regularizer(spec, channels)
    tokenizer.initialise(inputs.generator("weights"))
    if isinstance(spec.network, ConvNetwork) and spec.network.channels_last:
        # after the draw, which follows memory; torch declares this overload in no stub
        tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    regularizer.initialise(inputs.generator("regularizer"))
    discriminator = None
    if spec.objective.gan:
        discriminator = PatchDiscriminator(spec.objective, shape[1])
        discriminator.initialise(inputs.generator("discriminator"))
        discriminator.to(inputs.device)
    return TokenizerLosses(
        tokenizer.to(inputs.device),
        Objective(spec.objective),
        regularizer.to(inputs.device),
        discriminator,
        inputs.perceptual,
    )


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
            parts = [few for part in images.held.split(256) for few in chunks(part)]
            self._held = torch.cat([encoder.grid(to_float(part)) for part in parts])

    @torch.no_grad()
    def __call__(self, batch: Batch, shown: Tensor) -> Tensor:
        """Return the (B, D, h, w) features of the images `shown` in a step."""
        if self._held is not None:
            return self._held[to_device(batch.picked, self._held.device)]
        return self._encoder.grid(shown)
