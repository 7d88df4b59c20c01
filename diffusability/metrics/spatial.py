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
    cosines: Tensor, distances: Tensor, scales: GridScales, foreground: Tensor
) -> Tensor:
    """Return SRSS of each image: foreground tokens against near foreground and far background.

    An anchor is a foreground token with a foreground neighbour at distance ``near`` and a
    background token at ``far`` or more; SRSS averages, over anchors, the mean cosine to those
    neighbours minus the mean cosine to those far background tokens (iREPA).

    Args:
        cosines: (B, T, T) of ``token_cosines``.
        distances: (T, T) of ``grid_distances``.
        scales: the two distances.
        foreground: (B, T) bool; any other token is background.

    Returns:
        (B,) in [-2, 2]; HIGHER is better; NaN where an image has no anchor.
    """
    inside = foreground.to(cosines.dtype)  # (B, T)
    near = (distances == scales.near).to(cosines.dtype)  # (T, T)
    far = (distances >= scales.far).to(cosines.dtype)  # (T, T)
    neighbours, strangers = inside @ near, (1 - inside) @ far  # (B, T) counts
    near_sum = ((cosines * near) @ inside[:, :, None])[:, :, 0]  # (B, T)
    far_sum = ((cosines * far) @ (1 - inside)[:, :, None])[:, :, 0]  # (B, T)
    anchors = foreground & (neighbours > 0) & (strangers > 0)  # (B, T)
    contrast = near_sum / neighbours - far_sum / strangers  # (B, T)
    total = contrast.where(anchors, torch.zeros_like(contrast)).sum(dim=1)  # (B,)
    return total / anchors.sum(dim=1)  # (B,), 0/0 = NaN without an anchor


def balanced_images(foreground: Tensor) -> Tensor:
    """Return (B,) bool: at least a quarter of the tokens foreground and a quarter background.

    Args:
        foreground: (B, T) bool.
    """
    share = foreground.to(torch.float64).mean(dim=1)  # (B,)
    return (share >= _MINIMUM_SHARE) & (share <= 1 - _MINIMUM_SHARE)


def measure_spatial(latents: Tensor, masks: Tensor | None) -> list[Measurement]:
    """Measure spatial structure on z-scored latents (headline) and on raw ones (``_raw``).

    The standard error is over images, with the normalisation held fixed.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units.
        masks: (N, H, W) foreground fraction of each token in [0, 1]; a token is foreground if any
            of its pixels is. An image without any foreground (one that has no mask) is left out
            of SRSS and counted in a flag. None leaves SRSS out.

    Returns:
        ``spatial.lds``, ``spatial.cds`` and ``spatial.srss`` (HIGHER is better), ``spatial.rmsc``
        (no direction), and each again with ``_raw``; all pure numbers but CDS, which is per token.

    Raises:
        MeasurementError: the grid is too small, the latents have collapsed, or no image has both
            enough foreground and enough background.
    """
    data = LatentSet(latents)
    scales = grid_scales(data.height, data.width)
    foreground = None
    if masks is not None:
        foreground = check_masks(masks, data).flatten(1) > 0  # (N, T)
        _require_balanced(foreground)
    flags = _without_foreground(foreground)
    measurements = []
    for normalised, suffix in ((True, ""), (False, "_raw")):
        per_image = _per_image_statistics(data, normalised, scales, foreground)
        options = asdict(scales) | {"distance": "manhattan", "normalise": normalised}
        measurements += [
            _summary(name, suffix, values, options, flags if name == "srss" else ())
            for name, values in per_image.items()
        ]
    return data.flagged(measurements)


def _pair_weights(pairs: Tensor) -> Tensor:
    """Return float64 weights that average over the chosen pairs of a (T, T) table."""
    return pairs.to(torch.float64) / pairs.sum()


def _require_balanced(foreground: Tensor) -> None:
    """Raise unless some image passes the mask filter."""
    if bool(balanced_images(foreground).any()):
        return
    share = foreground.to(torch.float64).mean(dim=1)  # (N,)
    raise MeasurementError(
        f"SRSS: none of {share.numel()} images has at least {_MINIMUM_SHARE:.0%} foreground and "
        f"{_MINIMUM_SHARE:.0%} background tokens: {int((share < _MINIMUM_SHARE).sum())} have too "
        f"little foreground, {int((share > 1 - _MINIMUM_SHARE).sum())} too little background. "
        "Give pixel masks that separate the object, or leave SRSS out"
    )


def _per_image_statistics(
    data: LatentSet, normalised: bool, scales: GridScales, foreground: Tensor | None
) -> dict[str, Tensor]:
    """Return every statistic of every image, keyed by its name."""
    distances = grid_distances(data.height, data.width, data.device)  # (T, T)
    names = ("lds", "cds", "rmsc") if foreground is None else ("lds", "cds", "rmsc", "srss")
    # filled in place: small results kept between large temporaries would fragment the heap
    nothing = torch.full((data.count,), torch.nan, dtype=torch.float64, device=data.device)
    found = {name: nothing.clone() for name in names}
    for images, block in data.blocks(normalised, _WORKING_COPIES * 8 * distances.numel()):
        cosines = token_cosines(block)  # (B, T, T)
        found["lds"][images] = local_distant_similarity(cosines, distances, scales)
        found["cds"][images] = cosine_decay_slope(cosines, distances, scales)
        found["rmsc"][images] = root_mean_square_contrast(cosines)
        if foreground is not None:
            inside = foreground[images]  # (B, T)
            values = semantic_region_self_similarity(cosines, distances, scales, inside)  # (B,)
            found["srss"][images] = values.where(balanced_images(inside), torch.nan)
    return {name: values[~values.isnan()] for name, values in found.items()}


def _without_foreground(foreground: Tensor | None) -> tuple[str, ...]:
    """Return a flag that counts the images of a (N, T) foreground that have none."""
    count = 0 if foreground is None else int((~foreground.any(dim=1)).sum())
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
