"""Semantic separability: are latents of one class close to each other?

Latent neighbour consistency (LNC) and linear probing, "Diffusing in the Right Space"
(arXiv 2606.03578), section on semantic separability and Fig. 2.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.latents.channel_statistics import normalise
from diffusability.metrics.latent_set import LatentSet, check_labels, check_masks, classes_of_enough
from diffusability.metrics.linear_probe import ProbeError, linear_probe
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.nearest_neighbours import nearest_neighbours
from diffusability.study.metrics.metric_group import SmallestClass

_HALVINGS = 64
_NO_SPAN = 1e-12  # between chance and ceiling: rounding
_ROOM = 4  # images of a half per neighbour that it uses, below which errors come out too small


def foreground_mean(latents: Tensor, weights: Tensor | None) -> Tensor:
    """Average each latent over its foreground positions.

    Args:
        latents: (B, C, H, W).
        weights: (B, H, W) non-negative with a positive sum, or None for the plain mean.

    Returns:
        (B, C) in the unit of ``latents``.
    """
    if weights is None:
        return latents.mean(dim=(2, 3))  # (B, C)
    total = torch.einsum("bchw,bhw->bc", latents, weights)  # (B, C)
    return total / weights.sum(dim=(1, 2))[:, None]  # (B, C)


def neighbour_consistency(labels: Tensor, neighbours: Tensor, k: int) -> Tensor:
    """Return LNC of each latent: the fraction of its k nearest neighbours with its label.

    Args:
        labels: (N,) integers.
        neighbours: (N, M) indices, nearest first, the latent itself excluded, M >= k.
        k: number of neighbours.

    Returns:
        (N,) float64 in [0, 1]; HIGHER is better.
    """
    same = labels[neighbours[:, :k]] == labels[:, None]  # (N, k)
    return same.to(torch.float64).mean(dim=1)


def consistency_stderr(
    labels: Tensor,
    neighbours: Tensor,
    ks: tuple[int, ...],
    *,
    generator: torch.Generator,
    halvings: int = _HALVINGS,
) -> list[float | None]:
    """Return the standard error of LNC over images at every K, by half-sampling.

    The images of every class are split at random into two halves, LNC is measured in each, and a
    quarter of the squared difference estimates the variance; halvings are averaged. A half uses
    ceil(3 K / 4) neighbours: with K the neighbourhood would reach twice as far, which hides
    variance once K nears the class size, and K / 2 would average over too few. On 3 to 12 Gaussian
    classes in 40 to 480 images the result is 0.81 to 1.15 of the true spread at K = 1 to 20 where
    a half has 4 images or more per neighbour (std / sqrt(N) reaches 0.75, and the delete-one
    jackknife 1.5: neighbours are no smooth function of the sample). With fewer it falls, to 0.41 at
    K = 20 of 40 images, so there is no error then.

    Args:
        labels: (N,) integers.
        neighbours: (N, M) indices, nearest first; M near 4 K + 20 leaves K of them in a half.
        ks: numbers of neighbours.
        generator: draws the halves.
        halvings: number of random halvings.

    Returns:
        One error per K, None where N < ``images_of_an_error(K)``.
    """
    count = labels.numel()
    same = (labels[neighbours] == labels[:, None]).to(torch.float64)  # (N, M)
    variances = torch.zeros(len(ks), dtype=torch.float64)
    for _ in range(halvings):
        shuffled = torch.randperm(count, generator=generator, device=generator.device)
        shuffled = shuffled.to(labels.device)
        by_class = shuffled[labels[shuffled].argsort(stable=True)]  # (N,)
        side = torch.empty_like(labels)
        side[by_class] = torch.arange(count, device=labels.device) % 2  # halves every class
        inside = side[neighbours] == side[:, None]  # (N, M)
        rank = inside.cumsum(dim=1)  # (N, M)
        for index, k in enumerate(ks):
            used = (inside & (rank <= _used(k))).to(torch.float64)  # (N, M)
            own = (same * used).sum(dim=1) / used.sum(dim=1).clamp(min=1)  # (N,)
            difference = float(own[side == 0].mean() - own[side == 1].mean())
            variances[index] += difference**2 / (4 * halvings)
    enough = [count >= images_of_an_error(k) for k in ks]
    return [
        e if known else None for e, known in zip(variances.sqrt().tolist(), enough, strict=True)
    ]


def images_of_an_error(k: int) -> int:
    """Return the least number of images for a standard error of LNC with k neighbours."""
    return 2 * _ROOM * _used(k)


def _used(k: int) -> int:
    """Return the number of neighbours that a half uses in place of k."""
    return -(-3 * k // 4)


@dataclass(frozen=True)
class ConsistencyRange:
    """LNC at chance level and at best.

    Attributes:
        chance: expected LNC with shuffled labels, the mean over images of (n_c - 1) / (N - 1).
        ceiling: LNC of perfectly separated classes, the mean of min(1, (n_c - 1) / k).
    """

    chance: float
    ceiling: float


def consistency_range(labels: Tensor, k: int) -> ConsistencyRange:
    """Return chance level and ceiling of LNC for these labels.

    Args:
        labels: (N,) integers.
        k: number of neighbours.

    Raises:
        MeasurementError: one class, or only classes of one image.
    """
    _, index, sizes = labels.unique(return_inverse=True, return_counts=True)
    others = (sizes - 1)[index].to(torch.float64)  # (N,)
    if sizes.numel() < 2 or float(others.sum()) == 0:
        raise MeasurementError(
            f"LNC needs two classes and a class of two images; got {sizes.numel()} classes of at "
            f"most {int(sizes.max())}"
        )
    chance = float((others / (labels.numel() - 1)).mean())
    return ConsistencyRange(chance, float((others / k).clamp(max=1).mean()))


def measure_semantics(
    latents: Tensor,
    labels: Tensor,
    masks: Tensor | None,
    *,
    generator: torch.Generator,
    neighbours: tuple[int, ...] = (1, 5, 10, 20),
    smallest_class: SmallestClass = "refuse",
    training: tuple[Tensor, Tensor] | None = None,
    tested: Tensor | None = None,
) -> tuple[list[Measurement], list[tuple[str, str]]]:
    """Measure LNC and linear-probe accuracy.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units.
        labels: (N,) integer class numbers.
        masks: (N, H, W) foreground fraction of each token in [0, 1], or None for whole-image
            means. Images without foreground are left out of LNC and counted in a flag.
        generator: draws the halves of the standard errors and the folds of the probe.
        neighbours: the K of LNC.
        smallest_class: whether classes of one image, which LNC counts as 0 and folds of the probe
            cannot hold, are left out.
        training: what the probe learns from: (n, C) means of latents over the grid, in latent
            units, and (n,) labels. None cross-validates on stratified folds.
        tested: (N,) bool, which of these latents such a probe is tested on; None: all.

    Returns:
        Measurements, and (metric, reason) for metrics that do not apply: the probe where classes
        are too few or too small, and ``_corrected`` where chance is the ceiling. The measurements
        are for each K ``semantics.lncK`` (z-scored, foreground mean, cosine), ``_corrected`` (0 at
        chance, 1 at the ceiling), ``_l2``, ``_raw`` (not z-scored) and, with masks, ``_area``
        (positions weighted by their foreground fraction); and ``semantics.probe``, the accuracy
        on whole-image means. All pure numbers, HIGHER is better.

    Raises:
        MeasurementError: bad labels, one class, masks without foreground, too few images.
    """
    data = LatentSet(latents)
    labels = check_labels(labels, data.count).to(data.device)
    enough, few = classes_of_enough(labels, 2, smallest_class)
    if few:
        data, labels = LatentSet(latents[enough], few), labels[enough]
        masks = None if masks is None else masks[enough]
        tested = None if tested is None else tested[enough]
    pooled = _pooled_features(data, None if masks is None else check_masks(masks, data))
    kept = pooled.kept
    if int(kept.sum()) <= max(neighbours):
        bare = "" if bool(kept.all()) else f" ({int((~kept).sum())} have no foreground)"
        raise MeasurementError(
            f"LNC: {max(neighbours)} neighbours need at least {max(neighbours) + 1} images, and "
            f"{int(kept.sum())} of {data.count} can be used{bare}; give more images, masks with "
            "foreground, or fewer metrics.semantics.neighbours"
        )
    flags = _flags(labels[kept], int((~kept).sum()))
    pooling = "mean" if masks is None else "foreground, any pixel"
    variants = [
        ("", pooling, "cosine", True),
        ("_l2", pooling, "l2", True),
        ("_raw", pooling, "cosine", False),
    ]
    if masks is not None:
        variants.append(("_area", "foreground, area", "cosine", True))
    measurements = []
    for suffix, pooling, distance, normalised in variants:
        options = {"pooling": pooling, "distance": distance, "normalise": normalised}
        raw = pooled.area if suffix == "_area" else pooled.foreground
        features = _scale(raw, data, normalised)[kept]
        choices = (suffix, options, flags)
        measurements += _consistencies(features, labels[kept], neighbours, choices, generator)
    measured = {m.metric for m in measurements}
    names = [f"semantics.lnc{k}_corrected" for k in neighbours]
    reason = "chance is the ceiling: the neighbours are all other images"
    left_out = [(name, reason) for name in names if name not in measured]
    whole = pooled.whole
    if tested is not None and training is not None:
        whole, labels = whole[tested], labels[tested]
    try:
        measurements.append(_probe(whole, labels, data, training, generator))
    except ProbeError as error:
        left_out.append(("semantics.probe", str(error)))
    return data.flagged(measurements), left_out


def _probe(
    whole: Tensor,
    labels: Tensor,
    data: LatentSet,
    training: tuple[Tensor, Tensor] | None,
    generator: torch.Generator,
) -> Measurement:
    """Return the accuracy of a linear probe on (N, C) means over the grid."""
    train = None
    if training is not None:
        learned, classes = (part.to(whole.device) for part in training)
        if learned.ndim != 2 or len(classes) != len(learned):
            raise MeasurementError(
                f"training: means of shape {tuple(learned.shape)} and {len(classes)} labels; give "
                "(n, C) means and (n,) labels"
            )
        whole = torch.cat([learned[:, data.live].to(whole), whole])  # (n + N, C)
        labels = torch.cat([classes.to(labels), labels])
        train = torch.arange(len(whole)) < len(learned)
    return linear_probe(_scale(whole, data, True), labels, generator=generator, train=train)


@dataclass(frozen=True)
class _Pooled:
    """(N, C) float64 means of the raw latents of each image; ``kept`` has foreground."""

    whole: Tensor
    foreground: Tensor
    area: Tensor
    kept: Tensor


def _pooled_features(data: LatentSet, masks: Tensor | None) -> _Pooled:
    """Pool every image in one pass; images without foreground get a placeholder, not kept."""
    kept = torch.ones(data.count, dtype=torch.bool, device=data.device)
    if masks is not None:
        kept = (masks > 0).flatten(1).any(dim=1)  # (N,)
    # filled in place: small results kept between large temporaries would fragment the heap
    whole = data.statistics.mean.new_empty(data.count, data.channels)  # (N, C)
    foreground, area = (whole, whole) if masks is None else whole.new_empty(2, *whole.shape)
    for images, block in data.blocks(normalised=False):
        whole[images] = foreground_mean(block, None)
        if masks is not None:
            weights = masks[images].clone()  # (B, H, W)
            weights[~kept[images]] = 1.0
            foreground[images] = foreground_mean(block, (weights > 0).to(torch.float64))
            area[images] = foreground_mean(block, weights)
    return _Pooled(whole, foreground, area, kept)


def _scale(features: Tensor, data: LatentSet, normalised: bool) -> Tensor:
    """Z-score pooled features: a weighted mean commutes with a per-channel affine map."""
    if not normalised:
        return features
    return normalise(features[:, :, None, None], data.statistics)[:, :, 0, 0]  # (N, C)


def _flags(labels: Tensor, without_foreground: int) -> tuple[str, ...]:
    """Return the flags of LNC for this set."""
    sizes = labels.unique(return_counts=True)[1]
    flags = []
    if without_foreground:
        flags.append(f"{without_foreground} images without foreground left out")
    if single := int((sizes == 1).sum()):
        flags.append(f"{single} classes of one image, which always count as 0")
    return tuple(flags)


def _consistencies(
    features: Tensor,
    labels: Tensor,
    ks: tuple[int, ...],
    choices: tuple[str, dict[str, Any], tuple[str, ...]],
    generator: torch.Generator,
) -> list[Measurement]:
    """LNC at every K, and its chance-corrected form where the suffix is empty (the headline)."""
    suffix, options, flags = choices
    count = labels.numel()
    found = nearest_neighbours(
        features,
        features,
        neighbours=max(max(ks), min(4 * max(ks) + 20, count - 1)),  # enough for halved samples
        distance=options["distance"],
        exclude_self=True,
    ).indices  # (N, M)
    errors = consistency_stderr(labels, found, ks, generator=generator)
    measurements = []
    for k, stderr in zip(ks, errors, strict=True):
        limits = consistency_range(labels, k)
        span = limits.ceiling - limits.chance
        value = float(neighbour_consistency(labels, found, k).mean())
        chosen = options | {"k": k, "chance": limits.chance, "ceiling": limits.ceiling}
        marks = flags
        if stderr is None:
            marks = (*flags, f"no standard error: it needs {images_of_an_error(k)} images")
        else:
            chosen["stderr"] = f"half-sampling of images, {_HALVINGS} halvings"
        forms = [(f"lnc{k}{suffix}", value, stderr)]
        if not suffix and span > _NO_SPAN:
            error = None if stderr is None else stderr / span
            forms.append((f"lnc{k}_corrected", (value - limits.chance) / span, error))
        measurements += [
            Measurement(f"semantics.{name}", number, error, count, "1", True, chosen, marks)
            for name, number, error in forms
        ]
    return measurements
