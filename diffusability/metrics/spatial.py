"""Spatial structure: how the similarity of two latent tokens depends on their positions.

LDS, CDS, SRSS and RMSC of iREPA (arXiv 2512.10794), as "Diffusing in the Right Space"
(arXiv 2606.03578) applies them to latents. Tokens are L2-normalised, similarity is the cosine,
grid distance is Manhattan in tokens.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diffusability.errors import MeasurementError
from diffusability.metrics.latent_set import LatentSet, check_masks
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import mean_and_stderr

_TOKEN_EPS = torch.finfo(torch.float64).tiny  # only a token of zeros has no direction
_MINIMUM_SHARE = 0.25  # 64 of 256 tokens in iREPA's comparison
_WORKING_COPIES = 2  # (T, T) arrays alive at once per image


@dataclass(frozen=True)
class GridScales:
    """Distances, in tokens, that the statistics of one grid use.

    Attributes:
        near: distance of neighbours.
        far: smallest distance of a far pair.
        decay: largest distance of the line that CDS fits, from 1.
    """

    near: int
    far: int
    decay: int


def grid_scales(height: int, width: int) -> GridScales:
    """Scale iREPA's radii (1, 6 and 8 on a 16x16 grid) to another grid.

    Args:
        height, width: grid size in tokens.

    Returns:
        near = 1, far = round(6/16 side) and decay = round(side/2), both at least 2, where side is
        the shorter side and halves round up.

    Raises:
        MeasurementError: the grid has no pair of tokens that far apart.
    """
    side = min(height, width)
    far = max(2, math.floor(side * 6 / 16 + 0.5))
    decay = max(2, math.floor(side / 2 + 0.5))
    if height + width - 2 < max(far, decay):
        raise MeasurementError(
            f"A {height}x{width} grid has no tokens {max(far, decay)} apart: spatial structure is "
            "not defined on it"
        )
    return GridScales(1, far, decay)


def grid_distances(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return the (T, T) Manhattan distances between the T = H*W tokens, row by row."""
    index = torch.arange(height * width, device=device)
    row, column = index // width, index % width  # (T,) each
    return (row[:, None] - row).abs() + (column[:, None] - column).abs()  # (T, T)


def token_cosines(latents: Tensor) -> Tensor:
    """Return the cosine similarity of every two tokens of each image.

    Args:
        latents: (B, C, H, W).

    Returns:
        (B, T, T), T = H*W, in [-1, 1]; a token of zeros has cosine 0 with every other.
    """
    tokens = normalize(latents.flatten(2).mT, dim=-1, eps=_TOKEN_EPS)  # (B, T, C)
    return tokens @ tokens.mT  # (B, T, T)


def local_distant_similarity(cosines: Tensor, distances: Tensor, scales: GridScales) -> Tensor:
    """Return LDS of each image: mean cosine of neighbours minus that of far pairs (iREPA).

    Args:
        cosines: (B, T, T) of ``token_cosines``.
        distances: (T, T) of ``grid_distances``.
        scales: pairs at distance ``near`` are neighbours, pairs at ``far`` or more are far.

    Returns:
        (B,) in [-2, 2]; HIGHER is better.
    """
    near = _pair_weights(distances == scales.near)  # (T, T)
    far = _pair_weights(distances >= scales.far)  # (T, T)
    weights = (near - far).to(cosines.dtype)  # (T, T)
    return cosines.flatten(1) @ weights.flatten()  # (B,)


def cosine_decay_slope(cosines: Tensor, distances: Tensor, scales: GridScales) -> Tensor:
    """Return CDS of each image: minus the slope of mean cosine against distance (iREPA).

    Args:
        cosines: (B, T, T) of ``token_cosines``.
        distances: (T, T) of ``grid_distances``.
        scales: the least-squares line runs over distances 1 to ``decay``.

    Returns:
        (B,) cosine lost per token of distance; HIGHER is better.
    """
    steps = torch.arange(1, scales.decay + 1, dtype=cosines.dtype, device=cosines.device)  # (D,)
    centred = steps - steps.mean()  # (D,)
    slope_weights = centred / centred.square().sum()  # (D,)
    # a least-squares slope is linear in its ordinates, so the whole metric is one weighted sum
    weights = torch.zeros_like(cosines[0])  # (T, T)
    for step, weight in zip(steps.tolist(), slope_weights.tolist(), strict=True):
        weights -= weight * _pair_weights(distances == step).to(weights)
    return cosines.flatten(1) @ weights.flatten()  # (B,)


