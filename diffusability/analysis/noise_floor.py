"""The noise floor: variance of a generation metric between tokenizers and between seeds.

Nested random effects, one run being y = mean + tokenizer + retrained tokenizer + diffusion run.
Components are moment estimates (unweighted means), exact analysis of variance in balanced designs.

What is noise depends on the question. A tokenizer that is trained again is another latent space,
whose metrics are measured too, so for a correlation only the diffusion runs are noise
(``reliability``). For the difference of two methods both are (``resolvable_gap``).
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from diffusability.analysis.estimators import deviation
from diffusability.analysis.frames import join_notes, table_frame
from diffusability.analysis.intervals import LOGARITHM, MIN_POINTS, cluster_interval
from diffusability.analysis.pairing import UNITS
from diffusability.analysis.panels import Measured, Panel, Table, paired, panels
from diffusability.study.study import DEFAULTS, AnalysisSpec

WANTED = 0.8  # reliability of a target that a study should reach
_NO_REPEATS = "no repeated seeds; several in select.seeds repeat every run"


@dataclass(frozen=True)
class Components:
    """Variance components of a target, in its squared unit; NaN without repeated runs.

    Attributes:
        tokenizers: between tokenizers, corrected for noise; negative if noise explains all of it.
        tokenizer_seeds: between retrainings of a tokenizer, not below 0.
        diffusion_seeds: between diffusion runs on one trained tokenizer.
        noise: mean noise variance of the means, of both kinds of seeds.
        df: degrees of freedom of ``noise`` (Satterthwaite).
        spread: variance of the means, with noise.
        run_noise: the part of ``noise`` that is of diffusion runs; all of it if none was repeated.
        run_df: degrees of freedom of ``run_noise``.
    """

    tokenizers: float
    tokenizer_seeds: float
    diffusion_seeds: float
    noise: float
    df: float
    spread: float
    run_noise: float
    run_df: int


def variance_components(runs: pd.DataFrame) -> Components:
    """Return the variance components of a target from its runs (``Cells.runs``).

    Moment estimates, of at least two tokenizers. Without repeated diffusion seeds the noise of a
    run is estimated from retrained tokenizers, whose spread then includes both; without repeats all
    are NaN.
    """
    seeds = runs.groupby(["tokenizer", "tokenizer_seed"])["y"].agg(["mean", "size", "var"])
    by_tokenizer = seeds["mean"].groupby("tokenizer")
    count = by_tokenizer.size()  # of its trainings
    seed_df, trained_df = int((seeds["size"] - 1).sum()), int((count - 1).sum())
    inverse_runs = (1 / seeds["size"]).groupby("tokenizer").sum()
    per_mean = float((1 / count).mean())
    per_run = float((inverse_runs / count**2).mean())
    squares = float((seeds["var"] * (seeds["size"] - 1)).sum())
    of_seeds = squares / seed_df if seed_df else math.nan
    trained = math.nan
    noise, df = of_seeds * per_run, float(seed_df)
    if trained_df:
        square = float((by_tokenizer.var() * (count - 1)).sum()) / trained_df
        inside = (count - 1) * inverse_runs / count
        share = float(inside.sum()) / trained_df  # weight of a run's variance in that mean square
        least = share * of_seeds if seed_df else 0.0
        trained = max(square - least, 0.0)
        # few trainings may agree by chance, so their degrees of freedom count in any case
        parts = [(per_mean * max(square, least), trained_df)]
        parts += [((per_run - share * per_mean) * of_seeds, seed_df)] if seed_df else []
        noise = sum(part for part, _ in parts)
        lost = sum(part**2 / known for part, known in parts)
        df = noise**2 / lost if lost else float(trained_df)
    spread = float(by_tokenizer.mean().var())
    of_runs = (of_seeds * per_run, seed_df) if seed_df else (noise, trained_df)
    return Components(spread - noise, trained, of_seeds, noise, df, spread, *of_runs)


def reliability(
    components: Components, tokenizers: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the reliability of the tokenizers' means and its interval.

    Returns:
        1 - run_noise/spread, the share of the variance of the means due to trained tokenizers, in
        [0, 1] (1: no noise); its interval from the F distribution of spread/run_noise, exact for a
        balanced one-way design (ICC(k)). NaN without repeated runs.
    """
    if not components.spread > 0 or math.isnan(components.run_noise):
        return math.nan, math.nan, math.nan
    if components.run_noise == 0:
        return 1.0, math.nan, math.nan
    ratio = components.spread / components.run_noise
    tail = (1 - confidence) / 2
    upper, lower = stats.f.ppf([1 - tail, tail], tokenizers - 1, components.run_df)
    ends = (1 - 1 / ratio, 1 - upper / ratio, 1 - lower / ratio)
    return tuple(float(max(end, 0.0)) for end in ends)  # type: ignore[return-value]


def seeds_needed(components: Components) -> float:
    """Return diffusion seeds per tokenizer for a reliability of ``WANTED``; NaN if out of reach.

    Out of reach: tokenizers do not differ beyond the noise of diffusion runs, or the variance of
    diffusion runs is unknown.
    """
    apart = components.spread - components.run_noise
    if math.isnan(components.diffusion_seeds) or apart <= 0:
        return math.nan
    return math.ceil(WANTED / (1 - WANTED) * components.diffusion_seeds / apart)


