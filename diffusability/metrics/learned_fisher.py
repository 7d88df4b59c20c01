"""Fisher information, its rate and the MMSE rate of a trained diffusion model.

Source: "Understanding Latent Diffusability via Fisher Geometry" (arXiv 2604.02751). One
Jacobian-vector product per probe gives all of them (``fisher.estimator``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffusability.fisher.checks import flags_of, raised
from diffusability.fisher.denoiser import Denoiser
from diffusability.fisher.estimator import (
    Estimate,
    FisherSamples,
    Quantity,
    sample_fisher,
)
from diffusability.fisher.information import check_variances, log_weights
from diffusability.metrics.cosine_transform import cosine_transform
from diffusability.metrics.measurement import Measurement

_BOUND_IMAGES = 200  # samples needed to use their variances as a bound
# name, attribute, power of v that makes it a pure number, direction
_QUANTITIES: tuple[tuple[str, Quantity, int, bool | None], ...] = (
    ("fi", "divergence", 1, None),
    ("fi_score", "score", 1, None),
    ("fi_held_out", "held_out", 1, None),
    ("fir", "fir", 2, False),
    ("mmse_rate", "mmse_rate", 0, False),
)
HEADLINE = ("fi", "fir", "mmse_rate")  # also reported as means over log v


@dataclass(frozen=True)
class LearnedCurve:
    """What a denoiser says at every noise variance.

    Attributes:
        samples: at each of V variances, of the same N data.
        measurements: of them.
    """

    samples: Sequence[FisherSamples]
    measurements: list[Measurement]

    @property
    def fir_by_datum(self) -> Tensor:
        """v^2 |grad s|_F^2 / n of each datum, mean over log v, (N,) float64; its mean is FIR."""
        return _mean_over_log_v(self.samples, "fir", 2)


def measure_learned_fisher(
    x: Tensor,
    denoiser: Denoiser,
    v: Sequence[float],
    *,
    seed: int,
    probes: int | Literal["exact"] = 1,
    labels: Tensor | None = None,
    draws: int = 1,
    sigma_range: tuple[float, float] | None = None,
    batch_size: int = 256,
) -> LearnedCurve:
    """Measure FI (three forms), FIR and the MMSE rate of a denoiser at held-out data.

    Args:
        x: (N, ...) data in the units that the denoiser takes, not seen in its training; their
            dtype is the precision of the estimate.
        denoiser: D(y; v), see ``fisher.denoiser`` for networks of every parameterisation.
        v: increasing noise variances sigma^2.
        seed: of noise and probes, common to all v, and to both conditions.
        probes: random directions per datum, or "exact" for at most 64 dimensions.
        labels: (N,) classes given to the denoiser; None evaluates it unconditionally.
        draws: noise draws per datum.
        sigma_range: noise standard deviations the denoiser was trained on, for a flag.
        batch_size: data at once; no result depends on it.

    Returns:
        The curve with its measurements. For every v ``fisher.curve_learned_<name>_v<v>``, pure
        numbers per dimension: v FI / n as ``fi`` (form B, the divergence), ``fi_score`` (A) and
        ``fi_held_out`` (C, a lower bound), no direction claimed; v^2 FIR / n as ``fir`` and
        rate / n as ``mmse_rate``, LOWER is better. The total and its error are options. The means
        of fi, fir and mmse_rate over log v are ``fisher.learned_<name>``. Without labels names end
        in ``_unconditional``. Standard errors are over data. Flags mark values that are not
        reliable.

    Raises:
        MeasurementError: fewer than two data, v not positive and increasing, or see
            ``sample_fisher``.
    """
    check_variances(v)
    curve = [
        sample_fisher(
            denoiser,
            x,
            level,
            seed=seed,
            probes=probes,
            labels=labels,
            draws=draws,
            batch_size=batch_size,
        )
        for level in v
    ]
    bound = _variances_for_bounds(x)
    flags = [flags_of(at, eigenvalues=bound, sigma_range=sigma_range) for at in curve]
    dtype = str(x.dtype).removeprefix("torch.")
    options = {"probes": probes, "draws": draws, "seed": seed, "dtype": dtype, "dim": curve[0].dim}
    ending = "_unconditional" if labels is None else ""
    found = []
    for samples, at_level in zip(curve, flags, strict=True):
        found += _at_level(samples, ending, at_level, options)
    found += _means(curve, ending, _flags_of_curve(v, flags), options)
    return LearnedCurve(curve, found)


def _at_level(
    samples: FisherSamples, ending: str, flags: tuple[str, ...], options: dict[str, Any]
) -> list[Measurement]:
    """Return the measurements of one noise variance."""
    found = []
    for name, attribute, power, better in _QUANTITIES:
        at, pure = samples.estimate(attribute), samples.v**power / samples.dim
        total = {"v": samples.v, "total": at.value, "total_stderr": at.stderr}
        found.append(
            Measurement(
                f"fisher.curve_learned_{name}{ending}_v{samples.v:g}",
                pure * at.value,
                pure * at.stderr,
                len(samples.score),
                higher_is_better=better,
                options=options | total,
                flags=flags,
            )
        )
    return found


def _means(
    curve: Sequence[FisherSamples], ending: str, flags: tuple[str, ...], options: dict[str, Any]
) -> list[Measurement]:
    """Return the means over log v; their errors account for data and noise shared by all v."""
    v, found = [samples.v for samples in curve], []
    for name, attribute, power, better in _QUANTITIES:
        if name not in HEADLINE:
            continue
        mean = Estimate.of(_mean_over_log_v(curve, attribute, power))
        found.append(
            Measurement(
                f"fisher.learned_{name}{ending}",
                mean.value,
                mean.stderr,
                len(curve[0].score),
                higher_is_better=better,
                options=options | {"v": v, "reading": "mean over log v"},
                flags=flags,
            )
        )
    return found


def _mean_over_log_v(curve: Sequence[FisherSamples], quantity: Quantity, power: int) -> Tensor:
    """Return the mean over log v of a pure number per dimension of each datum, (N,)."""
    weights = torch.tensor(log_weights([samples.v for samples in curve]), dtype=torch.float64)
    pure = [s.v**power / s.dim * getattr(s, quantity) for s in curve]  # V of (N,)
    return weights @ torch.stack(pure)


def _flags_of_curve(v: Sequence[float], flags: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return every flag once, with the noise variances that have it."""
    found: dict[str, list[str]] = {}
    for level, at_level in zip(v, flags, strict=True):
        for flag in at_level:
            found.setdefault(flag, []).append(f"{level:g}")
    return tuple(f"{flag} (v = {', '.join(levels)})" for flag, levels in found.items())


def _variances_for_bounds(x: Tensor) -> Tensor | None:
    """Return variances of a Gaussian that bounds FI and FIR from below; None for few data.

    These are the variances along the cosine basis, which the covariance eigenvalues majorise,
    raised by three standard errors. Sample eigenvalues are too spread out and would put the
    bound too high.
    """
    count, data = len(x), x.to(torch.float64)
    if count < _BOUND_IMAGES:
        return None
    axes = cosine_transform(data).flatten(1) if data.ndim == 4 else data.flatten(1)
    return raised(axes.var(dim=0), count).cpu()
