"""Checks of Fisher information estimates that need no ground truth."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
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
        eigenvalues: (n,) of the data's covariance, for the Gaussian bounds
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
        if _below(b, Estimate(least.fi, 0.0)):
            found.append("impossible value: FI below the Gaussian bound")
        if _below(fir, Estimate(least.fir, 0.0)):
            found.append("impossible value: FIR below the Gaussian bound")
    if sigma_range is not None and not sigma_range[0] <= math.sqrt(v) <= sigma_range[1]:
        found.append("extrapolation: sigma outside the trained range")
    if _below(c, Estimate(0.0, 0.0)):
        found.append("model-error: denoising is worse than doing nothing")
    return tuple(found)


def _below(small: Estimate, large: Estimate) -> bool:
    """Return whether small < large significantly and by more than rounding."""
    margin = SIGNIFICANT * math.hypot(small.stderr, large.stderr)
    return large.value - small.value > margin + 1e-6 * abs(large.value)


def integrated_rate(v: Sequence[float], fir: Tensor) -> Tensor:
    """Return the integral of FIR dv over each interval of a grid.

    FIR is interpolated by a power of v between grid points: exact for v^-2 and accurate for
    smooth curves on a logarithmic grid.

    Args:
        v: (K,) increasing noise variances.
        fir: (K,) positive rates.

    Returns:
        (K - 1,), in the unit of FI.
    """
    grid = torch.tensor(v, dtype=torch.float64)
    ratio = (grid[1:] / grid[:-1]).log()  # (K - 1,)
    power = (fir[1:] / fir[:-1]).log() / ratio + 1  # (K - 1,), FIR v ~ v^power
    steps = power * ratio
    # expm1(s) / s, and its limit 1 at s = 0
    growth = torch.where(steps.abs() > 1e-8, torch.expm1(steps) / steps, 1 + steps / 2)
    return fir[:-1] * grid[:-1] * ratio * growth


def curve_mismatch(samples: Sequence[FisherSamples]) -> list[Estimate]:
    """Return, for each interval of a curve, J(v1) - J(v2) minus the integral of FIR, over J(v1).

    Zero for an exact score, up to the interpolation error of ``integrated_rate``; not zero for a
    learned score that is inconsistent between noise levels. The standard error includes that of
    the rates, treated as independent of J.

    Args:
        samples: estimates at increasing v, made with the same data and seed.
    """
    v = [s.v for s in samples]
    rates = [s.estimate("fir") for s in samples]
    values = torch.tensor([rate.value for rate in rates], dtype=torch.float64)
    errors = torch.tensor([rate.stderr for rate in rates], dtype=torch.float64)
    areas = integrated_rate(v, values)
    relative = (errors / values)[:-1].maximum((errors / values)[1:])
    found = []
    for k, (low, high) in enumerate(pairwise(samples)):
        fall = paired_difference(low.divergence, high.divergence)
        area = float(areas[k])
        level = low.estimate("divergence").value
        error = math.hypot(fall.stderr, area * float(relative[k]))
        found.append(Estimate((fall.value - area) / level, error / abs(level)))
    return found
