"""Selection of a metric per perspective by nested cross-validation, and ranking accuracy."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusability.analysis.estimators import (
    Array,
    Estimator,
    columns,
    pair_signs,
    pair_sums,
    standardise,
)
from diffusability.analysis.frames import join_notes, table_frame
from diffusability.analysis.intervals import Draws, bootstrap_intervals
from diffusability.analysis.panels import (
    Measured,
    Table,
    cells,
    families,
    headline_targets,
    panels,
    predictors,
)


def choose_metrics(table: Table) -> pd.DataFrame:
    """Choose the metric of each perspective twice: on all tokenizers, and within the folds.

    Choosing the best of several metrics and evaluating it on the same tokenizers is optimistic.
    Here each cluster is left out in turn, the metric with the largest |r| on the rest is chosen and
    fitted there, and the left-out cluster is predicted.

    Args:
        table: a checked tidy table (``check_measurements``).

    Returns:
        One row per panel, family and perspective (the part of a metric's name before the dot):
        the naive choice with r, R² in sample and Q² of that fixed metric; ``nested_q2`` of the
        whole procedure; ``optimism`` = naive_r2 - nested_q2, the over-optimism of the naive
        number; ``chosen`` metrics with their number of folds; ``agreement``: share of folds that
        choose the naive metric. NaN with a ``note`` if undefined.
    """
    table = Measured.of(table)
    groups: dict[str, list[str]] = {}
    for name in predictors(table):
        groups.setdefault(name.split(".")[0], []).append(name)
    rows = []
    for panel in panels(table, headline_targets(table)):
        for perspective, names in groups.items():
            where = (panel.target, panel.backbone, panel.guidance)
            paired = {name: cells(table, name, *where) for name in names}
            for family in families(table):
                parts = {name: part.of_family(family).rows for name, part in paired.items()}
                labels = {**panel.labels, "family": family, "perspective": perspective}
                rows.append(labels | _choice(parts))
    return table_frame("selection", rows)


def nested_predictions(X: Array, y: Array, clusters: NDArray[np.int64]) -> tuple[Array, list[int]]:
    """Return predictions of left-out clusters and the column chosen in each fold.

    Args:
        X: (n, m) candidate metrics. y: (n,) target. clusters: (n,) codes 0 ... G-1.

    Returns:
        (n,) predictions in the unit of y, NaN where a fold cannot be fitted; one column per fold.
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


def leave_cluster_out(X: Array, y: Array, clusters: NDArray[np.int64]) -> Array:
    """Return predictions (n,) of y (n,) from fits on X (n, k) without the point's cluster.

    NaN if the other clusters have too few points for a fit.
    """
    predicted = np.full(len(y), np.nan)
    design = np.column_stack([np.ones(len(y)), X])
    for code in np.unique(clusters):
        out = clusters == code
        if (~out).sum() < design.shape[1] + 1:
            continue
        coefficients = np.linalg.lstsq(design[~out], y[~out], rcond=None)[0]
        predicted[out] = design[out] @ coefficients
    return predicted


def q2_score(predicted: Array, y: Array) -> float:
    """Return Q² = 1 - PRESS/SST: 1 perfect, 0 as good as the mean; NaN if one is missing."""
    if np.isnan(predicted).any():
        return math.nan
    return float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def strongest(X: Array, y: Array) -> int | None:
    """Return the column of X (n, m) with the largest |r| with y (n,), None if all are constant."""
    if not X.shape[1]:
        return None
    strength = np.abs(standardise(X).T @ standardise(y))
    if not strength.max():
        return None
    return int(np.argmax(strength))


def _choice(parts: dict[str, pd.DataFrame]) -> dict[str, object]:
    """Return both choices for one perspective from the paired rows of its metrics."""
    most = max(len(part) for part in parts.values())
    # metrics missing for some tokenizers are not comparable with the others
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
        reason = "fewer than 4 tokenizers, or all metrics are constant: no choice"
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


@dataclass(frozen=True)
class Ordering:
    """Pairwise ordering accuracy of P scores.

    Attributes:
        accuracy: (P,) share of the pairs that a score orders correctly, ties counting half, in
            [0, 1]; 0.5 is chance, higher is better. NaN if no pair can be distinguished.
        pairs: number of pairs that differ by more than twice their noise.
        estimator: 2 accuracy - 1, a rank correlation like Kendall's tau, under resampling.
        note: caveat on the threshold.
    """

    accuracy: Array
    pairs: int
    estimator: Estimator
    note: str

    def intervals(
        self, draws: Draws, confidence: float = 0.95, resamples: int = 9999
    ) -> list[tuple[float | None, float | None]]:
        """Return the interval of each accuracy, or None (see ``intervals``)."""
        found = bootstrap_intervals(self.estimator, draws, confidence, resamples)
        return [
            (None, None)
            if interval.low is None or interval.high is None
            else ((1 + interval.low) / 2, (1 + interval.high) / 2)
            for interval in found
        ]


def order_pairs(score: Array, y: Array, y_stderr: Array) -> Ordering:
    """Return the share of tokenizer pairs whose order in y a score predicts correctly.

    Only pairs with |y_i - y_j| > 2 sqrt(se_i² + se_j²) count: the others have no known order.

    Args:
        score: (n,) or (n, P) predicted target, in any unit, larger for a larger target.
        y: (n,) target. y_stderr: (n,) its standard error; NaN counts as 0, and is noted.

    Returns:
        Accuracies, number of pairs, and the estimator for intervals.
    """
    unknown = int(np.isnan(y_stderr).sum())
    square = np.nan_to_num(y_stderr) ** 2
    first, second = np.triu_indices(len(y), 1)
    gap, noise = np.abs(y[first] - y[second]), np.sqrt(square[first] + square[second])
    counted = (gap > 2 * noise)[:, None] * 1.0  # (pairs, 1)
    signed = counted * pair_signs(columns(score)) * pair_signs(columns(y))  # (pairs, P)
    both = np.concatenate([counted, signed], axis=1)

    def weighted(weights: Array) -> Array:
        # pairs of copies of one tokenizer have no gap and never count
        sums = pair_sums(weights, both)
        total, excess = sums[:, :1], sums[:, 1:]
        return np.where(total > 0, excess / np.where(total > 0, total, 1.0), np.nan)

    pairs, n = int(counted.sum()), len(y)
    # normal theory of tau as an approximation: a perfect order of few points stays uncertain
    variance = 0.437 / (n - 4) if n > 4 else float("inf")
    estimator = Estimator(weighted, n, z_variance=variance, step=1 / max(pairs, 2))
    note = f"{unknown} tokenizers without standard error: taken as 0" if unknown else ""
    if not pairs:
        note = "no two tokenizers differ by more than twice their noise"
    return Ordering((1 + estimator.values) / 2, pairs, estimator, note)


def top1_regret(score: Array, y: Array, better_high: bool) -> float:
    """Return the loss from choosing the tokenizer that a score ranks first.

    Args:
        score: (n,) predicted target, larger for a larger target. y: (n,) target.
        better_high: whether a higher target is better.

    Returns:
        Distance of the chosen target from the best, in its unit, at least 0 (lower is better).
        Ties for the first rank are averaged.
    """
    direction = 1.0 if better_high else -1.0
    best = direction * score
    chosen = y[best == best.max()].mean()
    return float((direction * y).max() - direction * chosen)
