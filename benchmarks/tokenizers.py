"""Speed and memory of a tokenizer's training step, beside a plain re-statement of it.

    python -m benchmarks.tokenizers --preset digits-conv
    python -m benchmarks.tokenizers --preset full-conv --size 128 --batch 1 --steps 3
    python -m benchmarks.tokenizers --preset digits-vit --encode

A step is everything an optimizer step needs: forward, losses with adaptive weight, backward and
Adam, for the autoencoder and (with --gan) for the discriminator; with --encode it is the encoding
of a batch, as latents are cached. Library and re-statement take
turns in one process, so that both see the same load of the machine.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.plain_tokenizers import (
    PlainViTDecoder,
    PlainViTEncoder,
    plain_conv,
    plain_losses,
)
from diffusability.study.entries.network import ConvNetwork, ImageShape, VitNetwork
from diffusability.study.entries.regularizer import Baseline
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec
from diffusability.tokenizers.conv import ConvAutoencoder
from diffusability.tokenizers.discriminator import PatchDiscriminator
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.objective import Objective
from diffusability.tokenizers.regularizers.interface import Regularizer
from diffusability.tokenizers.training_step import TokenizerLosses
from diffusability.tokenizers.vit import VitAutoencoder

Step = Callable[[Tensor], None]
MIB = 2**20


@dataclass(frozen=True)
class Preset:
    """A network, an image size and a batch that fit each other."""

    arguments: dict[str, object]
    size: int
    batch: int

    @property
    def transformer(self) -> bool:
        """Whether the network is a ViT."""
        return "patch" in self.arguments


def conv(channels: int, latents: int, width: int, multipliers: tuple[int, ...], *rest: int) -> dict:
    """Return the arguments of `ConvAutoencoder`; rest: encoder and decoder blocks, attention."""
    names = ("image_channels", "latent_channels", "width", "multipliers")
    more = ("encoder_blocks", "decoder_blocks", "attention")
    values = (channels, latents, width, multipliers, *rest)
    return dict(zip(names + more, values, strict=True))


def vit(*values: int) -> dict:
    """Return the arguments of `VitAutoencoder` in their order."""
    names = ("image_channels", "latent_channels", "patch", "grid", "width", "depth", "heads")
    return dict(zip(names, values, strict=True))


PRESETS = {
    "digits-conv": Preset(conv(1, 4, 16, (1, 2), 1, 1, False), 16, 64),
    "digits-conv-deep": Preset(conv(1, 4, 16, (1, 2), 2, 3, True), 16, 64),
    "digits-conv-32": Preset(conv(1, 4, 32, (1, 2), 1, 1, False), 16, 64),
    "digits-conv-32-deep": Preset(conv(1, 4, 32, (1, 2), 2, 3, True), 16, 64),
    "digits-vit": Preset(vit(1, 4, 2, 8, 48, 2, 4), 16, 64),
    "full-conv": Preset(conv(3, 32, 128, (1, 1, 2, 2, 4), 2, 3, True), 256, 1),
    "full-vit": Preset(vit(3, 32, 16, 16, 768, 12, 12), 256, 1),
}


@dataclass(frozen=True)
class Variant:
    """A numeric setting."""

    name: str
    half: bool = False
    channels_last: bool = False


VARIANTS = (
    Variant("fp32"),
    Variant("bf16", half=True),
    Variant("fp32 channels-last", channels_last=True),
    Variant("bf16 channels-last", half=True, channels_last=True),
)


def placed(module: nn.Module, variant: Variant, device: torch.device) -> nn.Module:
    """Return the module on the device, in the memory format of the variant."""
    if variant.channels_last:
        return module.to(device, memory_format=torch.channels_last)
    return module.to(device)


def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer that both sides use."""
    return torch.optim.Adam(parameters, 1e-4, (0.5, 0.9), fused=True)


def descend(loss: Tensor, rule: torch.optim.Optimizer) -> None:
    """Take one optimizer step."""
    rule.zero_grad(set_to_none=True)
    loss.backward()
    rule.step()


def judge_of(options: argparse.Namespace, channels: int) -> PatchDiscriminator | None:
    """Return the discriminator for images of the chosen size, if one is asked for."""
    if not options.gan:
        return None
    spec = ObjectiveSpec(gan_layers=3 if options.size >= 32 else 2)
    return PatchDiscriminator(spec, channels).initialise(torch.Generator().manual_seed(1))


def encoding(encode: Callable[[Tensor], object], variant: Variant, device: torch.device) -> Step:
    """Return the step that encodes a batch."""

    @torch.no_grad()
    def step(images: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.half):
            encode(images)

    return step


def library_network(preset: Preset) -> Tokenizer:
    """Return the network of the library; its weights are not yet drawn."""
    values = {
        "factor" if name == "patch" else name.replace("latent_channels", "channels"): value
        for name, value in preset.arguments.items()
        if name not in ("image_channels", "grid")
    }
    size = preset.size
    if preset.transformer:
        size = int(preset.arguments["grid"]) * int(preset.arguments["patch"])  # type: ignore[call-overload]
    image = ImageShape(int(preset.arguments["image_channels"]), size)  # type: ignore[call-overload]
    if preset.transformer:
        return VitAutoencoder(VitNetwork.model_validate({"arch": "vit", **values}), image)
    factor = 2 ** (len(values["multipliers"]) - 1)  # type: ignore[arg-type]
    spec = ConvNetwork.model_validate({"arch": "conv", "factor": factor, **values})
    return ConvAutoencoder(spec, image)


