"""Stage `learned_fisher`: Fisher geometry of latents as a trained model has learned it."""

from pathlib import Path

import torch

from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.data.load import load_dataset
from diffusability.diffusion.load import backbone_spec, load_diffusion
from diffusability.fisher.backbone_denoiser import backbone_denoiser
from diffusability.metrics.learned_fisher import HEADLINE, measure_learned_fisher
from diffusability.metrics.measurement import Measurement
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents
from diffusability.study.metrics import LearnedFisherMetric
from diffusability.tokenizers.posterior import Posterior

UNCONDITIONAL = "the backbone was trained without classes"


def make(job: Job, folder: Path) -> None:
    """Write measurements.json, with the class of every latent and without it.

    A model that was trained without classes is asked without them alone.
    """
    options = dict(job.spec)
    variances = options.pop("variances")
    spec = LearnedFisherMetric.model_validate(options)
    data = load_dataset(job.input("dataset"))
    split = data.split(spec.split)
    count = min(spec.latents, len(split))
    # spread evenly, because an image folder is in the order of its classes
    chosen = split[torch.arange(count) * len(split) // count]
    latents = open_latents(job, data)[chosen]
    source = job.input("diffusion")
    _, channels, height, width = latents.mean.shape
    model = load_diffusion(source, (channels, height, width), data.num_classes, job.device)
    backbone = backbone_spec(read_card(source)["spec"])
    trained = backbone_denoiser(model, backbone)
    # trained on draws of the posteriors, it knows nothing of the distribution of their means
    posterior = Posterior(latents.mean, latents.logvar)
    drawn = posterior.sample(torch.Generator().manual_seed(job.stream("posterior")))
    x, labels = model.normalise(drawn.to(job.device)), latents.labels.to(job.device)
    found: list[Measurement] = []
    for condition in (labels, None) if backbone.conditional else (None,):
        found += measure_learned_fisher(
            x,
            trained.denoise,
            variances,
            seed=job.stream("noise"),
            probes=spec.probes,
            labels=condition,
            draws=spec.draws,
            sigma_range=trained.sigma_range,
        )
    impossible = [] if backbone.conditional else [f"fisher.learned_{name}" for name in HEADLINE]
    write_measurements(folder, found, [(name, UNCONDITIONAL) for name in impossible])
