"""The noise floor: variance of a generation metric between tokenizers and between seeds.

Nested random effects, one run being y = mean + tokenizer + retrained tokenizer + diffusion run.
Components are moment estimates (unweighted means), exact analysis of variance in balanced designs.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from diffusability.analysis.frames import join_notes, table_frame
from diffusability.analysis.intervals import (
    MIN_POINTS,
    Analysis,
    AnalysisOptions,
    spread_interval,
)
from diffusability.analysis.pairing import group_sizes, group_starts
from diffusability.analysis.panels import Measured, Panel, Table, cells, families, panels

_NO_REPEATS = "no repeated seeds: noise and reliability are unknown; repeat some runs"


@dataclass(frozen=True)
class RunGroups:
    """The sufficient statistics of a panel's runs for variance components.

    Attributes:
        means: (n,) nested mean of each tokenizer, in the unit of the target.
        seed_squares: (n,) sum of squares of diffusion runs around their trained tokenizer.
        seed_df: (n,) degrees of freedom of ``seed_squares``.
        trained_squares: (n,) sum of squares of trained tokenizers around their mean.
        trained: (n,) number of tokenizer seeds.
        inverse_runs: (n,) sum over tokenizer seeds of 1/(diffusion runs).
    """

    means: np.ndarray
    seed_squares: np.ndarray
    seed_df: np.ndarray
    trained_squares: np.ndarray
    trained: np.ndarray
    inverse_runs: np.ndarray

    @property
    def run_noise_share(self) -> np.ndarray:
        """(n,) variance of each mean for a diffusion-seed variance of 1."""
        return self.inverse_runs / self.trained**2


@dataclass(frozen=True)
class Components:
    """Variance components of a target, in its squared unit; NaN without repeated runs.

    Attributes:
        tokenizers: between tokenizers, corrected for noise; negative if noise explains all of it.
        tokenizer_seeds: between retrainings of a tokenizer, not below 0.
        diffusion_seeds: between diffusion runs on one trained tokenizer.
        noise: mean noise variance of the means.
        spread: variance of the means, with noise.
        noise_df: degrees of freedom of ``noise`` (Satterthwaite).
    """

    tokenizers: float
    tokenizer_seeds: float
    diffusion_seeds: float
    noise: float
    spread: float
    noise_df: float

    @property
    def run_noise(self) -> float:
        """Variance of one run around its tokenizer, from the known components."""
        return float(np.nansum([self.tokenizer_seeds, self.diffusion_seeds]))


def group_runs(runs: pd.DataFrame) -> RunGroups:
    """Reduce the runs of ``Cells.runs`` (tokenizer, tokenizer_seed, y), grouped in that order."""
    y = runs["y"].to_numpy(float)
    tokenizer, seed = pd.factorize(runs["tokenizer"])[0], runs["tokenizer_seed"].to_numpy()
    inner = group_starts(tokenizer, seed)
    outer = group_starts(tokenizer[inner])
    if not len(y):
        return RunGroups(*[np.empty(0)] * 6)
    count, trained = group_sizes(inner, len(y)), group_sizes(outer, len(inner))
    mean = np.add.reduceat(y, inner) / count  # of each trained tokenizer
    whole = np.add.reduceat(mean, outer) / trained

    def by_tokenizer(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, outer).astype(float)

    squares = np.add.reduceat((y - np.repeat(mean, count)) ** 2, inner)
    return RunGroups(
        means=whole,
        seed_squares=by_tokenizer(squares),
        seed_df=by_tokenizer(count - 1),
        trained_squares=by_tokenizer((mean - np.repeat(whole, trained)) ** 2),
        trained=trained.astype(float),
        inverse_runs=by_tokenizer(1 / count),
    )


def variance_components(groups: RunGroups) -> Components:
    """Return the variance components of a target from its grouped runs.

    Args:
        groups: at least two tokenizers.

    Returns:
        Moment estimates. Without repeated diffusion seeds the noise of a run is estimated from
        retrained tokenizers, whose spread then includes both; without repeats all are NaN.
    """
    spread = float(groups.means.var(ddof=1)) if len(groups.means) > 1 else math.nan
    seed_df, trained_df = groups.seed_df.sum(), (groups.trained - 1).sum()
    per_mean, per_run = float(np.mean(1 / groups.trained)), float(groups.run_noise_share.mean())
    seeds = groups.seed_squares.sum() / seed_df if seed_df else math.nan
    trained = math.nan
    noise, noise_df = seeds * per_run, float(seed_df)
    if trained_df:
        square = groups.trained_squares.sum() / trained_df
        inside = (groups.trained - 1) * groups.inverse_runs / groups.trained
        share = float(inside.sum() / trained_df)  # weight of a run's variance in that mean square
        trained = square - (share * seeds if seed_df else 0.0)
        if trained > 0:
            parts = [(per_mean * square, trained_df)]
            if seed_df:
                parts.append(((per_run - share * per_mean) * seeds, seed_df))
            noise = sum(part for part, _ in parts)
            noise_df = noise**2 / sum(part**2 / df for part, df in parts)
        trained = max(trained, 0.0)
    return Components(spread - noise, trained, seeds, noise, spread, float(noise_df))


def reliability(
    components: Components, tokenizers: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the reliability of the tokenizers' means and its interval.

    Args:
        components: of the target.
        tokenizers: number behind them.
        confidence: nominal coverage.

    Returns:
        1 - noise/spread, the share of the variance of the means due to tokenizers, in [0, 1]
        (1: no noise); its interval from the F distribution of spread/noise, exact for a balanced
        one-way design (ICC(k)). NaN without repeated runs.
    """
    if not components.spread > 0 or math.isnan(components.noise):
        return math.nan, math.nan, math.nan
    if components.noise == 0:
        return 1.0, math.nan, math.nan
    ratio = components.spread / components.noise
    tail = (1 - confidence) / 2
    upper, lower = stats.f.ppf([1 - tail, tail], tokenizers - 1, components.noise_df)
    ends = (1 - 1 / ratio, 1 - upper / ratio, 1 - lower / ratio)
    return tuple(float(max(end, 0.0)) for end in ends)  # type: ignore[return-value]


