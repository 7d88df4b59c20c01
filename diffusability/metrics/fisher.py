"""Fisher information, its rate and the MMSE rate of latents along the diffusion.

Source: "Understanding Latent Diffusability via Fisher Geometry" (arXiv 2604.02751). From a trained
denoiser, or without training from the Gaussian that has the latents' covariance, whose FI and FIR
no distribution of that covariance can undercut.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.fisher.checks import curve_mismatch, flags_of
from diffusability.fisher.denoiser import Denoiser
from diffusability.fisher.estimator import Estimate, FisherSamples, Quantity, sample_fisher
from diffusability.fisher.gaussian import gaussian_information
from diffusability.metrics.block_jackknife import delete_block_stderr
from diffusability.metrics.latent_set import LatentSet, check_labels
from diffusability.metrics.measurement import Measurement

_BOUND_IMAGES = 10  # images a dimension from which a sample's covariance may serve as a bound
# name of the quantity, its attribute, power of v that makes it a pure number, unit, direction
_QUANTITIES: tuple[tuple[str, Quantity, int, str, bool | None], ...] = (
    ("fi", "divergence", 1, "1/latent^2", None),
    ("fi_score", "score", 1, "1/latent^2", None),
    ("fi_held_out", "held_out", 1, "1/latent^2", None),
    ("fir", "fir", 2, "1/latent^4", False),
    ("mmse_rate", "mmse_rate", 0, "1", False),
)


def measure_fisher(
    x: Tensor,
    denoiser: Denoiser,
    v: Sequence[float],
    *,
    seed: int,
    probes: int | Literal["exact"] = 1,
    labels: Tensor | None = None,
    draws: int = 1,
    antithetic: bool = False,
    sigma_range: tuple[float, float] | None = None,
    batch_size: int = 256,
) -> list[Measurement]:
    """Measure FI (three forms), FIR and the MMSE rate of a denoiser at held-out data.

    Args:
        x: (N, ...) data in the units that the denoiser takes, not seen in its training; their
            dtype is the precision of the estimate.
        denoiser: D(y; v), see ``fisher.denoiser`` for networks of every parameterisation.
        v: increasing noise variances sigma^2.
        seed: of noise and probes, common to all v.
        probes: random directions a datum, or "exact" for at most 64 dimensions.
        labels: (N,) labels given to the denoiser.
        draws: noises a datum.
        antithetic: use each noise with both signs.
        sigma_range: noise standard deviations the denoiser was trained on, for a flag.
        batch_size: data at once; no result depends on it.

    Returns:
        For every v ``fisher.fi_v<v>`` (form B, the divergence), ``fisher.fi_score_v<v>`` (A),
        ``fisher.fi_held_out_v<v>`` (C, a lower bound), no direction claimed;
        ``fisher.fir_v<v>`` and ``fisher.mmse_rate_v<v>``, LOWER is better; and each again with
        ``_per_dim_`` before the v: v FI / n, v^2 FIR / n, rate / n, pure numbers. Standard errors
        are over data. Flags say where a value is not to be trusted.

    Raises:
        MeasurementError: fewer than two data, v not positive and increasing, or see
            ``sample_fisher``.
    """
    if not v or any(a >= b for a, b in zip((0.0, *v), v, strict=False)):
        raise MeasurementError(f"noise variances must be positive and increase, got {list(v)}")
    curve = [
        sample_fisher(
            denoiser,
            x,
            level,
            seed=seed,
            probes=probes,
            labels=labels,
            draws=draws,
            antithetic=antithetic,
            batch_size=batch_size,
        )
        for level in v
    ]
    eigenvalues = _eigenvalues_for_bounds(x)
    gaps: list[Estimate | None] = [*curve_mismatch(curve), None]
    options = {"probes": probes, "draws": draws, "antithetic": antithetic, "seed": seed}
    measurements = []
    for samples, gap in zip(curve, gaps, strict=True):
        flags = flags_of(samples, eigenvalues=eigenvalues, sigma_range=sigma_range)
        extra = options | {"dtype": str(x.dtype).removeprefix("torch."), "dim": samples.dim}
        if gap is not None:
            extra |= {"curve_mismatch": asdict(gap)}
        measurements += _summaries(samples, flags, extra)
    return measurements


def measure_gaussian_fisher(
    latents: Tensor, v: Sequence[float], *, labels: Tensor | None = None, blocks: int = 20
) -> list[Measurement]:
    """Measure FI, FIR and MMSE rate of the Gaussian with the latents' covariance: no training.

    FI and FIR are the least that any distribution of that covariance can have. With labels, one
    Gaussian a class instead, averaged over images: the bound of class-conditional diffusion.
    Directions without variance count 1/v and 1/v^2, as Lemma B.1 says.

    Args:
        latents: (N, C, H, W), any floating dtype, in latent units.
        v: positive noise variances.
        labels: (N,) class numbers for the class-conditional values, named ``_conditional``.
        blocks: blocks of images of the jackknife error, interleaved, at least 2.

    Returns:
        ``fisher.gaussian_fi_v<v>`` (no direction), ``fisher.gaussian_fir_v<v>`` and
        ``fisher.gaussian_mmse_rate_v<v>`` (LOWER is better), a dimension and times v, v^2 and 1, so
        that all are pure numbers in [0, 1]; of z-scored latents, and with ``_raw`` of raw ones.

    Raises:
        MeasurementError: too few images for the blocks, or v not positive.
    """
    data = LatentSet(latents)
    if blocks < 2 or data.count < 2 * blocks or not v or min(v) <= 0:
        raise MeasurementError(
            f"{data.count} images in {blocks} blocks at v = {list(v)}: give positive v, at least "
            "two blocks and two images a block"
        )
    groups = torch.zeros(data.count, dtype=torch.int64)
    if labels is not None:
        groups = check_labels(labels, data.count).cpu()
    suffix = "" if labels is None else "_conditional"
    block = torch.arange(data.count) % blocks  # (N,)
    sizes = torch.bincount(block)
    measurements = []
    for normalised, ending in ((True, ""), (False, "_raw")):
        x = data.read(slice(None), normalised).flatten(1)  # (N, n)
        full, deficient = _gaussian_values(x, groups, v)
        left = [_gaussian_values(x[block != b], groups[block != b], v)[0] for b in range(blocks)]
        errors = torch.stack(left)  # (blocks, V, 3)
        flags = ("rank-deficient",) if deficient else ()
        for i, level in enumerate(v):
            for j, name in enumerate(("fi", "fir", "mmse_rate")):
                value = float(full[i, j])
                measurements.append(
                    Measurement(
                        f"fisher.gaussian_{name}{suffix}_v{level:g}{ending}",
                        value,
                        delete_block_stderr(value, errors[:, i, j], sizes),
                        data.count,
                        higher_is_better=None if name == "fi" else False,
                        options={"v": level, "normalise": normalised, "blocks": blocks},
                        flags=flags,
                    )
                )
    return measurements


def _gaussian_values(x: Tensor, groups: Tensor, v: Sequence[float]) -> tuple[Tensor, bool]:
    """Return (V, 3) values a dimension, averaged over images, and whether a group is deficient."""
    total = torch.zeros(len(v), 3, dtype=torch.float64)
    deficient = False
    for group in groups.unique():
        members = x[(groups == group).to(x.device)]  # (m, n)
        count, dim = members.shape
        deficient = deficient or count <= dim
        # the smaller of the two Gram matrices; both have the same eigenvalues, the rest are zero
        centred = members - members.mean(0)
        gram = centred @ centred.T if count <= dim else centred.T @ centred
        nonzero = torch.linalg.eigvalsh(gram / max(1, count - 1)).clamp(min=0).cpu()
        values = torch.cat((nonzero, torch.zeros(dim - len(nonzero), dtype=torch.float64)))
        for i, level in enumerate(v):
            at = gaussian_information(values, level)
            pure = (level * at.fi, level**2 * at.fir, at.mmse_rate)
            total[i] += torch.tensor(pure, dtype=torch.float64) * (count / dim / len(x))
    return total, deficient


def _eigenvalues_for_bounds(x: Tensor) -> Tensor | None:
    """Return the eigenvalues of the data's covariance, or None where a sample's are too biased."""
    flat = x.flatten(1).to(torch.float64)
    if len(flat) < _BOUND_IMAGES * flat.shape[1]:
        return None
    centred = flat - flat.mean(0)
    return torch.linalg.eigvalsh(centred.T @ centred / (len(flat) - 1)).clamp(min=0).cpu()


def _summaries(
    samples: FisherSamples, flags: tuple[str, ...], options: dict[str, Any]
) -> list[Measurement]:
    """Return the measurements of one noise level, raw and a dimension."""
    found = []
    v, count = samples.v, len(samples.score)
    for name, attribute, power, unit, better in _QUANTITIES:
        at = samples.estimate(attribute)
        pure = v**power / samples.dim
        for suffix, factor, scale in (("", 1.0, unit), ("_per_dim", pure, "1")):
            found.append(
                Measurement(
                    f"fisher.{name}{suffix}_v{v:g}",
                    factor * at.value,
                    factor * at.stderr,
                    count,
                    scale,
                    better,
                    options | {"v": v},
                    flags,
                )
            )
    return found
