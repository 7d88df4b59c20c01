"""Memory that a training step keeps for its backward pass, counted tensor by tensor.

The step runs on fake tensors, which have shapes and types and no content, so nothing is computed
and no memory is taken. Every tensor that autograd saves is counted once, however often it is saved;
weights are not, as they are counted by themselves. With activation checkpointing, one block at a
time is computed again: the largest is counted beside what is kept.
`study/entries/operations.py` calls this module and caches the results.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from diffusability.data.images import ImageSet
from diffusability.diffusion.load import backbone_spec, build_diffusion
from diffusability.encoders.load import encoder_kind
from diffusability.encoders.pretext import Pretext
from diffusability.nn.attention import fused_attention
from diffusability.nn.recomputation import recompute_blocks
from diffusability.study.entries.regularizer import Baseline
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec
from diffusability.tokenizers.build import build_tokenizer, tokenizer_network
from diffusability.tokenizers.discriminator import PatchDiscriminator
from diffusability.tokenizers.hierarchical import HierarchicalAutoencoder, hierarchical_loss
from diffusability.tokenizers.objective import Objective, PerceptualDistance
from diffusability.tokenizers.perceptual import FeaturePerceptual
from diffusability.tokenizers.regularizers.interface import Regularizer
from diffusability.tokenizers.training_step import TokenizerLosses

Count = tuple[int, int]  # bytes whatever the number of images, and bytes per image
VGG_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def count(what: str, options: dict[str, Any]) -> list[Count]:
    """Return the bytes that a step keeps.

    Args:
        what: "tokenizer_step" or "backbone_step".
        options: arguments of the function with that name below, as plain values.
    """
    return [PARTS[what](**options)]


def tokenizer_step(
    network: dict[str, Any],
    objective: dict[str, Any],
    perceptual: dict[str, Any] | None,
    channels: int,
    side: int,
    precision: str,
    recomputed: bool = False,
) -> Count:
    """Return what the larger of a tokenizer's two losses keeps, once the GAN has begun.

    What regularizers keep beside it is not counted: at 256 pixels it is below one per cent.

    Args:
        network, objective: options of the entry.
        perceptual: options of the encoder whose features are compared, if there is one.
        channels, side: of the images.
        precision: autocast type.
        recomputed: whether the tokenizer's blocks are computed again in the backward pass.
    """
    spec = tokenizer_network(network)
    options = ObjectiveSpec.model_validate(objective)
    tokenizer = build_tokenizer(spec, channels, side)
    discriminator = PatchDiscriminator(options, channels) if options.gan else None
    distance, frozen = _perceptual(perceptual, channels, side)
    modules = [module for module in (tokenizer, discriminator) if module is not None]
    loss = Objective(options)
    generator = torch.Generator()
    again = tokenizer if recomputed else None

    def step(images: int) -> int:
        shown = torch.empty(images, channels, side, side)
        if isinstance(tokenizer, HierarchicalAutoencoder):
            return kept(
                lambda: hierarchical_loss(tokenizer, loss, shown, 0, generator).total,
                modules,
                precision,
                again,
            )
        plain = Regularizer[Baseline, None](Baseline(method="baseline"), spec.channels)
        losses = TokenizerLosses(tokenizer, loss, plain, discriminator, distance)
        start = options.gan_start
        run = lambda: losses.autoencoder_loss(shown, None, start, generator).total  # noqa: E731
        first = kept(run, [*modules, *frozen], precision, again)
        if discriminator is None:
            return first
        return max(first, kept(lambda: losses.discriminator_loss().total, modules, precision))

    return _line(step, [*modules, *frozen])


def backbone_step(
    spec: dict[str, Any],
    latent: tuple[int, int, int],
    num_classes: int,
    precision: str,
    recomputed: bool = False,
) -> Count:
    """Return what the network of a diffusion model keeps on latents (C, H, W)."""
    network = build_diffusion(backbone_spec(spec), latent, num_classes).network

    def step(images: int) -> int:
        x, time = torch.empty(images, *latent), torch.empty(images)
        label = torch.zeros(images, dtype=torch.long)
        loss = lambda: network(x, time, label).float().square().mean()  # noqa: E731
        return kept(loss, [network], precision, network if recomputed else None)

    return _line(step, [network])


PARTS: dict[str, Callable[..., Count]] = {
    "tokenizer_step": tokenizer_step,
    "backbone_step": backbone_step,
}


def _line(step: Callable[[int], int], modules: Iterable[nn.Module]) -> Count:
    """Return intercept and slope of a step's bytes; they are exactly linear in its images."""
    with FakeTensorMode(allow_non_fake_inputs=True), fused_attention():
        for module in modules:
            _materialise(module)
        one, two = step(1), step(2)
    return 2 * one - two, two - one