def root_mean_square_contrast(cosines: Tensor) -> Tensor:
    """Return RMSC of each image: sqrt of the mean squared distance of unit tokens to their mean.

    iREPA; the study excludes it because it measures diversity rather than structure.

    Args:
        cosines: (B, T, T) of ``token_cosines``.

    Returns:
        (B,) in [0, 1]; no direction is claimed.
    """
    mean_norm = torch.diagonal(cosines, dim1=1, dim2=2).mean(dim=1)  # (B,)
    return (mean_norm - cosines.mean(dim=(1, 2))).clamp(min=0).sqrt()  # (B,)


def semantic_region_self_similarity(
    cosines: Tensor,
    distances: Tensor,
    scales: GridScales,
    foreground: Tensor,
    background: Tensor,
) -> Tensor:
    """Return SRSS of each image: foreground tokens against near foreground and far background.

    An anchor is a foreground token with a foreground neighbour at distance ``near`` and a
    background token at ``far`` or more; SRSS averages, over anchors, the mean cosine to those
    neighbours minus the mean cosine to those far background tokens (iREPA).

    Args:
        cosines: (B, T, T) of ``token_cosines``.
        distances: (T, T) of ``grid_distances``.
        scales: the two distances.
        foreground: (B, T) bool.
        background: (B, T) bool; a token may be neither.

    Returns:
        (B,) in [-2, 2]; HIGHER is better; NaN where an image has no anchor.
    """
    inside, outside = foreground.to(cosines.dtype), background.to(cosines.dtype)  # (B, T) each
    near = (distances == scales.near).to(cosines.dtype)  # (T, T)
    far = (distances >= scales.far).to(cosines.dtype)  # (T, T)
    neighbours, strangers = inside @ near, outside @ far  # (B, T) counts
    near_sum = ((cosines * near) @ inside[:, :, None])[:, :, 0]  # (B, T)
    far_sum = ((cosines * far) @ outside[:, :, None])[:, :, 0]  # (B, T)
    anchors = foreground & (neighbours > 0) & (strangers > 0)  # (B, T)
    contrast = near_sum / neighbours - far_sum / strangers  # (B, T)
    total = contrast.where(anchors, torch.zeros_like(contrast)).sum(dim=1)  # (B,)
    return total / anchors.sum(dim=1)  # (B,), 0/0 = NaN without an anchor


def balanced_images(foreground: Tensor, background: Tensor) -> Tensor:
    """Return (B,) bool: at least a quarter of the tokens foreground and a quarter background.

    Args:
        foreground: (B, T) bool. background: (B, T) bool.
    """
    inside, outside = (part.to(torch.float64).mean(dim=1) for part in (foreground, background))
    return (inside >= _MINIMUM_SHARE) & (outside >= _MINIMUM_SHARE)


@dataclass(frozen=True)
class _Regions:
    """(N, T) bool tokens of the foreground and of the background; some may be neither."""

    foreground: Tensor
    background: Tensor

    @classmethod
    def of(cls, masks: Tensor, undecided: Tensor | None, data: LatentSet) -> "_Regions":
        """Return the regions of checked (N, H, W) shares of foreground and undecided pixels."""
        foreground = check_masks(masks, data).flatten(1) > 0  # (N, T)
        if undecided is None:
            return cls(foreground, ~foreground)
        unclear = undecided.to(data.device).flatten(1) > 0  # (N, T)
        return cls(foreground, ~foreground & ~unclear)


