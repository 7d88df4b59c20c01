"""Checks of Fisher information estimates that need no ground truth."""

import math

from torch import Tensor

from diffusability.fisher.estimator import (
    Estimate,
    FisherSamples,
    paired_difference,
)
from diffusability.fisher.gaussian import gaussian_information

SIGNIFICANT = 3.0  # standard errors from which a difference is significant
OVERFIT = 0.1  # (A - C) / B above which the learned score is wrong
RELATIVE = 0.02  # relative difference below which even a significant one is ignored


def flags_of(
    samples: FisherSamples,
    *,
    eigenvalues: Tensor | None = None,
    sigma_range: tuple[float, float] | None = None,
) -> tuple[str, ...]:
    """Return flags that say why an estimate is not reliable; an empty list if all checks pass.

    Args:
        samples: the estimate, on held-out data.
        eigenvalues: (n,) of the data's covariance, not below the true ones, for the Gaussian bounds
            FI >= sum 1/(lam+v), FIR >= sum 1/(lam+v)^2.
        sigma_range: noise standard deviations that the network was trained on.
    """
    found = []
    a, b, c = (samples.estimate(form) for form in ("score", "divergence", "held_out"))
    fir, n, v = samples.estimate("fir"), samples.dim, samples.v
    gap = paired_difference(samples.score, samples.divergence)
    if abs(gap.value) > max(SIGNIFICANT * gap.stderr, RELATIVE * abs(b.value)):
        found.append("model-error: A - B is not 0")
    spread = paired_difference(samples.score, samples.held_out)
    if spread.value - SIGNIFICANT * spread.stderr > OVERFIT * abs(b.value):
        found.append("model-error: (A - C) / B > 0.1")
    stein = Estimate.of((samples.score + samples.held_out) / 2 - samples.divergence)
    if abs(stein.value) > max(2 * SIGNIFICANT * stein.stderr, 1e-9 * abs(b.value)):
        found.append("defect: (A + C) / 2 is not B")
    if _below(Estimate(n / v, 0.0), a) or _below(Estimate(n / v, 0.0), b):
        found.append("impossible value: FI > n / v")
    if _below(fir, Estimate(b.value**2 / n, 2 * abs(b.value) * b.stderr / n)):
        found.append("impossible value: FIR < FI^2 / n")
    if eigenvalues is not None:
        least = gaussian_information(eigenvalues, v)
        if _below(b, Estimate((1 - RELATIVE) * least.fi, 0.0)):
            found.append("impossible value: FI below the Gaussian bound")
        if _below(fir, Estimate((1 - RELATIVE) * least.fir, 0.0)):
            found.append("impossible value: FIR below the Gaussian bound")
    if sigma_range is not None and not sigma_range[0] <= math.sqrt(v) <= sigma_range[1]:
        found.append("extrapolation: sigma outside the trained range")
    if _below(c, Estimate(0.0, 0.0)):
        found.append("model-error: denoising is worse than doing nothing")
    return tuple(found)


def raised(variances: Tensor, count: int) -> Tensor:
    """Return variances of a sample raised by three of their standard errors.

    Gaussian bounds of them lie below those of the true variances.

    Args:
        variances: of any shape. count: of the normal draws that they were estimated from.
    """
    return (1 + SIGNIFICANT * (2 / count) ** 0.5) * variances


def _below(small: Estimate, large: Estimate) -> bool:
    """Return whether small < large significantly and by more than rounding."""
    margin = SIGNIFICANT * math.hypot(small.stderr, large.stderr)
    return large.value - small.value > margin + 1e-6 * abs(large.value)
