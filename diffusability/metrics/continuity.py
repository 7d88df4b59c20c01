"""Manifold continuity: do images half way between neighbouring latents still look real (iFID).

Source: "Making Reconstruction FID Predictive of Diffusion Generation FID" (arXiv 2603.05630): each
latent is interpolated with a near neighbour of its own, decoded, and the decoded images' Fréchet
distance from the real images is taken. That paper's text and its code differ (nearest neighbour and
straight line; one of ten neighbours, drawn, and slerp), so both are options here.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from diffusability.data.images import Rows
from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import FeatureMoments, moments_of_batches
from diffusability.metrics.frechet import measure_frechet
from diffusability.metrics.latent_set import ImageVariation
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.nearest_neighbours import NeighbourTable
from diffusability.study.core.names import distance_name

Choice = Literal["weighted", "nearest"]
Interpolation = Literal["slerp", "linear"]

_PARALLEL = 1e-6  # sine of the angle below which slerp equals the straight line up to rounding


def choose_neighbours(
    table: NeighbourTable, *, choice: Choice, generator: torch.Generator
) -> Tensor:
    """Choose one neighbour of every query.

    Args:
        table: the K nearest neighbours.
        choice: "nearest", or "weighted": drawn with probability softmax(-mean squared difference)
            over the K; close to uniform where the differences per dimension are small.
        generator: CPU generator of the draw.

    Returns:
        (N,) int64 positions in the pool.

    Raises:
        MeasurementError: if the choice is unknown.
    """
    if choice == "nearest":
        return table.indices[:, 0]
    if choice != "weighted":
        raise MeasurementError(f"neighbour choice {choice!r} is neither 'weighted' nor 'nearest'")
    weights = torch.softmax(-table.mean_squared_differences.cpu(), dim=1)  # (N, K)
    drawn = torch.multinomial(weights, 1, generator=generator).to(table.indices.device)
    return table.indices.gather(1, drawn)[:, 0]


def interpolate(a: Tensor, b: Tensor, *, alpha: float, mode: Interpolation) -> Tensor:
    """Return the latents at ``alpha`` of the way from ``a`` to ``b``.

    Linear: (1 - alpha) a + alpha b. Slerp, with w the angle between the flattened latents:
    (sin((1 - alpha) w) a + sin(alpha w) b) / sin w, which keeps the norm where both have the same;
    (anti)parallel latents have no unique arc and take the straight line.

    Args:
        a: (N, ...) latents.
        b: (N, ...) latents.
        alpha: position in [0, 1].
        mode: "slerp" or "linear".

    Returns:
        Latents of ``a``'s shape and dtype.

    Raises:
        MeasurementError: if shapes differ, alpha is outside [0, 1], or the mode is unknown.
    """
    if a.shape != b.shape or not 0 <= alpha <= 1 or mode not in ("slerp", "linear"):
        raise MeasurementError(
            f"cannot interpolate {tuple(a.shape)} and {tuple(b.shape)} at {alpha} by {mode!r}; "
            "shapes must agree, alpha lie in [0, 1], and the mode be 'slerp' or 'linear'"
        )
    x, y = a.flatten(1).to(torch.float64), b.flatten(1).to(torch.float64)  # (N, d)
    weight_a = torch.full((len(x), 1), 1 - alpha, dtype=torch.float64, device=x.device)
    weight_b = torch.full_like(weight_a, alpha)
    if mode == "slerp":
        smallest = torch.finfo(x.dtype).tiny  # latents of any scale have an angle
        cosine = torch.nn.functional.cosine_similarity(x, y, dim=1, eps=smallest)[:, None]
        angle = torch.arccos(cosine.clamp(-1, 1))  # (N, 1)
        sine = angle.sin()
        curved = sine > _PARALLEL
        safe = torch.where(curved, sine, torch.ones_like(sine))
        weight_a = torch.where(curved, ((1 - alpha) * angle).sin() / safe, weight_a)
        weight_b = torch.where(curved, (alpha * angle).sin() / safe, weight_b)
    return (weight_a * x + weight_b * y).view(a.shape).to(a.dtype)


def interpolated_latents(
    queries: Tensor,
    pool: Rows,
    chosen: Tensor,
    *,
    alpha: float,
    mode: Interpolation,
    rows: Tensor,
    batch_size: int,
) -> Iterator[Tensor]:
    """Yield batches of latents between queries and their chosen neighbours.

    Args:
        queries: (N, ...) latents.
        pool: (M, ...) latents.
        chosen: (N,) positions of the neighbours in the pool.
        alpha: position on the way to the neighbour.
        mode: "slerp" or "linear".
        rows: (R,) queries to take, in this order.
        batch_size: latents per batch.

    Yields:
        (<= batch_size, ...) latents, on the queries' device.
    """
    for part in rows.split(batch_size):
        neighbour = pool[chosen[part.to(chosen.device)].cpu()]
        start = queries[part.to(queries.device)]
        yield interpolate(start, neighbour.to(queries.device), alpha=alpha, mode=mode)


def measure_interpolation_frechet(
    queries: Tensor,
    pool: Rows,
    table: NeighbourTable,
    *,
    decode: Callable[[Tensor], Tensor],
    extract: Callable[[Tensor], Tensor],
    reference: FeatureMoments,
    generator: torch.Generator,
    originals: Tensor | None = None,
    alpha: float = 0.5,
    interpolation: Interpolation = "slerp",
    choice: Choice = "weighted",
    batch_size: int = 64,
    shards: int = 20,
) -> Measurement:
    """Measure the Fréchet distance of decoded interpolations from real images.

    Args:
        queries: (N, C, H, W) latents, passed to ``decode`` as they are.
        pool: (M, C, H, W) latents that the table's indices point into; may be on disk.
        table: neighbours of the queries in the pool.
        decode: maps (B, C, H, W) latents to images.
        extract: maps images to (B, D) features.
        reference: moments of the real images' features.
        generator: CPU generator of neighbour draws and of the random shards.
        originals: (N, D) features of the queries' images if the reference contains them; None if
            the reference is of other images.
        alpha: position between the latent (0) and its neighbour (1).
        interpolation: "slerp" (default of the source's code) or "linear".
        choice: "weighted" (default of the source's code) or "nearest".
        batch_size: latents decoded at once; the value does not depend on it.
        shards: random shards for the jackknife standard error, at least 2.

    Returns:
        ``continuity.ifd_<extractor>`` in feature units squared; LOWER is better. It is the iFID of
        the source only if the extractor is Inception. The jackknife standard error resamples
        queries given the pool; a query's image is left out of the reference with it. Intervals
        cover too little where the distance, which is never negative, is below three standard
        errors. If the queries are the pool, each query also appears in the interpolations of
        others; the error ignores this (a fifth too small in simulations with a given reference)
        and the flag ``queries-are-the-pool`` is set.

    Raises:
        MeasurementError: if the table does not belong to queries and pool, there are fewer than
            two images per shard, features and reference do not belong together, or the queries
            have collapsed.
    """
    _check_table(table, queries, pool)
    if originals is not None and len(originals) != len(queries):
        raise MeasurementError(
            f"{len(originals)} features are not those of the images of {len(queries)} latents; "
            "give one vector per query"
        )
    if shards < 2 or len(queries) < 2 * shards:
        raise MeasurementError(
            f"{shards} shards need shards >= 2 and {2 * shards} latents, there are {len(queries)}"
        )
    variation = ImageVariation()
    for rows in torch.arange(len(queries)).split(batch_size):
        variation.add(queries[rows])
    dead = variation.live_channels("kept")[1]
    chosen = choose_neighbours(table, choice=choice, generator=generator)
    name, side, parts, own = reference.extractor, reference.resolution, [], []
    for rows in torch.randperm(len(queries), generator=generator).tensor_split(shards):
        latents = interpolated_latents(
            queries, pool, chosen, alpha=alpha, mode=interpolation, rows=rows, batch_size=batch_size
        )
        features = (extract(decode(batch)).to(reference.mean.device) for batch in latents)
        parts.append(moments_of_batches(features, extractor=name, resolution=side))
        if originals is not None:
            real = originals[rows.to(originals.device)].to(reference.mean.device)
            own.append(FeatureMoments.from_features(real, extractor=name, resolution=side))
    result = measure_frechet(
        reference=reference, generated=parts, paired=own or None, stage="continuity"
    )
    shared = queries.shape == pool.shape and torch.equal(
        queries, pool[torch.arange(len(pool))].to(queries.device)
    )
    return replace(
        result,
        metric=f"continuity.{distance_name('ifd', reference.extractor)}",
        options=result.options
        | {
            "alpha": alpha,
            "interpolation": interpolation,
            "choice": choice,
            "neighbours": table.indices.shape[1],
            "distance": table.distance,
            "same_class": table.same_class,
            "pool": len(pool),
        },
        flags=(*result.flags, *(("queries-are-the-pool",) if shared else ()), *dead),
    )


def _check_table(table: NeighbourTable, queries: Tensor, pool: Rows) -> None:
    if len(table.indices) != len(queries) or int(table.indices.max()) >= len(pool):
        raise MeasurementError(
            f"the neighbour table of {len(table.indices)} queries does not belong to "
            f"{len(queries)} queries and {len(pool)} pool latents; recompute the neighbours"
        )