def resolvable_gap(components: Components, confidence: float = 0.95) -> float:
    """Return the difference of two means that noise alone exceeds in 1 - ``confidence`` of pairs.

    Student's quantile with the degrees of freedom of the noise: known from few trainings, it is
    large.
    """
    quantile = stats.t.isf((1 - confidence) / 2, max(components.df, 1.0))
    return float(quantile) * math.sqrt(2 * components.noise)


def noise_floor(table: Table, analysis: AnalysisSpec = DEFAULTS) -> pd.DataFrame:
    """Return the noise floor of every generation metric, backbone, guidance scale and family.

    The columns: report/captions/tables/noise_floor.rst.
    """
    table, rows = Measured.of(table), []
    for panel in panels(table):
        for family in table.families:
            # a target paired with itself keeps all of its runs
            part = paired(table, panel.target, panel, family)
            row = _row(part.runs, panel, analysis.confidence)
            row["family"] = family
            row["note"] = join_notes(row["note"], part.missing_note())
            rows.append(row)
    return table_frame("noise_floor", rows)


def _row(runs: pd.DataFrame, panel: Panel, confidence: float) -> dict[str, object]:
    seeds = runs.groupby(["tokenizer", "tokenizer_seed"])["y"].agg(["mean", "size"])
    trained = seeds.groupby("tokenizer")
    count = trained.ngroups
    row: dict[str, object] = {**panel.labels, "runs": len(runs), "tokenizers": count}
    row |= {"repeated": (trained["size"].max() > 1).sum(), "retrained": (trained.size() > 1).sum()}
    row["mean"] = trained["mean"].mean().mean()
    if count < 2:
        return row | {"note": "fewer than two tokenizers: no variance between them"}
    found = variance_components(runs)
    row |= {
        "variance_tokenizers": found.tokenizers,
        "variance_tokenizer_seeds": found.tokenizer_seeds,
        "variance_diffusion_seeds": found.diffusion_seeds,
    }
    if math.isnan(found.noise):
        return row | {"note": _NO_REPEATS}
    value, low, high = reliability(found, count, confidence)
    notes = _notes(found)
    if count < MIN_POINTS:
        low = high = math.nan
        notes.append(f"{count} tokenizers, fewer than {MIN_POINTS}: no interval")
    return row | {
        "run_sd": math.sqrt(np.nansum([found.tokenizer_seeds, found.diffusion_seeds])),
        "resolvable_gap": resolvable_gap(found, confidence),
        **{"reliability": value, "low": low, "high": high},
        "seeds_needed": seeds_needed(found),
        "note": "; ".join(notes),
    }


def _notes(found: Components) -> list[str]:
    notes = []
    if math.isnan(found.tokenizer_seeds):
        notes.append("no tokenizer was retrained: run_sd and resolvable_gap are of diffusion runs")
    if math.isnan(found.diffusion_seeds):
        notes.append(
            "no diffusion run was repeated: noise is estimated from retrained tokenizers, and "
            "reliability is too low"
        )
    if found.tokenizer_seeds == 0:
        notes.append("retrained tokenizers differ no more than diffusion runs")
    if found.tokenizers <= 0:
        notes.append("tokenizers differ no more than one does when it is trained again")
    if found.noise == 0:
        notes.append("repeated runs agree exactly: seeds may not have been used")
    if found.spread == 0:
        notes.append("the target is constant")
    return notes


RECONSTRUCTION = "reconstruction."


def comparability(table: Table, analysis: AnalysisSpec = DEFAULTS) -> pd.DataFrame:
    """Return the spread of reconstruction quality over the tokenizers of each family.

    The columns: report/captions/tables/comparability.rst.
    """
    table = Measured.of(table)
    metrics = [m for m in table.metrics if m.startswith(RECONSTRUCTION)]
    rows = []
    for metric in metrics:
        for family in table.families:
            part = paired(table, metric, Panel(metric, "", None), family)
            x, units = part.rows["x"].to_numpy(float), part.rows[UNITS].to_numpy(object)
            row = _spread(x, units, analysis.confidence)
            labels = {"family": family, "metric": metric}
            row |= {"note": join_notes(row["note"], part.missing_note())}
            rows.append(labels | row)
    return table_frame("comparability", rows)


def _spread(values: np.ndarray, labels: np.ndarray, confidence: float) -> dict[str, object]:
    row: dict[str, object] = {"n": len(values), "clusters": len(set(labels[:, 0]))}
    if len(values) < 2:
        return row | {"note": f"{len(values)} tokenizers: no spread"}
    found = cluster_interval(deviation, (values,), labels, confidence, LOGARITHM)
    mean, spread = float(values.mean()), float(found.value[0])
    row |= {"mean": mean, "value": spread, "cv": spread / abs(mean) if mean else math.nan}
    return row | {"low": found.low[0], "high": found.high[0], "note": found.note}
