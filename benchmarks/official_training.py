"""A training step of ours beside one of the official code, in one run.

    python -m benchmarks.official_training sit ~/SiT
    python -m benchmarks.official_training lightningdit ~/LightningDiT
    python -m benchmarks.official_training vavae ~/LightningDiT --taming ~/taming-transformers \
        --batch 1

Ours is the step of the training loop (`diffusability.training.loop`): random numbers, forward,
loss, backward, finite checks, optimizer, average. Theirs calls the official networks and losses as
the official loop does, without its logging. The official `torch.compile` decorators are off: both
sides run eagerly. The packages that the official code needs (timm, einops, torchdiffeq,
torchvision) have to be installed.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # before torch is imported

import argparse
import copy

import torch
from torch import Tensor, nn

from benchmarks.backbones import wake
from benchmarks.official import Comparison, repository, run, stand_in
from diffusability.diffusion.flow import drop_labels, flow_matching_loss, sample_time
from diffusability.diffusion.transformer import LatentTransformer, LightningDiT, SiT
from diffusability.encoders.packages import import_extra
from diffusability.study.core.spec import TrainSpec
from diffusability.study.entries.backbone import BACKBONES
from diffusability.study.entries.network import ConvNetwork, ImageShape
from diffusability.study.entries.regularizer import Baseline
from diffusability.study.entries.trained_tokenizer import ObjectiveSpec, TokenizerTraining
from diffusability.tokenizers.conv import ConvAutoencoder
from diffusability.tokenizers.discriminator import PatchDiscriminator
from diffusability.tokenizers.objective import Objective
from diffusability.tokenizers.perceptual import LpipsPerceptual
from diffusability.tokenizers.regularizers.interface import Regularizer
from diffusability.tokenizers.training_step import TokenizerLosses
from diffusability.training.loop import Training
from diffusability.training.run import Batch, Losses, Phase, Run

CLASSES, WIDTH, HEADS = 1000, 768, 12
EMA = 0.9999
STATE = Path(tempfile.gettempdir()) / "no-checkpoint"  # nothing is written: no step is the last


def our_step(
    spec: TrainSpec, modules: dict[str, nn.Module], phases: Sequence[Phase], averaged: str | None
) -> Callable[[], object]:
    """Return a function that takes one step of the training loop."""
    made = Run("benchmark", spec, modules, phases, spec.batch, 0, STATE, averaged)
    return Training(made)._take_step


def diffusion_step(network: LatentTransformer, batch: int, cosine: float) -> Callable[[], object]:
    """Return our step of a diffusion network on random latents."""
    data = torch.randn(batch, network.latent_channels, *network.grid)
    labels = torch.arange(batch)
    distribution = "logit-normal" if cosine else "uniform"

    def loss(part: Batch) -> Losses:
        noise = torch.randn(data.shape, generator=part.generator)
        time = sample_time(batch, distribution, part.generator)
        dropped = drop_labels(labels, 0.1, CLASSES, part.generator)
        terms = flow_matching_loss(network, data, dropped, noise, time, cosine)
        return Losses(terms["total"])

    betas = (0.9, 0.95) if cosine else (0.9, 0.999)
    spec = TrainSpec(
        steps=10**6, batch=batch, lr=1e-4, betas=betas, ema=EMA, ema_warmup=False,
        clip=1.0 if cosine else None,
    )  # fmt: skip
    phase = Phase("loss", list(network.parameters()), loss, divisible=True)
    return our_step(spec, {"network": network}, [phase], "network")


def official_diffusion_step(
    network: nn.Module, transport: Any, latent: tuple[int, int, int], batch: int, cosine: bool
) -> Callable[[], object]:
    """Return the step of SiT's or LightningDiT's train.py; the former is in the latter."""
    wake(network).train()
    average = copy.deepcopy(network).requires_grad_(False).eval()
    betas = (0.9, 0.95) if cosine else (0.9, 0.999)
    rule = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0, betas=betas)
    data, labels = torch.randn(batch, *latent), torch.arange(batch)

    def step() -> float:
        terms = transport.training_losses(network, data, {"y": labels})
        loss = terms["loss"].mean()
        if cosine:
            loss = terms["cos_loss"].mean() + loss
        rule.zero_grad()
        loss.backward()
        if cosine:
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        rule.step()
        with torch.no_grad():
            pairs = zip(average.parameters(), network.parameters(), strict=True)
            for mean, weight in pairs:
                mean.mul_(EMA).add_(weight.data, alpha=1 - EMA)
        return float(loss.item())

    return step


def our_network(
    kind: type[LatentTransformer], arch: str, latent: tuple[int, int, int], patch: int, depth: int
) -> LatentTransformer:
    """Return our network of size B with random weights."""
    size = {"width": WIDTH, "depth": depth, "heads": HEADS, "patch": patch}
    spec = BACKBONES[arch].model_validate({"arch": arch, **size, "train": {"steps": 1}})
    network = kind(spec, latent, CLASSES).initialise(torch.Generator().manual_seed(0))
    wake(network)
    return network


def count(*modules: nn.Module) -> int:
    """Return the number of trained parameters."""
    return sum(p.numel() for m in modules for p in m.parameters() if p.requires_grad)


def same_size(ours: Iterable[nn.Module], theirs: Iterable[nn.Module]) -> str:
    """Return the number of trained parameters, which both sides share.

    Raises:
        ValueError: they do not; then a ratio of times says nothing.
    """
    found = count(*ours), count(*theirs)
    if found[0] != found[1]:
        raise ValueError(f"{found[0]:,} trained parameters here, {found[1]:,} there")
    return f"{found[0]:,} trained parameters"


def sit(options: argparse.Namespace) -> Comparison:
    """SiT-B/2 on latents of 4 x 32 x 32, with norms of queries and keys as the study has them."""
    import models
    from transport import create_transport

    theirs = models.SiT(32, 2, 4, WIDTH, options.depth, HEADS, 4.0, 0.1, CLASSES, False)
    theirs.blocks = nn.ModuleList(
        models.SiTBlock(WIDTH, HEADS, qk_norm=True, norm_layer=nn.LayerNorm)
        for _ in range(options.depth)
    )
    latent = (4, 32, 32)
    ours = our_network(SiT, "sit", latent, 2, options.depth)
    return Comparison(
        f"SiT-B/2 step, {options.depth} blocks, {options.batch} latents of 4 x 32 x 32, fp32",
        diffusion_step(ours, options.batch, 0.0),
        official_diffusion_step(theirs, create_transport(), latent, options.batch, False),
        same_size([ours], [theirs]),
    )


def lightningdit(options: argparse.Namespace) -> Comparison:
    """LightningDiT-B/1 on latents of 32 x 16 x 16, options as in the official f16d32 setting."""
    parallel = "fairscale.nn.model_parallel"
    stand_in("fairscale", "fairscale.nn", parallel, f"{parallel}.initialize", f"{parallel}.layers")
    from models.lightningdit import LightningDiT as Official
    from transport import create_transport

    latent = (32, 16, 16)
    theirs = Official(
        16, 1, 32, WIDTH, options.depth, HEADS, num_classes=CLASSES, use_qknorm=True,
        use_swiglu=True, use_rope=True, use_rmsnorm=True,
    )  # fmt: skip
    transport = create_transport(use_cosine_loss=True, use_lognorm=True)
    ours = our_network(LightningDiT, "lightningdit", latent, 1, options.depth)
    return Comparison(
        f"LightningDiT-B/1 step, {options.depth} blocks, {options.batch} latents of 32 x 16 x 16, "
        "fp32, cosine loss, gradients clipped",
        diffusion_step(ours, options.batch, 1.0),
        official_diffusion_step(theirs, transport, latent, options.batch, True),
        same_size([ours], [theirs]),
    )


def vavae(options: argparse.Namespace) -> Comparison:
    """VA-VAE's f16d32 without a vision model: L1, LPIPS on random VGG, KL, GAN; both optimizers."""
    images = torch.rand(options.batch, 3, options.side, options.side) * 2 - 1
    theirs, official = official_tokenizer_step(options, images)
    ours, step = tokenizer_step(options, images)
    return Comparison(
        f"conv-f16d32 step, {options.batch} images of {options.side} px, fp32, LPIPS and GAN",
        step,
        theirs,
        same_size(ours, official),
    )


