"""One statistic per claim, joint over all its rows, with one interval over clusters.

A row is a metric and a target over the tokenizers of one family. All rows of a claim share the
clusters, so leaving out a cluster leaves it out of every row, and their dependence enters the
interval without any assumption on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusability.analysis.estimators import (
    Array,
    adjusted_r2,
    average,
    deviation,
    partial,
    pearson,
    r2_of_two,
    standardise,
    within,
)
from diffusability.analysis.intervals import (
    CORRELATION,
    EXPLAINED,
    LOGARITHM,
    PLAIN,
    Interval,
    Labels,
    Scale,
    exact_share,
    jackknife_interval,
    methods_of,
    no_interval,
    too_few,
    units,
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
    "fit",  # mean adjusted R² of the target on two metrics
    "sd",  # mean over families of the standard deviation of a metric
    "mean",  # over tokenizers of a number
    "share",  # of tokenizers for which something holds
]
# nominal intervals of these miss on one side in up to 6 %, not 2.5 %: they get half the tails
_SKEWED = ("shared", "sd")
CORRELATIONS = ("correlation", "within", "partial")
# label that is the same in the rows of one range
RANGES: Mapping[str, str] = {"range": "family", "range_over_families": "backbone"}


@dataclass(frozen=True)
class Row:
    """A metric and a target over the n tokenizers of one family, for P data sets at once.

    Attributes:
        labels: what it is of: target, backbone, guidance, family, metric.
        index: (n,) its tokenizers among those of the study.
        x: (n, P) metric, sign-oriented: positive r agrees with the declared direction.
        y: (n, P) target; empty for statistics of x alone.
        given: (n, P) metric held fixed, or the second one of a ``fit``.
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

    @property
    def complete(self) -> bool:
        """Whether there are terms, and each has a row."""
        return bool(self.plus) and all((*self.plus, *self.minus))

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
        clusters: (N,) of every tokenizer of the study, or (N, 2) with its encoder (``units``).
        confidence: nominal coverage.
        least: the smallest of the terms instead of their sum. It is at least a value if every
            term is (no correction is needed for that), and below it if any one is (corrected for
            the number of terms).

    Returns:
        P intervals; NaN with a note if there are too few clusters or a term is undefined.
    """
    used = np.unique(np.concatenate([row.index for row in terms.rows]))
    ways = units(np.asarray(clusters, dtype=object)[used])
    kept = [np.ones(len(clusters), bool)]  # all tokenizers, then all without each unit
    for labels in ways:
        for group in pd.unique(labels):
            kept.append(np.ones(len(clusters), bool))
            kept[-1][used[labels == group]] = False
    methods = methods_of(clusters)
    plus, minus = (
        [np.array([_term(kind, rows, these, methods) for these in kept]) for rows in side]
        for side in (terms.plus, terms.minus)
    )
    total = np.sum(plus, axis=0) - (np.sum(minus, axis=0) if minus else 0.0)
    value = np.min(plus, axis=0)[0] if least else total[0]
    if few := too_few(ways):
        return no_interval(value, f"{few}: no interval")
    if kind == "share":
        return exact_share(value, len(set(ways[0])), confidence)
    ends = np.cumsum([1, *(len(set(labels)) for labels in ways)])

    def without(values: Array) -> list[Array]:
        return [values[first:last] for first, last in pairwise(ends)]

    scale = _scale(kind, single=least or len(plus) + len(minus) == 1)
    if not least:
        looks = 2 if kind in _SKEWED else 1
        return jackknife_interval(value, without(total), confidence, scale, looks)
    own, wide = (
        [jackknife_interval(term[0], without(term), confidence, scale, looks) for term in plus]
        for looks in (1, len(plus))
    )
    low = np.min([interval.low for interval in own], axis=0)
    high = np.min([interval.high for interval in wide], axis=0)
    note = next((interval.note for interval in own if interval.note), "")
    return Interval(value, low, high, np.full_like(value, np.nan), note)


def _scale(kind: Kind, single: bool) -> Scale:
    """Return the scale of the interval of a kind, of a single term or of several."""
    if kind == "sd":
        return LOGARITHM
    if kind == "shared":
        return EXPLAINED
    return CORRELATION if single and kind in (*CORRELATIONS, "fit") else PLAIN


def _term(
    kind: Kind, rows: Sequence[Row], kept: NDArray[np.bool_], labels: NDArray[np.object_]
) -> Array:
    """Return one term (P,) over the tokenizers that are kept."""
    values = np.array([_of_row(kind, row, kept[row.index], labels[row.index]) for row in rows])
    match kind:
        case "correlation" | "within" | "partial":
            return CORRELATION.back(CORRELATION.forth(values).mean(axis=0))
        case "slope":
            paper = CORRELATION.forth(np.array([row.paper for row in rows]))
            apart = paper - paper.mean()
            return apart @ CORRELATION.forth(values) / float(apart @ apart)
        case "offset":
            return (values - np.array([row.paper for row in rows])[:, None]).mean(axis=0)
        case "range" | "range_over_families":
            ranges = [np.ptp(values[own], axis=0) for own in in_ranges(kind, rows)]
            return np.mean(ranges, axis=0)
        case "shared" | "fit" | "sd" | "mean" | "share":
            return values.mean(axis=0)


def in_ranges(kind: Kind, rows: Sequence[Row]) -> list[list[int]]:
    """Return the positions of the rows that each range of a term is over."""
    found: dict[tuple[object, ...], list[int]] = {}
    for position, row in enumerate(rows):
        same = tuple(row.labels[name] for name in ("metric", RANGES[kind], "target"))
        found.setdefault(same, []).append(position)
    return list(found.values())


def _of_row(kind: Kind, row: Row, kept: NDArray[np.bool_], labels: NDArray[np.object_]) -> Array:
    """Return the statistic (P,) of the tokenizers of a row that are kept."""
    x, y, given = (v[kept] if len(v) else v for v in (row.x, row.y, row.given))
    match kind:
        case "correlation" | "slope" | "offset" | "range" | "range_over_families":
            return pearson(x, y)
        case "within":
            return within(x, y, labels[kept])
        case "partial":
            return partial(x, y, given)
        case "shared":
            return adjusted_r2(pearson(x, y) ** 2, len(x), 1)
        case "fit":
            return adjusted_r2(r2_of_two(x, given, y), len(x), 2)
        case "sd":
            return deviation(x)
        case "mean" | "share":
            return average(x)
