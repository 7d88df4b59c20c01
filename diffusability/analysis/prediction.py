"""Generation quality that a study expects of a further latent space, with an interval.

A linear fit of the logarithm of a target on one or two headline metrics, over the tokenizers of one
family. The metrics are those that predict left-out clusters best. Everything that is said about
the fit comes from a second leaving-out around the first: each cluster is predicted by a fit, and a
choice of metrics, that have not seen it. A further latent space also belongs to a cluster that the
study has not seen, so these errors are its errors too. Coverage by simulation: docs/statistics.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.regression.linear_model import OLS

from diffusability.analysis.catalogue import HEADLINE
from diffusability.analysis.estimators import Array, left_out_predictions, standardise
from diffusability.analysis.failed import failed
from diffusability.analysis.frames import table_frame
from diffusability.analysis.intervals import MIN_CLUSTERS
from diffusability.analysis.panels import (
    Measured,
    Panel,
    Table,
    headline_targets,
    matching,
    paired,
    paired_together,
    panels,
    predictors,
)

MOST = 2  # metrics of a fit
FEWEST = 8  # tokenizers of a fit
LEVEL = 0.8  # of the intervals
SHOWN_LEVEL = f"{100 * LEVEL:.0f} %"


@dataclass(frozen=True)
class Points:
    """The tokenizers of one family in one panel.

    Attributes:
        metrics: m names. x: (n, m) their values. y: (n,) logarithms of the target.
        clusters: (n,) numbers of their clusters, from 0. tokenizers: n names.
        failed: whether most of the diffusion models failed.
    """

    metrics: tuple[str, ...]
    x: Array
    y: Array
    clusters: NDArray[np.int64]
    tokenizers: tuple[str, ...]
    failed: bool = False

    def of(self, chosen: NDArray[np.bool_]) -> "Points":
        """Return the points of some tokenizers."""
        clusters = pd.factorize(self.clusters[chosen])[0].astype(np.int64)
        names = tuple(n for n, there in zip(self.tokenizers, chosen, strict=True) if there)
        return Points(self.metrics, self.x[chosen], self.y[chosen], clusters, names, self.failed)

    @property
    def groups(self) -> range:
        """Numbers of the clusters."""
        return range(int(self.clusters.max()) + 1 if len(self.clusters) else 0)

    def squares(self, predicted: Array) -> Array:
        """Return (G,) mean squared errors of the clusters, from (n,) predictions."""
        squares = (predicted - self.y) ** 2
        return np.array([squares[self.clusters == group].mean() for group in self.groups])

    @property
    def lack(self) -> str:
        """Why nothing can be fitted, or empty."""
        if self.failed:
            return "most of its diffusion models failed"
        largest = int(np.bincount(self.clusters).max()) if len(self.clusters) else 0
        if len(self.groups) < MIN_CLUSTERS or len(self.y) - largest < MOST + 2:
            return f"{len(self.groups)} clusters are too few to leave one out"
        if len(self.y) < FEWEST:
            return f"{len(self.y)} tokenizers are too few; it takes {FEWEST}"
        if not self.metrics:
            return "no headline metric was measured of all of them"
        return "" if np.ptp(self.y) > 0 else "all have the same target"


class Line:
    """A least-squares fit on chosen columns of the metrics, with its intercept."""

    def __init__(self, points: Points, columns: Sequence[int]) -> None:
        """Fit by least squares."""
        self.columns = tuple(columns)
        self.fit = OLS(points.y, _design(points.x, columns)).fit()

    def __call__(self, x: Array) -> Array:
        """Return (n,) predictions of (n, m) values of all metrics."""
        return np.asarray(self.fit.predict(_design(x, self.columns)))

    def leverage(self, x: Array) -> Array:
        """Return (n,) how far (n, m) values are from those of the fit; 1/n at their mean."""
        design = _design(x, self.columns)
        return np.asarray(((design @ self.fit.normalized_cov_params) * design).sum(axis=1))


def _design(x: Array, columns: Sequence[int]) -> Array:
    """Return (n, 1 + k): ones and the chosen columns."""
    return np.column_stack([np.ones(len(x)), x[:, list(columns)]])


def chosen_line(points: Points) -> Line:
    """Return the fit on one or two metrics that predicts left-out clusters best."""
    names = range(len(points.metrics))
    models = [c for k in range(1, MOST + 1) for c in combinations(names, k)]
    x = standardise(points.x)
    errors = [_left_out_error(points, x[:, list(model)]) for model in models]
    return Line(points, models[int(np.argmin(errors))])


def _left_out_error(points: Points, x: Array) -> float:
    """Return the mean squared error of left-out clusters; infinite where a fit is undetermined."""
    predicted, determined = left_out_predictions(x, points.y, points.clusters)
    return float(points.squares(predicted).mean()) if determined else math.inf


class Forecast:
    """The fit of a study, and what leaving out each cluster in turn says about it.

    Attributes:
        points, line: the fit. metrics: the chosen ones.
        predicted: (n,) predictions of each cluster by a fit that has not seen it.
        error: root mean square over clusters of the error in the logarithm of the target.
        skill: 1 - squared error over that of predicting the mean of the other clusters; 0: no use.
        least_skill: the smallest skill when any one cluster is not scored.
        spearman: Spearman's correlation of left-out predictions with the truth.
        coverage: share of tokenizers whose interval, from the other clusters alone, holds the
            truth.
    """

    def __init__(self, points: Points) -> None:
        """Fit to points whose `lack` is empty, and predict every cluster without it."""
        self.points, self.line = points, chosen_line(points)
        self.metrics = tuple(points.metrics[column] for column in self.line.columns)
        self.predicted, baseline, reach = (np.empty(len(points.y)) for _ in range(3))
        for group in points.groups:
            own = points.clusters == group
            rest = points.of(~own)
            self.predicted[own] = chosen_line(rest)(points.x[own])
            reach[own] = Line(rest, self.line.columns).leverage(points.x[own])
            baseline[own] = rest.y.mean()
        self._reach = float(reach.max())
        errors, without_metrics = points.squares(self.predicted), points.squares(baseline)
        of_others = errors.sum() - errors  # (G,)
        self.error = float(errors.mean() ** 0.5)
        self.skill = float(1 - errors.sum() / without_metrics.sum())
        least = 1 - of_others / (without_metrics.sum() - without_metrics)
        self.least_skill = float(least.min())
        self.spearman = float(stats.spearmanr(self.predicted, points.y).statistic)
        others = len(errors) - 1
        widths = np.sqrt(of_others / others) * _quantile(others)
        held = np.abs(self.predicted - points.y) <= widths[points.clusters]
        self.coverage = float(held.mean())

    @property
    def lack(self) -> str:
        """Why the study cannot predict, or empty."""
        if self.skill <= 0 or self.spearman <= 0:
            return (
                "its metrics predict left-out clusters no better than the mean of the others does "
                f"(squared error {1 - self.skill:.2f} times as large, Spearman {self.spearman:.2f})"
            )
        if self.least_skill <= 0:
            return (
                "without one cluster, its metrics predict left-out clusters no better than the "
                "mean of the others does"
            )
        return ""

    def outside(self, x: Array) -> bool:
        """Whether (m,) values are farther from the known ones than any left-out cluster is."""
        return bool(self.line.leverage(x[None])[0] > self._reach)

    def predict(self, x: Array) -> tuple[float, float, float]:
        """Return the target expected at (m,) values of all metrics, and its interval's ends."""
        middle = float(self.line(x[None])[0])
        width = _quantile(len(self.points.groups)) * self.error
        return math.exp(middle), math.exp(middle - width), math.exp(middle + width)