def tokenizer_step(
    options: argparse.Namespace, images: Tensor
) -> tuple[list[nn.Module], Callable[[], object]]:
    """Return our networks and our step."""
    spec = ConvNetwork.model_validate({"arch": "conv"})
    network = ConvAutoencoder(spec, ImageShape(3, options.side))
    network.initialise(torch.Generator().manual_seed(0))
    objective = ObjectiveSpec(
        perceptual=1.0, perceptual_encoder="lpips", gan=0.5, gan_start=0, kl=1e-6, reduction="sum"
    )
    judge = PatchDiscriminator(objective, 3).initialise(torch.Generator().manual_seed(1))
    lpips = import_extra("lpips", "LPIPS").LPIPS(net="vgg", pnet_rand=True, verbose=False)
    plain = Regularizer[Baseline, None](Baseline(method="baseline"), spec.channels)
    distance = LpipsPerceptual(lpips)
    losses = TokenizerLosses(network, Objective(objective), plain, judge, distance)
    phases = [
        Phase(
            "autoencoder",
            list(losses.autoencoder_parameters()),
            lambda part: losses.autoencoder_loss(images, None, part.step, part.generator),
        ),
        Phase(
            "discriminator", list(judge.parameters()), lambda part: losses.discriminator_loss()
        ),
    ]  # fmt: skip
    train = TokenizerTraining(steps=10**6, batch=options.batch, lr=1e-4, betas=(0.5, 0.9))
    return [network, judge], our_step(train, {"tokenizer": network, "judge": judge}, phases, None)


