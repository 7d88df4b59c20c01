"""Correlations of metrics with generation quality, and of metrics with each other."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import fdrcorrection

from diffusability.analysis.catalogue import HEADLINE, PROBE, RECONSTRUCTION, SHOWN_METRICS
from diffusability.analysis.estimators import (
    FEWEST,
    Array,
    holm,
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
        covariate = paired(table, RECONSTRUCTION, panel, family).rows.set_index("tokenizer")["x"]
        parts = {metric: paired(table, metric, panel, family) for metric in metrics}
        parts = {metric: part for metric, part in parts.items() if len(part.rows) >= FEWEST}
        found = _statistics(parts, covariate, confidence)
        without_generation = failed(table, panel, family)
        for metric, part in parts.items():
            row = found[metric]
            row["note"] = join_notes(str(row["note"]), part.missing_note())
            yield {
                **panel.labels,
                **{"family": family, "metric": metric},
                **row,
                "expected_sign": expected_sign(table, metric, panel.target),
                "at_chance": at_chance(table, metric, family),
                "failed": without_generation,
            }


def _statistics(
    parts: Mapping[str, Cells], covariate: pd.Series, confidence: float
) -> dict[str, dict[str, object]]:
    """Return the statistics of every metric; metrics of the same tokenizers are done at once."""
    found: dict[str, dict[str, object]] = {}
    alike: dict[tuple[str, ...], list[str]] = {}
    for metric, part in parts.items():
        rows = part.rows
        found[metric] = {"n": len(rows), "clusters": rows["cluster"].nunique()}
        flat = [
            name
            for name, side in (("metric", "x"), ("target", "y"))
            if not standardise(rows[side].to_numpy(float)).any()
        ]
        if flat:
            found[metric]["note"] = f"the {' and the '.join(flat)} is constant: no correlation"
        else:
            alike.setdefault(tuple(rows["tokenizer"]), []).append(metric)
    for names in alike.values():
        for metric, row in zip(
            names, _of_columns([parts[n].rows for n in names], covariate, confidence), strict=True
        ):
            found[metric] |= row
            if metric == RECONSTRUCTION:  # nothing is left of it where it is held fixed
                found[metric] = {
                    key: value for key, value in found[metric].items() if "partial" not in key
                }
    return found


def _of_columns(
    parts: Sequence[pd.DataFrame], covariate: pd.Series, confidence: float
) -> list[dict[str, object]]:
    """Return the statistics of P metrics over the same n tokenizers, none of them constant."""
    rows = parts[0]
    x, y = (np.column_stack([part[side] for part in parts]) for side in ("x", "y"))  # (n, P)
    labels = rows[UNITS].to_numpy(object)
    kinds = {
        "pearson": cluster_interval(pearson, (x, y), labels, confidence),
        "spearman": cluster_interval(spearman, (x, y), labels, confidence),
    }
    held = rows["tokenizer"].map(covariate).to_numpy(float)
    there = np.isfinite(held)
    if there.sum() > FEWEST:
        data = (x[there], y[there], held[there])
        kinds["pearson_partial"] = cluster_interval(partial, data, labels[there], confidence)
    moved = [_influence(x, y, rows["tokenizer"]), _influence(x, y, rows["cluster"], "_cluster")]
    plain = kinds["pearson"]
    return [
        {
            **{key: v for kind, of in kinds.items() for key, v in of.columns(kind, k).items()},
            "pearson_p": float(plain.p[k]),
            **moved[0][k],
            **moved[1][k],
            "note": plain.note if math.isnan(plain.low[k]) else "",
        }
        for k in range(len(parts))
    ]


def _influence(x: Array, y: Array, groups: pd.Series, end: str = "") -> list[dict[str, object]]:
    """Return the range of each r without any one group of points, and the group that moves it most.

    Groups are tokenizers or clusters; ``end`` is the ending of the column names.
    """
    names, without = without_each(pearson, (x, y), groups)
    keys = f"without{end}_low", f"without{end}_high", f"influential{end}"
    found: list[dict[str, object]] = []
    for r, own in zip(pearson(x, y), without.T, strict=True):
        if np.isfinite(own).any():
            most = names[int(np.nanargmax(np.abs(own - r)))]
            values: tuple[object, ...] = (np.nanmin(own), np.nanmax(own), most)
        else:
            values = (math.nan, math.nan, "")
        found.append(dict(zip(keys, values, strict=True)))
    return found


def _corrected(frame: pd.DataFrame, panel: list[str]) -> pd.DataFrame:
    """Fill Holm's and Benjamini-Yekutieli's p over the metrics of a panel and family."""
    tested = frame[frame["pearson_p"].notna()]
    for rows in tested.groupby([*panel, "family"], sort=False, dropna=False).groups.values():
        p = frame.loc[rows, "pearson_p"].to_numpy(float)
        frame.loc[rows, "pearson_p_holm"] = holm(p)
        frame.loc[rows, "pearson_p_by"] = fdrcorrection(p, method="negcorr")[1]
    return frame
