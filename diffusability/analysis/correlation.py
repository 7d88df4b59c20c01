"""Correlation of every latent metric with every generation metric, with what is known of it."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from diffusability.analysis.association import Row, Sample, sample_of, statistics_of
from diffusability.analysis.estimators import Array
from diffusability.analysis.options import Analysis, AnalysisOptions
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import (
    ALL_FAMILIES,
    Measured,
    Panel,
    Table,
    cells,
    expected_sign,
    families,
    panels,
    predictors,
)

COLUMNS = (
    "target",
    "backbone",
    "cfg",
    "family",
    "metric",
    "statistic",
    "value",
    "low",
    "high",
    "confidence",
    "method",
    "cluster_low",
    "cluster_high",
    "cluster_method",
    "p",
    "p_method",
    "p_holm",
    "p_by",
    "n",
    "clusters",
    "expected_sign",
    "note",
)
PANEL_KEY = ["target", "backbone", "cfg", "family"]
_BEST = "each tokenizer at its own best guidance scale"


def correlate(
    table: Table,
    analysis: Analysis | None = None,
    covariates: Sequence[str] = ("reconstruction.psnr",),
) -> pd.DataFrame:
    """Return the table of correlations: one row a panel, family, metric and statistic.

    Statistics: ``pearson``, ``spearman``, ``kendall``; ``pearson_within`` (cluster means taken
    off) and ``pearson_between`` (of cluster means), which part when a trend across clusters is
    not one inside them (Simpson); ``pearson_partial`` given the covariates;
    ``pearson_disattenuated`` (noise of diffusion seeds taken off).

    Args:
        table: a checked tidy table (``check_measurements``).
        analysis: resamples, confidence and seed.
        covariates: metrics held fixed in ``pearson_partial``.

    Returns:
        Values in [-1, 1] of the raw numbers: ``expected_sign``
        is the sign that they have if the metric's declared direction is right. ``low``, ``high``:
        tokenizers as independent, by ``method``; ``cluster_low``, ``cluster_high``: by cluster.
        ``p_holm`` and ``p_by`` correct over the metrics of one panel, family and statistic. An
        empty ``cfg`` is each tokenizer's best scale. What does not exist is NaN, and ``note`` says
        why; every combination has its row. Deterministic given table and options.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    rows: list[Row] = []
    for panel in panels(table):
        known = _covariates(table, panel, covariates)
        rows.extend(_panel_rows(table, panel, predictors(table), known, analysis))
    return _corrected(pd.DataFrame(rows, columns=list(COLUMNS)))


def intercorrelate(
    table: Table, metrics: Sequence[str], analysis: Analysis | None = None
) -> pd.DataFrame:
    """Return how latent metrics go with each other: ``target`` is the second metric of a pair.

    Args:
        table: a checked tidy table. metrics: names; every pair of them is taken once.
        analysis: resamples, confidence and seed.

    Returns:
        Rows as of ``correlate``, with empty backbone and guidance.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    rows = [
        row
        for place, second in enumerate(metrics)
        for row in _panel_rows(table, Panel(second, "", None), metrics[:place], {}, analysis)
    ]
    return _corrected(pd.DataFrame(rows, columns=list(COLUMNS)))


def _panel_rows(
    table: Measured,
    panel: Panel,
    metrics: Sequence[str],
    covariates: dict[str, pd.Series],
    analysis: Analysis,
) -> Iterator[Row]:
    """Yield every row of the metrics in one panel: of each, all families together, then each."""
    names = families(table)
    paired = {m: cells(table, m, panel.target, panel.backbone, panel.cfg) for m in metrics}
    found: dict[str, dict[str, tuple[Sample, list[Row]]]] = {}
    for family in names:
        # one family is all there is: the same numbers under both names
        if family != ALL_FAMILIES and len(names) == 2:
            found[family] = found[ALL_FAMILIES]
            continue
        samples = {
            metric: sample_of(
                part.of_family(family), {k: v for k, v in covariates.items() if k != metric}
            )
            for metric, part in paired.items()
        }
        rows = statistics_of(samples, analysis)
        found[family] = {metric: (samples[metric], rows[metric]) for metric in metrics}
    best = _BEST if panel.backbone and panel.cfg is None else ""
    for metric in metrics:
        sign = expected_sign(table, metric, panel.target)
        for family in names:
            sample, own = found[family][metric]
            notes = [sample.part.missing_note(), best]
            if family == ALL_FAMILIES and len(names) > 2:
                notes.append(f"{len(names) - 1} families pooled, whose latents differ in size")
            labels = {**panel.labels, "family": family, "metric": metric, "n": sample.n}
            labels |= {"expected_sign": sign, "confidence": analysis.confidence}
            for row in own:
                # a statistic's own n (clusters of the between part) wins
                yield {**labels, **row, "note": join_notes(row["note"], *notes)}


def _covariates(table: Measured, panel: Panel, names: Sequence[str]) -> dict[str, pd.Series]:
    known = {}
    for name in names:
        rows = cells(table, name, panel.target, panel.backbone, panel.cfg).rows
        known[name] = rows.set_index("tokenizer")["x"]
    return known


def _corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill Holm's and Benjamini-Yekutieli's p over the metrics of a panel and a statistic."""
    numbers = ["value", "low", "high", "cluster_low", "cluster_high", "p", "p_holm", "p_by"]
    frame = frame.astype(dict.fromkeys([*numbers, "cfg"], float))
    frame["expected_sign"] = frame["expected_sign"].astype(float)
    key = [*PANEL_KEY, "statistic"]
    corrected = {name: np.full(len(frame), np.nan) for name in ("p_holm", "p_by")}
    tested = np.flatnonzero(frame["p"].notna())
    groups = frame.iloc[tested].groupby(key, sort=False, dropna=False).indices
    for places in groups.values():
        p = frame["p"].to_numpy()[tested[places]]
        corrected["p_holm"][tested[places]] = holm(p)
        corrected["p_by"][tested[places]] = stats.false_discovery_control(p, method="by")
    return frame.assign(**corrected)


def holm(p: Array) -> Array:
    """Return p-values (m,) corrected for m tests by Holm's step-down method, in [0, 1]."""
    order = np.argsort(p)
    # largest so far: a larger p is never corrected to a smaller one
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected
