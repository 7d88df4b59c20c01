"""Stage `reconstruction`: what a tokenizer loses, before any diffusion."""

from pathlib import Path

import torch
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.images import to_uint8
from diffusability.data.load import load_dataset
from diffusability.figures.image_grid import write_image_grid
from diffusability.latents.shards import Latents
from diffusability.metrics.frechet import measure_frechet
from diffusability.metrics.reconstruction import measure_posterior, measure_reconstruction
from diffusability.stages.features import BATCH, Extractor
from diffusability.stages.measurements import write_measurements
from diffusability.stages.open import open_latents, open_tokenizer
from diffusability.study.metrics import ReconstructionMetric
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.posterior import LOGVAR_RANGE

PICTURED = 16
KL = "reconstruction.kl"


def make(job: Job, folder: Path) -> None:
    """Write measurements.json and reconstructions.png (originals above reconstructions)."""
    spec = ReconstructionMetric.model_validate(job.spec)
    data = load_dataset(job.input("dataset"))
    chosen = data.split(spec.split)
    latents = open_latents(job, data)[chosen]
    originals = data.images[chosen]  # (n, C, H, W) uint8
    decoded = decode(open_tokenizer(job, data), latents, job.device)
    extractor = Extractor(job, spec.extractor, data)
    frechet = measure_frechet(
        reference=extractor.moments(extractor(originals).vectors),
        generated=extractor.shard_moments(extractor(decoded).vectors),
        stage="reconstruction",
    )
    pairs = zip(originals.split(BATCH), decoded.split(BATCH), strict=True)
    moments = zip(latents.mean.split(BATCH), latents.logvar.split(BATCH), strict=True)
    posterior = measure_posterior(moments)
    impossible = []
    if bool((latents.logvar <= LOGVAR_RANGE[0]).all()):
        posterior = [m for m in posterior if m.metric != KL]
        impossible = [(KL, "the encoder is deterministic, its divergence is infinite")]
    write_measurements(folder, [*measure_reconstruction(pairs), *posterior, frechet], impossible)
    pictured = torch.cat([originals[:PICTURED], decoded[:PICTURED]])
    write_image_grid(folder / "reconstructions.png", pictured, columns=PICTURED)


@torch.no_grad()
def decode(tokenizer: Tokenizer, latents: Latents, device: str) -> Tensor:
    """Return the (n, C, H, W) uint8 reconstructions from posterior means."""
    parts = [to_uint8(tokenizer.decode(z.to(device))).cpu() for z in latents.mean.split(BATCH)]
    return torch.cat(parts)
