"""One statistic per claim, joint over all its rows, with one interval over clusters.

A row is a metric and a target over the tokenizers of one family. All rows of a claim share the
clusters, so leaving out a cluster leaves it out of every row, and their dependence enters the
interval without any assumption on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffusability.analysis.estimators import (
    Array,
    adjusted_r2,
    average,
    deviation,
    partial,
    pearson,
    standardise,
    within,
)
from diffusability.analysis.intervals import (
    CORRELATION,
    LOGARITHM,
    MIN_CLUSTERS,
    MIN_POINTS,
    PLAIN,
    Interval,
    Labels,
    Scale,
    exact_share,
    jackknife_interval,
    left_out,
)

Kind = Literal[
    "correlation",  # mean of r over the rows of a term, on the scale of Fisher's z
    "within",  # the same after subtracting cluster means
    "partial",  # the same given another metric
    "slope",  # of the rows' z on the paper's: 0 no relation to its order, 1 as far apart
    "offset",  # mean of r minus the paper's value
    "range",  # largest minus smallest r over the backbones of a metric and family
    "range_over_families",  # the same over the families of a metric and backbone
    "shared",  # mean adjusted r² of pairs of metrics
    "fit",  # mean adjusted R² of the target on several metrics
    "sd",  # mean over families of the standard deviation of a metric
    "mean",  # over tokenizers of a number
    "share",  # of tokenizers for which something holds
]
# nominal intervals of these miss on one side in up to 6 %, not 2.5 %: they get half the tails
_SKEWED = ("shared", "sd")
# label that is the same in the rows of one range
RANGES: Mapping[str, str] = {"range": "family", "range_over_families": "backbone"}
FEWEST = 3  # tokenizers of a correlation
CORRELATIONS = ("correlation", "within", "partial")


@dataclass(frozen=True)
class Row:
    """A metric and a target over the n tokenizers of one family, for P data sets at once.

    Attributes:
        labels: what it is of: target, backbone, guidance, family, metric.
        index: (n,) its tokenizers among those of the study.
        x: (n, P) metric, sign-oriented: positive r agrees with the declared direction; of a
            ``fit`` (n, k) metrics.
        y: (n, P) target; empty for statistics of x alone. given: (n, P) metric held fixed.
        paper: the paper's r of this row; NaN if it gives none.
    """

    labels: Mapping[str, object]
    index: NDArray[np.int64]
    x: Array
    y: Array = field(default_factory=lambda: np.empty((0, 1)))
    given: Array = field(default_factory=lambda: np.empty((0, 1)))
    paper: float = float("nan")

    @property
    def constant(self) -> bool:
        """Whether nothing can be correlated because a column is constant."""
        y = len(self.y) and not standardise(self.y).any(axis=0).all()
        return bool(y or not standardise(self.x).any(axis=0).all())


@dataclass(frozen=True)
class Terms:
    """The rows of a claim: each term is a mean over its rows; ``minus`` are subtracted."""

    plus: Sequence[Sequence[Row]]
    minus: Sequence[Sequence[Row]] = ()

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [row for term in (*self.plus, *self.minus) for row in term]

    def map(self, function: Callable[[Row], Row]) -> "Terms":
        """Return the terms with every row changed."""
        plus, minus = (
            [[function(row) for row in term] for term in side] for side in (self.plus, self.minus)
        )
        return Terms(plus, minus)


def evaluate(
    kind: Kind,
    terms: Terms,
    clusters: Labels,
    confidence: float = 0.95,
    least: bool = False,
) -> Interval:
    """Return the joint statistic of a claim with its interval over clusters.

    Args:
        kind: of the statistic. terms: its rows.
        clusters: (N,) label of every tokenizer of the study.
        confidence: nominal coverage.
        least: the smallest of the terms instead of their sum. It is at least a value if every
            term is (no correction is needed for that), and below it if any one is (corrected for
            the number of terms).

    Returns:
        P intervals; NaN with a note if there are too few clusters or a term is undefined.
    """
    used = np.unique(np.concatenate([row.index for row in terms.rows]))
    labels = np.asarray(clusters, dtype=object)[used]
    place = {int(old): new for new, old in enumerate(used)}
    terms = terms.map(lambda row: replace(row, index=np.array([place[i] for i in row.index])))
    weights = np.concatenate([np.ones((1, len(used))), left_out(labels)])
    values, lost = (
        [_term(kind, rows, weights, labels) for rows in side] for side in (terms.plus, terms.minus)
    )
    nothing = np.full_like(values[0][0], np.nan)
    count = len(weights) - 1
    scale = _scale(kind, 1, 0) if least else _scale(kind, len(terms.plus), len(terms.minus))
    if least:
        smallest = np.min([value[0] for value in values], axis=0)
    else:
        total: Array = np.sum(values, axis=0) - (np.sum(lost, axis=0) if lost else 0.0)
        smallest = total[0]
    if count < MIN_CLUSTERS or len(used) < MIN_POINTS:
        few = f"{len(used)} tokenizers in {count} clusters: fewer than {MIN_CLUSTERS} clusters"
        return Interval(smallest, nothing, nothing, nothing, few)
    if kind == "share":
        return exact_share(smallest, count, confidence)
    if not least:
        looks = 2 if kind in _SKEWED else 1
        return jackknife_interval(total[0], total[1:], confidence, scale, looks)
    own = [jackknife_interval(value[0], value[1:], confidence, scale) for value in values]
    wide = [
        jackknife_interval(value[0], value[1:], confidence, scale, len(values)) for value in values
    ]
    low = np.min([interval.low for interval in own], axis=0)
    high = np.min([interval.high for interval in wide], axis=0)
    return Interval(smallest, low, high, nothing, own[0].note)


def _scale(kind: Kind, plus: int, minus: int) -> Scale:
    match kind:
        case "correlation" | "within" | "partial" | "fit":
            return CORRELATION if plus == 1 and not minus else PLAIN
        case "sd":
            return LOGARITHM
        case _:
            return PLAIN


def _term(kind: Kind, rows: Sequence[Row], weights: Array, labels: NDArray[np.object_]) -> Array:
    """Return one term for every row of weights: (B, P)."""
    values = np.array([_of_row(kind, row, weights[:, row.index], labels) for row in rows])
    match kind:
        case "correlation" | "within" | "partial":
            return CORRELATION.back(CORRELATION.forth(values).mean(axis=0))
        case "slope":
            paper = CORRELATION.forth(np.array([row.paper for row in rows]))
            apart = paper - paper.mean()
            return np.tensordot(apart, CORRELATION.forth(values), 1) / float(apart @ apart)
        case "offset":
            return (values - np.array([row.paper for row in rows])[:, None, None]).mean(axis=0)
        case "range" | "range_over_families":
            groups: dict[tuple[object, ...], list[int]] = {}
            for index, row in enumerate(rows):
                key = (row.labels["metric"], row.labels[RANGES[kind]], row.labels["target"])
                groups.setdefault(key, []).append(index)
            several = [values[own] for own in groups.values() if len(own) > 1]
            return np.mean([part.max(axis=0) - part.min(axis=0) for part in several], axis=0)
        case "shared" | "fit" | "sd" | "mean" | "share":
            return values.mean(axis=0)


def _of_row(kind: Kind, row: Row, weights: Array, labels: NDArray[np.object_]) -> Array:
    """Return the statistic of one row for every row of weights: (B, P)."""
    n = weights.sum(axis=1, keepdims=True)
    match kind:
        case "correlation" | "slope" | "offset" | "range" | "range_over_families":
            return pearson(row.x, row.y)(weights)
        case "within":
            codes = np.unique(labels[row.index].astype(str), return_inverse=True)[1]
            return within(row.x, row.y, codes)(weights)
        case "partial":
            return partial(row.x, row.y, row.given)(weights)
        case "shared":
            r2 = pearson(row.x, row.y)(weights) ** 2
            return 1 - (1 - r2) * (n - 1) / np.maximum(n - 2, 1)
        case "fit":
            return adjusted_r2(row.x, row.y[:, 0])(weights)
        case "sd":
            return deviation(row.x)(weights)
        case "mean" | "share":
            return average(row.x)(weights)
