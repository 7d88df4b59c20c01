"""Every latent metric as a call on latents of any device, for the tests of devices."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusability.metrics.continuity import measure_interpolation_frechet
from diffusability.metrics.equivariance import measure_equivariance
from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.metrics.fisher import measure_fisher
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.nearest_neighbours import nearest_neighbours
from diffusability.metrics.sample_fisher import pixel_curves
from diffusability.metrics.semantics import measure_semantics
from diffusability.metrics.smoothness import measure_smoothness
from diffusability.metrics.spatial import measure_spatial
from diffusability.metrics.uniformity import measure_uniformity
from diffusability.metrics.velocity import measure_velocity

IMAGES, CHANNELS, SIDE = 90, 4, 6


def latent_set(device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """Return (N, C, H, W) smooth latents, (N,) labels and (N, H, W) masks, equal on all devices."""
    index = torch.arange(SIDE)
    factor = torch.linalg.cholesky(0.8 ** (index[:, None] - index).abs().double())
    noise = torch.randn(IMAGES, CHANNELS, SIDE, SIDE, generator=_generator(1), dtype=torch.float64)
    labels = torch.arange(IMAGES) % 2
    latents = (factor @ noise @ factor.T + labels[:, None, None, None]).float()
    masks = torch.zeros(IMAGES, SIDE, SIDE)
    masks[:, 1:5, 1:5] = 0.5
    return latents.to(device), labels.to(device), masks.to(device)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _velocity(latents: Tensor, labels: Tensor, masks: Tensor) -> list[Measurement]:
    generator = _generator()
    return [
        m
        for normalise in (True, False)
        for m in measure_velocity(
            latents, labels, generator=generator, normalise=normalise, halvings=1 + normalise
        )
    ]


def _semantics(latents: Tensor, labels: Tensor, masks: Tensor) -> list[Measurement]:
    training = 1.1 * latents.double().mean(dim=(2, 3)), labels
    masked, _ = measure_semantics(latents, labels, masks, generator=_generator(), training=training)
    return masked + measure_semantics(latents, labels, None, generator=_generator())[0]


def _spatial(latents: Tensor, labels: Tensor, masks: Tensor) -> list[Measurement]:
    return measure_spatial(latents, masks)[0] + measure_spatial(latents, None)[0]


def _uniformity(latents: Tensor, labels: Tensor, masks: Tensor) -> list[Measurement]:
    return measure_uniformity(latents, seed=0, points=60, repeats=2, perplexity=10, iterations=250)


def _continuity(latents: Tensor, labels: Tensor, masks: Tensor) -> list[Measurement]:
    reference = FeatureMoments.from_features(latents.mean(dim=(2, 3)), extractor="mean")
    found = []
    for distance, classes in (("cosine", None), ("l2", labels)):
        table = nearest_neighbours(
            latents,
            latents,
            neighbours=3,
            distance=distance,
            query_labels=classes,
            pool_labels=classes,
            exclude_self=True,
        )
        found.append(
            measure_interpolation_frechet(
                latents,
                latents,
                table,
                decode=torch.tanh,
                extract=lambda images: images.mean(dim=(2, 3)),
                reference=reference,
                generator=_generator(),
            )
        )
    return found


def _equivariance(latents: Tensor, labels: Tensor, masks: Tensor) -> list[Measurement]:
    ramp = torch.arange(1.0, latents.shape[1] + 1, device=latents.device)[:, None, None]
    measurements, not_applicable = measure_equivariance(
        lambda images: ramp * images.cumsum(dim=3), latents.split(40)
    )
    assert [cell for cell, _ in not_applicable] == ["scale0.75", "scale"]
    return measurements


def _fisher(latents: Tensor, labels: Tensor, masks: Tensor) -> list[Measurement]:
    v, images = (0.1, 1.0), torch.rand(IMAGES, 1, SIDE, SIDE, generator=_generator(2))
    classes = torch.arange(IMAGES) % 2
    options = {"blocks": 3, "samples": 8, "seed": 0}
    pixels = pixel_curves(images, torch.arange(IMAGES), classes, v=v, **options)
    measured, not_applicable = measure_fisher(latents, labels, pixels, v, blocks=3, samples=8)
    assert all(name.endswith("_empirical") for name, _ in not_applicable)
    return measured


def _smoothness(latents: Tensor, labels: Tensor, masks: Tensor) -> list[Measurement]:
    return measure_smoothness(latents)


CASES: dict[str, Callable[[Tensor, Tensor, Tensor], list[Measurement]]] = {
    "velocity": _velocity,
    "semantics": _semantics,
    "spatial": _spatial,
    "smoothness": _smoothness,
    "continuity": _continuity,
    "uniformity": _uniformity,
    "equivariance": _equivariance,
    "fisher": _fisher,
}