def _materialise(module: nn.Module) -> None:
    """Put a module that was built on the meta device on the (fake) CPU, where autocast acts."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                part._parameters[name] = nn.Parameter(empty, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def kept(
    loss: Callable[[], Tensor],
    modules: Iterable[nn.Module],
    precision: str,
    recomputed: nn.Module | None = None,
) -> int:
    """Return the bytes of all tensors that a loss keeps for its backward pass, without weights.

    Args:
        loss: computes a scalar. modules: whose weights are not counted.
        precision: autocast type of the loss.
        recomputed: network whose blocks are computed again, one at a time, in the backward pass.
    """
    saved = _Saved(modules)
    if recomputed is None:
        return saved.run(loss, precision)
    blocks = recompute_blocks(recomputed, False)
    handles = [block.register_forward_pre_hook(saved.enter) for block in blocks]
    handles += [block.register_forward_hook(saved.leave) for block in blocks]
    saved.run(loss, precision)
    for handle in handles:
        handle.remove()
    return saved.largest + saved.outside


class _Saved:
    """Bytes of the tensors that autograd saves, each storage once, without those of weights.

    Attributes:
        bytes: of all.
        outside: of what is saved outside the blocks, and of their inputs.
        largest: what the block adds to `bytes` that adds most.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.bytes = self.outside = self.largest = 0
        self._weights = {
            tensor.untyped_storage()._cdata
            for module in modules
            for tensor in (*module.parameters(), *module.buffers())
        }
        # storages by identity; held, so that none is used again
        self._seen: dict[int, Any] = {}
        self._seen_outside: dict[int, Any] = {}
        self._starts: list[int] = []  # of the blocks that are being computed: bytes before

    def run(self, loss: Callable[[], Tensor], precision: str) -> int:
        """Return the bytes that a loss saves."""
        half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with half, torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            found = loss()
        del found  # its graph holds what was saved
        return self.bytes

    def enter(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Take note that a block begins; when it is computed again, it is from its inputs."""
        if not self._starts:
            tensors = [value for value in inputs if isinstance(value, Tensor)]
            self.outside += sum(self._new(tensor, self._seen_outside) for tensor in tensors)
        self._starts.append(self.bytes)

    def leave(self, *_: object) -> None:
        """Take note that a block has ended."""
        self.largest = max(self.largest, self.bytes - self._starts.pop())

    def _pack(self, tensor: Tensor) -> Tensor:
        self.bytes += self._new(tensor, self._seen)
        if not self._starts:
            self.outside += self._new(tensor, self._seen_outside)
        return tensor

    def _new(self, tensor: Tensor, seen: dict[int, Any]) -> int:
        """Return the bytes of a tensor's storage, 0 if it was seen or is that of a weight."""
        storage = tensor.untyped_storage()
        known = storage._cdata in seen or storage._cdata in self._weights
        seen[storage._cdata] = storage
        return 0 if known else int(storage.nbytes())


def _perceptual(
    entry: dict[str, Any] | None, channels: int, side: int
) -> tuple[PerceptualDistance | None, list[nn.Module]]:
    """Return a distance with the layers of the entry's, and its frozen networks."""
    if entry is None:
        return None, []
    if entry["kind"] == "lpips":
        vgg = Vgg16()
        return FeaturePerceptual(vgg), [vgg]
    kind = encoder_kind(entry)
    if not isinstance(kind, Pretext):  # of the user's own: not known before it is imported
        return lambda target, reconstruction: (target - reconstruction).square().mean((1, 2, 3)), []
    none = torch.empty(1)
    image = torch.empty(1, channels, side, side, device="meta")
    network = kind.build(ImageSet(image, none, none, none, 10)).requires_grad_(False)
    return FeaturePerceptual(network.feature_maps), [network]


class Vgg16(nn.Module):
    """The convolutions of VGG-16 with the five feature maps that LPIPS compares."""

    def __init__(self) -> None:
        super().__init__()
        before = 3
        self.stages = nn.ModuleList()
        with torch.device("meta"):
            for widths in VGG_WIDTHS:
                layers: list[nn.Module] = []
                for width in widths:
                    layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                    before = width
                self.stages.append(nn.Sequential(*layers))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of images (B, 1 or 3, H, W)."""
        found: list[Tensor] = []
        hidden = images.expand(-1, 3, -1, -1)
        for stage in self.stages:
            hidden = stage(functional.max_pool2d(hidden, 2) if found else hidden)
            found.append(hidden)
        return found
