"""Correlations of metrics with generation quality, and of metrics with each other."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from diffusability.analysis.catalogue import HEADLINE, PROBE, RECONSTRUCTION, SHOWN_METRICS
from diffusability.analysis.estimators import (
    FEWEST,
    Array,
    partial,
    pearson,
    spearman,
    standardise,
)
from diffusability.analysis.failed import failed
from diffusability.analysis.frames import is_true, join_notes, table_frame
from diffusability.analysis.intervals import cluster_interval, without_each
from diffusability.analysis.pairing import UNITS, Cells
from diffusability.analysis.panels import (
    Measured,
    Panel,
    Table,
    at_chance,
    expected_sign,
    headline_targets,
    matching,
    paired,
    panels,
    predictors,
)
from diffusability.study.planning.tables import BEST
from diffusability.study.study import DEFAULTS, AnalysisSpec


def sign(row: Mapping[Any, Any]) -> float:
    """Return the sign that turns a row of correlations; 1 where a metric declares no direction."""
    return 1.0 if pd.isna(row["expected_sign"]) else float(row["expected_sign"])


def turned(row: Mapping[Any, Any], statistic: str = "pearson") -> tuple[float, float, float]:
    """Return a correlation of a row and the ends of its interval, turned.

    Positive means: a better metric, as it declares, goes with a better target.
    """
    low, high = sorted(sign(row) * float(row[f"{statistic}_{end}"]) for end in ("low", "high"))
    return sign(row) * float(row[statistic]), low, high


def meaningless(row: Mapping[Any, Any]) -> bool:
    """Return whether a correlation says nothing: the metric is at chance, or generation failed."""
    return is_true(row["at_chance"]) or is_true(row["failed"])


def at_smallest_guidance(correlations: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each backbone's smallest guidance scale."""
    rows = correlations[correlations["guidance"] != BEST]
    scales = rows["guidance"].astype(float)
    return rows[scales == scales.groupby(rows["backbone"]).transform("min")]


def correlate(table: Table, analysis: AnalysisSpec = DEFAULTS) -> pd.DataFrame:
    """Return the correlation of every shown metric with every headline target.

    Families are never pooled. The columns: report/captions/tables/correlations.rst.
    """
    table = Measured.of(table)
    metrics = matching(predictors(table), SHOWN_METRICS)
    rows = [
        row
        for panel in panels(table, headline_targets(table))
        for row in _panel_rows(table, panel, metrics, analysis.confidence)
    ]
    return _corrected(table_frame("correlations", rows), ["target", "backbone", "guidance"])


def intercorrelate(table: Table, analysis: AnalysisSpec = DEFAULTS) -> pd.DataFrame:
    """Return the correlations between latent metrics: ``target`` is the second metric of a pair.

    Every pair of the headline metrics and the probe is used once.
    """
    table = Measured.of(table)
    names = matching(predictors(table), (*HEADLINE, PROBE))
    rows = [
        row
        for index, second in enumerate(names)
        for row in _panel_rows(table, Panel(second, "", None), names[:index], analysis.confidence)
    ]
    return table_frame("intercorrelations", rows)


def _panel_rows(
    table: Measured, panel: Panel, metrics: Sequence[str], confidence: float
) -> Iterator[dict[str, object]]:
    for family in table.families:
        given = paired(table, RECONSTRUCTION, panel, family).rows
        covariate = given.set_index("tokenizer")["x"]
        for metric in metrics:
            part = paired(table, metric, panel, family)
            if len(part.rows) < FEWEST:
                continue
            yield {
                **panel.labels,
                **{"family": family, "metric": metric},
                **_statistics(part, covariate, metric, confidence),
                "expected_sign": expected_sign(table, metric, panel.target),
                "at_chance": at_chance(table, metric, family),
                "failed": failed(table, panel, family),
            }


def _statistics(
    part: Cells, covariate: pd.Series, metric: str, confidence: float
) -> dict[str, object]:
    """Return the statistics of one metric and target over the tokenizers of one family."""
    rows = part.rows
    x, y, clusters = rows["x"].to_numpy(float), rows["y"].to_numpy(float), rows["cluster"]
    labels = rows[UNITS].to_numpy(object)
    found: dict[str, object] = {"n": len(rows), "clusters": clusters.nunique()}
    sides = (("metric", x), ("target", y))
    flat = [name for name, values in sides if not standardise(values).any()]
    missing = part.missing_note()
    if flat:
        problem = f"the {' and the '.join(flat)} is constant: no correlation"
        return found | {"note": join_notes(problem, missing)}
    plain = cluster_interval(pearson, (x, y), labels, confidence)
    rank = cluster_interval(spearman, (x, y), labels, confidence)
    found |= plain.columns("pearson") | rank.columns("spearman")
    found |= {"pearson_p": float(plain.p[0]), **_influence(x, y, rows["tokenizer"])}
    found |= _influence(x, y, clusters, "_cluster")
    held = rows["tokenizer"].map(covariate).to_numpy(float)
    there = np.isfinite(held)
    if metric != RECONSTRUCTION and there.sum() > FEWEST:
        data = (x[there], y[there], held[there])
        given = cluster_interval(partial, data, labels[there], confidence)
        found |= given.columns("pearson_partial")
    return found | {"note": join_notes(plain.note, missing)}


def _influence(x: Array, y: Array, groups: pd.Series, end: str = "") -> dict[str, object]:
    """Return the range of r without any one group of points, and the group that moves it most.

    Groups are tokenizers or clusters; ``end`` is the ending of the column names.
    """
    names, without = without_each(pearson, (x, y), groups)
    low, high, most = f"without{end}_low", f"without{end}_high", f"influential{end}"
    if not np.isfinite(without).any():
        return {low: math.nan, high: math.nan, most: ""}
    moved = np.abs(without - pearson(x, y)[0])
    return {
        **{low: np.nanmin(without), high: np.nanmax(without)},
        most: names[int(np.nanargmax(moved))],
    }


def _corrected(frame: pd.DataFrame, panel: list[str]) -> pd.DataFrame:
    """Fill Holm's and Benjamini-Yekutieli's p over the metrics of a panel and family."""
    tested = frame[frame["pearson_p"].notna()]
    for rows in tested.groupby([*panel, "family"], sort=False, dropna=False).groups.values():
        for name, method in (("holm", "holm"), ("by", "fdr_by")):
            corrected = multipletests(frame.loc[rows, "pearson_p"], method=method)[1]
            frame.loc[rows, f"pearson_p_{name}"] = corrected
    return frame