def _quantile(clusters: int) -> float:
    """Return Student's quantile of the two-sided level, one degree of freedom per cluster."""
    return float(stats.t.ppf((1 + LEVEL) / 2, clusters))


def points_of(
    table: Table, panel: Panel, family: str, metrics: Sequence[str] | None = None
) -> Points:
    """Return the tokenizers of a family that have the target and every metric.

    By default the metrics are the headline metrics that most tokenizers have.
    """
    table = Measured.of(table)
    names = matching(predictors(table), HEADLINE) if metrics is None else list(metrics)
    parts = {name: len(paired(table, name, panel, family).rows) for name in names}
    most = max(parts.values(), default=0)
    names = [name for name, n in parts.items() if n == most and most]
    if not names:
        return Points((), np.empty((0, 0)), np.empty(0), np.empty(0, np.int64), ())
    rows, x = paired_together(table, names, panel, family)
    positive = (rows["y"] > 0).to_numpy()
    rows, x = rows[positive], x[positive]
    varying = np.ptp(x, axis=0) > 0 if len(x) else np.zeros(len(names), bool)
    return Points(
        tuple(name for name, moves in zip(names, varying, strict=True) if moves),
        x[:, varying].astype(np.float64),
        np.log(rows["y"].to_numpy(np.float64)),
        pd.factorize(rows["cluster"])[0].astype(np.int64),
        tuple(map(str, rows.index)),
        failed(table, panel, family),
    )


def predictable_panels(table: Table) -> list[Panel]:
    """Return the panels that are predicted: every headline target at its smallest guidance."""
    found: dict[tuple[str, str], Panel] = {}
    for panel in panels(table, headline_targets(table)):
        found.setdefault((panel.target, panel.backbone), panel)
    return list(found.values())


def predictions(table: Table) -> pd.DataFrame:
    """Return how well each panel and family predicts the clusters that are left out.

    The columns: report/captions/tables/predictions.rst.
    """
    table = Measured.of(table)
    rows: list[Mapping[str, object]] = []
    for panel in predictable_panels(table):
        for family in table.families:
            points = points_of(table, panel, family)
            row = {**panel.labels, "family": family, "n": len(points.y)}
            row["clusters"] = len(points.groups)
            if points.lack:
                rows.append({**row, "note": points.lack})
                continue
            found = Forecast(points)
            row |= {"metrics": " + ".join(found.metrics), "spearman": found.spearman}
            row |= {"skill": max(found.skill, -1.0), "error_factor": math.exp(found.error)}
            rows.append({**row, "held": found.coverage, "note": found.lack})
    return table_frame("predictions", rows)