def noise_floor(table: Table, analysis: Analysis | None = None) -> pd.DataFrame:
    """Return the noise floor of every generation metric, backbone, guidance scale and family.

    Args:
        table: a checked tidy table (``check_measurements``).
        analysis: its confidence is that of the intervals.

    Returns:
        One row per panel and family. ``reliability`` is the share of the variance of the means,
        which correlations use, that is between tokenizers instead of seeds (in [0, 1], higher is
        better); ``run_sd`` is the noise of one run in the target's unit; ``resolvable_gap`` is
        twice the standard error of the difference of two tokenizers' means. Without repeated
        runs they are NaN and ``note`` says so.
    """
    table, analysis, rows = Measured.of(table), analysis or AnalysisOptions(), []
    for panel in panels(table):
        # a target paired with itself keeps all of its runs
        paired = cells(table, panel.target, panel.target, panel.backbone, panel.guidance)
        for family in families(table):
            part = paired.of_family(family)
            row = _row(part.runs, panel, analysis.confidence)
            row["family"] = family
            row["note"] = join_notes(row["note"], part.missing_note())
            rows.append(row)
    return table_frame("noise_floor", rows)


def _row(runs: pd.DataFrame, panel: Panel, confidence: float) -> dict[str, object]:
    row: dict[str, object] = {**panel.labels, "runs": len(runs)}
    groups = group_runs(runs)
    count = len(groups.means)
    row |= {
        "tokenizers": count,
        "repeated": int((groups.seed_df > 0).sum()),
        "retrained": int((groups.trained > 1).sum()),
        "mean": float(groups.means.mean()) if count else math.nan,
    }
    if count < 2:
        return row | {"note": "fewer than two tokenizers: no variance between them"}
    found = variance_components(groups)
    row |= {
        "variance_tokenizers": found.tokenizers,
        "variance_tokenizer_seeds": found.tokenizer_seeds,
        "variance_diffusion_seeds": found.diffusion_seeds,
    }
    if math.isnan(found.noise):
        return row | {"note": _NO_REPEATS}
    value, low, high = reliability(found, count, confidence)
    notes = _notes(found, groups)
    if count < MIN_POINTS:
        low = high = math.nan
        notes.append(f"{count} tokenizers, fewer than {MIN_POINTS}: no interval")
    return row | {
        "run_sd": math.sqrt(found.run_noise),
        "resolvable_gap": 2 * math.sqrt(2 * found.noise),
        **{"reliability": value, "low": low, "high": high},
        "note": "; ".join(notes),
    }


def _notes(found: Components, groups: RunGroups) -> list[str]:
    notes = []
    if math.isnan(found.tokenizer_seeds):
        notes.append("no tokenizer was retrained: its noise is missing, reliability is too high")
    if math.isnan(found.diffusion_seeds):
        notes.append("no diffusion run was repeated: noise is estimated from retrained tokenizers")
    if found.tokenizer_seeds == 0:
        notes.append("retrained tokenizers differ no more than diffusion runs")
    if found.tokenizers <= 0:
        notes.append("tokenizers differ no more than seeds do")
    if found.noise == 0:
        notes.append("repeated runs agree exactly: seeds may not have been used")
    if found.spread == 0:
        notes.append("the target is constant")
    return notes


RECONSTRUCTION = "reconstruction."


def comparability(table: Table, analysis: Analysis | None = None) -> pd.DataFrame:
    """Return the spread of reconstruction quality over the tokenizers of each family.

    Args:
        table: a checked tidy table (``check_measurements``).
        analysis: its confidence is that of the intervals.

    Returns:
        One row per family and ``reconstruction.*`` metric: ``value`` is the standard deviation
        over tokenizers in the metric's unit (lower: more comparable) with its interval over
        clusters, ``cv`` its share of the mean. NaN with a ``note`` where there is none.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    metrics = [m for m in table.metrics if m.startswith(RECONSTRUCTION)]
    rows = []
    for metric in metrics:
        paired = cells(table, metric, metric, "", None)
        for family in families(table):
            part = paired.of_family(family)
            x, clusters = part.rows["x"].to_numpy(float), part.rows["cluster"]
            row = _spread(x, clusters, analysis.confidence)
            labels = {"family": family, "metric": metric}
            row |= {"note": join_notes(row["note"], part.missing_note())}
            rows.append(labels | row)
    return table_frame("comparability", rows)


def _spread(values: np.ndarray, clusters: pd.Series, confidence: float) -> dict[str, object]:
    n = len(values)
    found = spread_interval(values, clusters, confidence)
    row: dict[str, object] = {"n": n, "clusters": clusters.nunique(), "note": found.note}
    if n < 2:
        return row
    mean, spread = float(values.mean()), float(found.value[0])
    ends = {"low": float(found.low[0]), "high": float(found.high[0])}
    return (
        row | {"mean": mean, "value": spread, "cv": spread / abs(mean) if mean else math.nan} | ends
    )
