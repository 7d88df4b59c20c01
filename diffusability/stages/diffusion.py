"""Stages `diffusion` and `learned_fisher`: train a diffusion model, and measure what it learned."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusability.artifacts.card import read_card
from diffusability.data.images import thinned
from diffusability.diffusion.latent_diffusion import LatentDenoiser, LatentDiffusion
from diffusability.diffusion.load import backbone_spec, build_diffusion, load_diffusion
from diffusability.diffusion.training_loss import diffusion_loss
from diffusability.figures.image_grid import write_image_grid
from diffusability.fisher.backbone_denoiser import backbone_denoiser
from diffusability.latents.channel_statistics import ChannelStatistics, mean_variance
from diffusability.latents.mapped import MappedLatents
from diffusability.latents.posteriors import Posteriors
from diffusability.metrics.learned_fisher import HEADLINE, measure_learned_fisher
from diffusability.metrics.measurement import Measurement
from diffusability.stages.inputs import Inputs
from diffusability.stages.measurements import Found
from diffusability.study.entries.backbone import Backbone, BackboneSpec
from diffusability.study.metrics.groups import LearnedFisherOptions
from diffusability.tokenizers.posterior import Posterior
from diffusability.training.distributed import processes
from diffusability.training.loop import train
from diffusability.training.run import Phase, Run, weights_name

PICTURED = 12  # images of the largest and of the smallest contribution
UNCONDITIONAL = "the backbone was trained without classes"
CONDITIONAL = "the backbone was never trained without classes (class_dropout: 0)"


def make(inputs: Inputs, spec: BackboneSpec, out: Path) -> None:
    """Write model.safetensors (averaged weights, with the latent scale) and history.csv.

    Each snapshot is another such file, `weights_name(step)`.
    """
    job, data, together = inputs.job, inputs.data, processes()
    latents = inputs.latents if together.leads else inputs.checked_latents
    posteriors = Posteriors(latents, data.split("train"), inputs.device)
    model = _model(inputs, spec, posteriors, _scale(inputs, spec, latents)).to(inputs.device)
    loss = diffusion_loss(model, posteriors, spec)
    training = train(
        Run(
            name=job.name,
            spec=spec.train,
            modules={"diffusion": model},
            phases=[Phase("loss", list(model.parameters()), loss, divisible=True, complete=True)],
            images=len(posteriors),
            versions=posteriors.versions,
            seed=inputs.stream("steps"),
            state=job.state,
            averaged="diffusion",
            snapshots=spec.train.snapshots,
            device=inputs.device,
            minutes=job.minutes_left,
            processes=together,
        )
    )
    if together.leads:
        save_file(training.averaged.state_dict(), out / weights_name())
        for name in map(weights_name, spec.train.snapshots):
            shutil.copyfile(job.state / name, out / name)
        training.write_history(out / "history.csv")


def _scale(inputs: Inputs, spec: Backbone, latents: MappedLatents) -> tuple[Tensor, Tensor]:
    """Return mean and divisor of each channel, (C,) float64, of the train split's latents.

    A draw is a posterior mean plus independent noise, so the variances add up.
    """
    stated = inputs.json("latents", "latents.json")
    statistics = ChannelStatistics.from_json(stated["channel_statistics"])
    if spec.latent_scale == "means":
        return statistics.mean, statistics.scale
    by_channel = stated.get("posterior_variance_by_channel")
    if by_channel is None:  # encoded by an earlier version
        noise = mean_variance(latents.logvar, inputs.data.split("train"))  # (C,)
    else:  # the same numbers, without reading all latents in every process
        noise = torch.tensor(by_channel, dtype=torch.float64)  # (C,)
    drawn = (statistics.std.square() + noise).sqrt()  # (C,)
    return statistics.mean, drawn.where(drawn > 0, torch.ones_like(drawn))


def _model(
    inputs: Inputs, spec: Backbone, posteriors: Posteriors, scale: tuple[Tensor, Tensor]
) -> LatentDiffusion | LatentDenoiser:
    """Return the model with its initial weights and the scale of its training latents."""
    channels, height, width = posteriors.shape
    model = build_diffusion(spec, (channels, height, width), inputs.data.num_classes)
    model.network.initialise(inputs.generator("weights"))
    model.set_normalisation(*scale)
    return model


def measure_fisher(inputs: Inputs, spec: LearnedFisherOptions, out: Path) -> Found:
    """Write measurements.json, with the class of every latent and without it, and fir_images.png.

    A model trained without classes is measured without them only, and one always trained with them
    with them only. The upper row of the picture has the images that add most to FIR (to that
    without classes where it is measured), the lower row those that add least.
    """
    data = inputs.data
    split = data.split(spec.split)
    images = thinned(split, spec.latents, data.labels[split])
    latents = inputs.latents[images]
    source = inputs.folder("diffusion")
    _, channels, height, width = latents.mean.shape
    shape = (channels, height, width)
    model = load_diffusion(source, shape, data.num_classes, inputs.job.device)
    backbone = backbone_spec(read_card(source)["spec"])
    trained = backbone_denoiser(model, backbone)
    # posterior samples, because the model was not trained on posterior means
    posterior = Posterior(latents.mean, latents.logvar)
    drawn = posterior.sample(inputs.generator("posterior"))
    x, labels = model.normalise(drawn.to(inputs.device)), latents.labels.to(inputs.device)
    found: list[Measurement] = []
    without: list[tuple[str, str]] = []
    for ending, condition, learned, reason in (
        ("", labels, backbone.conditional, UNCONDITIONAL),
        ("_unconditional", None, backbone.unconditional, CONDITIONAL),
    ):
        if not learned:
            without += [(f"fisher.learned_{name}{ending}", reason) for name in HEADLINE]
            continue
        curve = measure_learned_fisher(
            x,
            trained.denoise,
            spec.variances,
            seed=inputs.stream("noise"),
            probes=spec.probes,
            labels=condition,
            draws=spec.draws,
            sigma_range=trained.sigma_range,
        )
        found += curve.measurements
    hardest = images[curve.fir_by_datum.argsort(descending=True, stable=True)]
    shown = torch.cat([hardest[:PICTURED], hardest[-PICTURED:]])
    write_image_grid(out / "fir_images.png", data.images[shown], columns=PICTURED)
    return found, without
