"""Correlation corrected for the noise of the diffusion seeds (Spearman 1904)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffusability.analysis.estimators import Array, Estimator, Weighted, pearson, standardise
from diffusability.analysis.intervals import Draws, Interval, bootstrap_intervals
from diffusability.analysis.noise_floor import RunGroups, group_runs
from diffusability.analysis.pairing import group_starts

_ALL_NOISE = "noise explains all the spread"


@dataclass(frozen=True)
class Disattenuated:
    """A correlation divided by the root of the target's reliability.

    Attributes:
        value: r / sqrt(reliability), clipped to [-1, 1]; NaN where it does not exist.
        reliability: share of the variance of the means that is not diffusion noise; NaN if unknown.
        interval: its interval, clipped to [-1, 1].
        note: why there is no value, or a caveat.
    """

    value: float
    reliability: float
    interval: Interval
    note: str


def disattenuate(
    x: Array,
    y: Array,
    runs: pd.DataFrame,
    plain: Sequence[Interval],
    common: Sequence[bool],
    draws: Draws,
    resamples: int = 9999,
) -> list[Disattenuated]:
    """Return the correlations that infinitely many diffusion seeds would give.

    Only the noise of diffusion seeds is corrected: metric and target are measured on the same
    trained tokenizer, so retraining the tokenizer changes both and is not noise of their relation.
    The metric is treated as exact.

    Args:
        x: (n, P) metrics by tokenizer. y: (n,) target, means over seeds, in the order of ``runs``.
        runs: ``Cells.runs`` of the target: tokenizer, tokenizer_seed, y.
        plain: P intervals of Pearson's r; the resulting intervals are never shorter.
        common: whether each metric is measured on the target's diffusion runs (``varies_by_run``).
        draws: resamples of n tokenizers. resamples: bootstrap draws.

    Returns:
        P values with intervals from resampled tokenizers, with r and reliability recomputed in each
        resample; no value if no diffusion seed was repeated, if the metric comes from the same
        diffusion runs as the target, or if noise explains the whole spread.
    """
    if len(x) < 3:
        return [_nothing(plain[0], f"{len(x)} tokenizers")] * len(plain)
    groups = group_runs(runs)
    correlation, shares = pearson(x, y), _shares(y, groups)
    kept, r = float(shares(np.ones((1, len(x))))[0]), correlation.values
    there = groups.seed_df.sum() > 0 and kept > 0
    estimator = Estimator(_corrected(correlation, shares), len(x))
    options = {"confidence": plain[0].confidence, "resamples": resamples}
    intervals = bootstrap_intervals(estimator, draws, **options) if there else plain  # type: ignore[arg-type]
    found = []
    for value, interval, outer, shared in zip(r, intervals, plain, common, strict=True):
        if shared:
            note = "metric and target come from the same runs: they share their noise"
            found.append(_nothing(outer, note))
        elif not groups.seed_df.sum():
            note = "no diffusion seed was repeated: reliability unknown"
            found.append(_nothing(outer, note))
        elif math.isnan(value) or not kept > 0:
            reason = "the statistic does not exist" if math.isnan(value) else _ALL_NOISE
            found.append(_nothing(outer, reason, kept))
        else:
            found.append(_clipped(value / math.sqrt(kept), kept, interval, outer))
    return found


def varies_by_run(runs: pd.DataFrame) -> bool:
    """Return whether a metric differs between the diffusion runs of one trained tokenizer."""
    tokenizer = pd.factorize(runs["tokenizer"])[0]
    starts = group_starts(tokenizer, runs["tokenizer_seed"].to_numpy())
    if not len(starts):
        return False
    x = runs["x"].to_numpy(float)
    return bool((np.maximum.reduceat(x, starts) > np.minimum.reduceat(x, starts)).any())


def _nothing(plain: Interval, note: str, kept: float = math.nan) -> Disattenuated:
    return Disattenuated(math.nan, kept, Interval(None, None, plain.confidence, "none"), note)


def _clipped(value: float, kept: float, interval: Interval, plain: Interval) -> Disattenuated:
    note = ""
    if abs(value) > 1:
        note = f"clipped from {value:.3f}: the noise is overestimated"
        value = math.copysign(1.0, value)
    return Disattenuated(value, kept, _at_least(interval, plain, kept), note)


def _shares(y: Array, groups: RunGroups) -> Weighted:
    """Return the reliability (B,) as a function of weights (B, n): NaN where y is constant."""
    squares = groups.seed_squares / (float(np.var(y)) or 1.0)
    share, centred = groups.run_noise_share, standardise(y)

    def shares(weights: Array) -> Array:
        total = weights.sum(axis=1)
        degrees = weights @ groups.seed_df
        noise = (weights @ squares) / np.where(degrees > 0, degrees, np.nan)
        noise = noise * (weights @ share) / total
        spread = weights @ centred**2 - (weights @ centred) ** 2 / total  # sum of squares
        spread = spread / (total - 1)
        return 1 - noise / np.where(spread > 1e-12, spread, np.nan)

    return shares


def _corrected(correlation: Estimator, shares: Weighted) -> Weighted:
    """Return r over the root of the reliability as a function of weights, inside [-1, 1]."""

    def weighted(weights: Array) -> Array:
        r, share = correlation.weighted(weights), shares(weights)[:, None]
        safe = np.where(share > 0, share, 1.0)
        # a resample whose noise exceeds its spread is consistent with any correlation
        bound = np.where(share > 0, r / np.sqrt(safe), np.sign(r))
        return np.where(np.isnan(share), np.nan, np.clip(bound, -1.0, 1.0))

    return weighted


def _at_least(interval: Interval, plain: Interval, share: float) -> Interval:
    """Widen an interval to that of r over the same reliability, inside [-1, 1]."""
    if interval.low is None or interval.high is None or plain.low is None or plain.high is None:
        return interval
    low, high = (max(-1.0, min(1.0, end / math.sqrt(share))) for end in (plain.low, plain.high))
    return Interval(
        min(interval.low, low),
        max(interval.high, high),
        interval.confidence,
        f"hull of {interval.method} and the interval of r over the same reliability",
        interval.note,
    )
