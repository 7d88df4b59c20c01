"""Which metric stands for a perspective: chosen inside the cross-validation, and naively."""

import math
from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusability.analysis.estimators import Array, standardise
from diffusability.analysis.regression import leave_cluster_out, q2_score
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import Measured, Table, cells, families, panels, predictors

COLUMNS = (
    "target",
    "backbone",
    "cfg",
    "family",
    "perspective",
    "candidates",
    "naive_metric",
    "naive_r",
    "naive_r2",
    "naive_q2",
    "nested_q2",
    "optimism",
    "chosen",
    "agreement",
    "n",
    "clusters",
    "note",
)


def choose_metrics(table: Table) -> pd.DataFrame:
    """Choose the metric of each perspective twice: on all tokenizers, and inside the folds.

    Choosing the best of several metrics and judging it on the same tokenizers flatters it. Here
    each cluster is left out in turn, the metric with the largest |r| on the rest is chosen and
    fitted there, and the left-out cluster is predicted.

    Args:
        table: a checked tidy table (``check_measurements``).

    Returns:
        One row a panel, family and perspective (the part of a metric's name before the dot):
        the naive choice with r, R² in sample and Q² of that fixed metric; ``nested_q2`` of the
        whole procedure; ``optimism`` = naive_r2 - nested_q2, what the naive number promises too
        much; ``chosen`` metrics with their number of folds; ``agreement``: share of folds that
        choose the naive metric. NaN with a ``note`` where impossible.
    """
    table = Measured.of(table)
    groups: dict[str, list[str]] = {}
    for name in predictors(table):
        groups.setdefault(name.split(".")[0], []).append(name)
    rows = []
    for panel in panels(table):
        for perspective, names in groups.items():
            where = (panel.target, panel.backbone, panel.cfg)
            paired = {name: cells(table, name, *where) for name in names}
            for family in families(table):
                parts = {name: part.of_family(family).rows for name, part in paired.items()}
                labels = {**panel.labels, "family": family, "perspective": perspective}
                rows.append(labels | _choice(parts))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def nested_predictions(X: Array, y: Array, clusters: NDArray[np.int64]) -> tuple[Array, list[int]]:
    """Return predictions of left-out clusters and the column chosen in each fold.

    Args:
        X: (n, m) candidate metrics. y: (n,) target. clusters: (n,) codes 0 ... G-1.

    Returns:
        (n,) predictions in the unit of y, NaN where a fold cannot be fitted; one column a fold.
    """
    predicted, chosen = np.full(len(y), np.nan), []
    for code in np.unique(clusters):
        out = clusters == code
        if (~out).sum() < 3:
            continue
        best = strongest(X[~out], y[~out])
        if best is None:
            continue
        chosen.append(best)
        two = np.where(out, 0, 1)  # this fold alone: the rest predicts the cluster
        predicted[out] = leave_cluster_out(X[:, [best]], y, two)[out]
    return predicted, chosen


def strongest(X: Array, y: Array) -> int | None:
    """Return the column of X (n, m) with the largest |r| with y (n,), None if all are constant."""
    if not X.shape[1]:
        return None
    strength = np.abs(standardise(X).T @ standardise(y))
    if not strength.max():
        return None
    return int(np.argmax(strength))


def _choice(parts: dict[str, pd.DataFrame]) -> dict[str, object]:
    """Return both choices of one perspective from the paired rows of its metrics."""
    most = max(len(part) for part in parts.values())
    # a metric that some tokenizers lack cannot be compared with those that all have
    whole = [name for name in parts if len(parts[name]) == most]
    short = [name for name in parts if len(parts[name]) < most]
    note = f"not measured for all tokenizers: {', '.join(short)}" if short else ""
    base = parts[whole[0]]
    X = np.column_stack(
        [parts[n].set_index("tokenizer")["x"].reindex(base["tokenizer"]) for n in whole]
    )
    y, clusters = base["y"].to_numpy(float), pd.factorize(base["cluster"])[0]
    flat = [n for n, column in zip(whole, X.T, strict=True) if not standardise(column).any()]
    note = join_notes(note, f"constant: {', '.join(flat)}" if flat and len(base) > 1 else "")
    row = {"candidates": len(whole), "n": len(y), "clusters": len(set(clusters))}
    best = strongest(X, y) if len(y) >= 4 and np.isfinite(X).all() else None
    if best is None:
        reason = "fewer than 4 tokenizers, or nothing varies: no choice"
        return row | {"note": join_notes(reason, note)}
    r = float(standardise(X[:, best]) @ standardise(y) / len(y))
    predicted, folds = nested_predictions(X, y, clusters)
    nested = q2_score(predicted, y)
    if math.isnan(nested):
        note = join_notes("too few clusters to leave one out", note)
    counts = Counter(whole[i] for i in folds)
    return row | {
        "naive_metric": whole[best],
        "naive_r": r,
        "naive_r2": r * r,
        "naive_q2": q2_score(leave_cluster_out(X[:, [best]], y, clusters), y),
        "nested_q2": nested,
        "optimism": r * r - nested,
        "chosen": ", ".join(f"{name} ({count})" for name, count in counts.most_common()),
        "agreement": counts[whole[best]] / len(folds) if folds else math.nan,
        "note": note,
    }