def library_step(preset: Preset, options: argparse.Namespace, variant: Variant) -> Step:
    """Return the step of `TokenizerLosses`, or that of `Tokenizer.encode`."""
    device, generator = torch.device(options.device), torch.Generator().manual_seed(0)
    network = library_network(preset).initialise(generator)
    placed(network, variant, device)
    if options.encode:
        return encoding(network.encode, variant, device)
    judge = judge_of(options, network.image_channels)
    objective = Objective(ObjectiveSpec(gan=0.5 if judge else 0, gan_start=0))
    if judge:
        placed(judge, variant, device)
    plain = Regularizer(Baseline(method="baseline"), network.latent_channels)
    losses = TokenizerLosses(network, objective, plain, judge)
    rule = optimizer(list(losses.autoencoder_parameters()))
    judge_rule = optimizer(list(judge.parameters())) if judge else None
    noise = torch.Generator(device).manual_seed(0)

    def step(images: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.half):
            first = losses.autoencoder_loss(images, None, 0, noise)
        descend(first.total, rule)
        if judge_rule:
            with torch.autocast(device.type, torch.bfloat16, enabled=variant.half):
                second = losses.discriminator_loss()
            descend(second.total, judge_rule)

    return step


def plain_step(preset: Preset, options: argparse.Namespace, variant: Variant) -> Step:
    """Return the plain re-statement of the same step."""
    device = torch.device(options.device)
    arguments = preset.arguments
    with torch.random.fork_rng(devices=[]):
        if preset.transformer:
            values = tuple(arguments.values())
            encoder: nn.Module = PlainViTEncoder(*values)  # type: ignore[arg-type]
            decoder: nn.Module = PlainViTDecoder(*values)  # type: ignore[arg-type]
            last = decoder.pixels[2].weight  # type: ignore[index, union-attr]
        else:
            encoder, decoder = plain_conv(**arguments)  # type: ignore[arg-type]
            last = decoder[-1].weight  # type: ignore[index]
    judge = judge_of(options, int(arguments["image_channels"]))  # type: ignore[call-overload]
    for module in filter(None, (encoder, decoder, judge)):
        placed(module, variant, device)
    if options.encode:
        return encoding(encoder, variant, device)
    rule = optimizer([*encoder.parameters(), *decoder.parameters()])
    judge_rule = optimizer(list(judge.parameters())) if judge else None

    def step(images: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=variant.half):
            loss, second = plain_losses(encoder, decoder, judge, last, images)
        descend(loss, rule)
        if judge_rule and second:
            with torch.autocast(device.type, torch.bfloat16, enabled=variant.half):
                loss = second()
            descend(loss, judge_rule)

    return step


def kept_memory(step: Step, images: Tensor) -> float:
    """Return MiB: on CUDA the peak of a step, else the tensors kept for the backward pass.

    The CPU number counts storages of one step once, parameters included.
    """
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        step(images)
        return torch.cuda.max_memory_allocated() / MIB
    storages: dict[int, int] = {}
    held: list[Tensor] = []  # so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor)
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(images)
    return sum(storages.values()) / MIB


def seconds(step: Step, images: Tensor) -> float:
    """Return the duration of one step: thread time on one CPU thread, else wall time."""
    on_one_thread = not images.is_cuda and torch.get_num_threads() == 1
    clock = time.process_time if on_one_thread else time.perf_counter
    if images.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    step(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def measure(preset: Preset, options: argparse.Namespace, variant: Variant) -> None:
    """Print one row: steps and images per second of both sides, their ratio, memory."""
    shape = (options.batch, int(preset.arguments["image_channels"]), options.size, options.size)  # type: ignore[call-overload]
    images = torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
    images = images.to(options.device)
    if variant.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    steps = [make(preset, options, variant) for make in (library_step, plain_step)]
    memory = [kept_memory(step, images) for step in steps]  # the first step also warms up
    times: list[list[float]] = [[], []]
    for _ in range(options.steps):
        for step, taken in zip(steps, times, strict=True):
            taken.append(seconds(step, images))
    ours, plain = (sorted(taken)[len(taken) // 2] for taken in times)
    print(
        f"{variant.name:20s} {1 / ours:9.2f} {options.batch / ours:11.1f} "
        f"{options.batch / plain:11.1f} {plain / ours:7.2f} {memory[0]:10.0f} {memory[1]:10.0f}",
        flush=True,
    )


def main() -> None:
    """Parse the arguments and print one row per numeric setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="digits-conv")
    parser.add_argument("--size", type=int, help="pixels along one side (default: the preset's)")
    parser.add_argument("--batch", type=int, help="images per step (default: the preset's)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps; the median is shown")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gan", action="store_true", help="with adversarial term and both phases")
    parser.add_argument("--encode", action="store_true", help="encode instead of training")
    parser.add_argument("--variants", nargs="+", choices=[v.name for v in VARIANTS])
    options = parser.parse_args()
    preset = PRESETS[options.preset]
    options.size = options.size or preset.size
    options.batch = options.batch or preset.batch
    if preset.transformer:
        preset.arguments["grid"] = options.size // int(preset.arguments["patch"])  # type: ignore[call-overload]
    torch.set_num_threads(options.threads)
    print(f"{options.preset}: batch {options.batch} of {options.size} px, gan {options.gan}")
    print("setting                 it/s    images/s    plain im/s   ratio        MiB  plain MiB")
    for variant in VARIANTS:
        if options.variants is None or variant.name in options.variants:
            measure(preset, options, variant)


if __name__ == "__main__":
    main()