def official_tokenizer_step(
    options: argparse.Namespace, images: Tensor
) -> tuple[Callable[[], object], list[nn.Module]]:
    """Return the step of the official AutoencoderKL.training_step, and the official networks."""
    print(f"with {repository(options.taming)}")
    repository(options.repository / "vavae")
    from taming.modules.losses.lpips import LPIPS
    from torchvision import models

    untrained = models.vgg16
    weightless = patch.object(models, "vgg16", lambda pretrained: untrained(weights=None))
    with weightless, patch.object(LPIPS, "load_from_pretrained", lambda self: None):
        from ldm.modules.losses.contperceptual import LPIPSWithDiscriminator

        loss = LPIPSWithDiscriminator(disc_start=0, kl_weight=1e-6, disc_weight=0.5)
    from ldm.modules.diffusionmodules.model import Decoder, Encoder
    from ldm.modules.distributions.distributions import DiagonalGaussianDistribution

    loss.train()
    loss.logvar.requires_grad_(False)  # no official optimizer holds it
    sizes = {
        "double_z": True, "z_channels": 32, "resolution": options.side, "in_channels": 3,
        "out_ch": 3, "ch": 128, "ch_mult": (1, 1, 2, 2, 4), "num_res_blocks": 2,
        "attn_resolutions": [options.side // 16], "dropout": 0.0,
    }  # fmt: skip
    encoder, decoder = Encoder(**sizes), Decoder(**sizes)
    outward, inward = nn.Conv2d(64, 64, 1), nn.Conv2d(32, 32, 1)
    parts: list[nn.Module] = [encoder, decoder, outward, inward]
    rule = torch.optim.Adam([p for m in parts for p in m.parameters()], 1e-4, (0.5, 0.9))
    judge_rule = torch.optim.Adam(loss.discriminator.parameters(), 1e-4, (0.5, 0.9))
    last = decoder.conv_out.weight

    def step() -> None:
        posterior = DiagonalGaussianDistribution(outward(encoder(images)))
        shown = decoder(inward(posterior.sample()))
        first, _ = loss(images, shown, posterior, 0, 1, last_layer=last)
        rule.zero_grad()
        first.backward()
        rule.step()
        second, _ = loss(images, shown, posterior, 1, 1, last_layer=last)
        judge_rule.zero_grad()
        second.backward()
        judge_rule.step()

    return step, [*parts, loss.discriminator]


if __name__ == "__main__":
    run(
        "A training step of ours beside one of the official code.",
        {"sit": sit, "lightningdit": lightningdit, "vavae": vavae},
        batch=2,
    )