def measure_spatial(
    latents: Tensor, masks: Tensor | None, undecided: Tensor | None = None
) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Measure spatial structure on z-scored latents (headline) and on raw ones (``_raw``).

    The standard error is over images, with the normalisation held fixed.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units.
        masks: (N, H, W) foreground fraction of each token in [0, 1]; a token is foreground if any
            of its pixels is. An image without any foreground (one that has no mask) is left out
            of SRSS and counted in a flag. None leaves SRSS out.
        undecided: (N, H, W) share of pixels that are neither foreground nor background; a token
            with such pixels and without foreground is neither. None: there are none.

    Returns:
        Measurements, and (metric, reason) for SRSS where masks are given and fewer than two images
        have both enough foreground and enough background. The measurements are ``spatial.lds``,
        ``spatial.cds`` and ``spatial.srss`` (HIGHER is better), ``spatial.rmsc``
        (no direction), and each again with ``_raw``; all pure numbers but CDS, which is per token.

    Raises:
        MeasurementError: the grid is too small, the latents have collapsed, or masks are of
            another grid, outside [0, 1], or all without foreground.
    """
    data = LatentSet(latents)
    scales = grid_scales(data.height, data.width)
    regions = None
    if masks is not None:
        regions = _Regions.of(masks, undecided, data)
    flags = _without_foreground(regions)
    measurements, without = [], []
    for normalised, suffix in ((True, ""), (False, "_raw")):
        per_image = _per_image_statistics(data, normalised, scales, regions)
        options = asdict(scales) | {"distance": "manhattan", "normalise": normalised}
        if regions is not None and len(per_image["srss"]) < 2:
            del per_image["srss"]
            without.append((f"spatial.srss{suffix}", _unbalanced(regions)))
        measurements += [
            _summary(name, suffix, values, options, flags if name == "srss" else ())
            for name, values in per_image.items()
        ]
    return data.flagged(measurements), without


def _pair_weights(pairs: Tensor) -> Tensor:
    """Return float64 weights that average over the chosen pairs of a (T, T) table."""
    return pairs.to(torch.float64) / pairs.sum()


def _unbalanced(regions: _Regions) -> str:
    """Return why too few images are left for SRSS."""
    usable = int(balanced_images(regions.foreground, regions.background).sum())
    few = [
        int((part.to(torch.float64).mean(dim=1) < _MINIMUM_SHARE).sum())
        for part in (regions.foreground, regions.background)
    ]
    return (
        f"SRSS needs two images with at least {_MINIMUM_SHARE:.0%} foreground and "
        f"{_MINIMUM_SHARE:.0%} background tokens, neighbours in the one and distant tokens in the "
        f"other; {usable} of {len(regions.foreground)} have such shares: {few[0]} have too little "
        f"foreground, {few[1]} too little background; give pixel masks that separate the object"
    )


def _per_image_statistics(
    data: LatentSet, normalised: bool, scales: GridScales, regions: _Regions | None
) -> dict[str, Tensor]:
    """Return every statistic of every image, keyed by its name."""
    distances = grid_distances(data.height, data.width, data.device)  # (T, T)
    names = ("lds", "cds", "rmsc") if regions is None else ("lds", "cds", "rmsc", "srss")
    # filled in place: small results kept between large temporaries would fragment the heap
    nothing = torch.full((data.count,), torch.nan, dtype=torch.float64, device=data.device)
    found = {name: nothing.clone() for name in names}
    for images, block in data.blocks(normalised, _WORKING_COPIES * 8 * distances.numel()):
        cosines = token_cosines(block)  # (B, T, T)
        found["lds"][images] = local_distant_similarity(cosines, distances, scales)
        found["cds"][images] = cosine_decay_slope(cosines, distances, scales)
        found["rmsc"][images] = root_mean_square_contrast(cosines)
        if regions is not None:
            parts = regions.foreground[images], regions.background[images]  # (B, T) each
            values = semantic_region_self_similarity(cosines, distances, scales, *parts)  # (B,)
            found["srss"][images] = values.where(balanced_images(*parts), torch.nan)
    return {name: values[~values.isnan()] for name, values in found.items()}


def _without_foreground(regions: _Regions | None) -> tuple[str, ...]:
    """Return a flag that counts the images without foreground."""
    count = 0 if regions is None else int((~regions.foreground.any(dim=1)).sum())
    return (f"{count} images without foreground left out",) if count else ()


def _summary(
    name: str, suffix: str, values: Tensor, options: dict[str, Any], flags: tuple[str, ...]
) -> Measurement:
    """Average one statistic over images."""
    value, stderr = mean_and_stderr(values, f"spatial.{name}")
    extra = {"minimum_share": _MINIMUM_SHARE, "foreground": "any pixel"} if name == "srss" else {}
    return Measurement(
        f"spatial.{name}{suffix}",
        value,
        stderr,
        values.numel(),
        "1/token" if name == "cds" else "1",
        None if name == "rmsc" else True,
        options | extra,
        flags,
    )
