"""Correlation of every latent metric with every generation metric, one row per pair."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from diffusability.analysis.catalogue import (
    HEADLINE,
    PROBE,
    RECONSTRUCTION,
    SHOWN_METRICS,
)
from diffusability.analysis.disattenuation import disattenuate, varies_by_run
from diffusability.analysis.estimators import (
    Array,
    Estimator,
    kendall,
    partial,
    pearson,
    spearman,
    standardise,
    within,
)
from diffusability.analysis.frames import join_notes, table_frame
from diffusability.analysis.intervals import (
    Analysis,
    AnalysisOptions,
    Interval,
    bootstrap_intervals,
    cluster_draws,
    cluster_intervals,
    tokenizer_draws,
)
from diffusability.analysis.panels import (
    Cells,
    Measured,
    Panel,
    Table,
    cells,
    expected_sign,
    families,
    headline_targets,
    matching,
    panels,
    predictors,
)
from diffusability.analysis.significance import (
    pairing_p,
    partial_p,
    shared_permutations,
    shared_within,
    within_p,
)

Row = dict[str, object]


def correlate(
    table: Table,
    analysis: Analysis | None = None,
    covariates: Sequence[str] = (RECONSTRUCTION,),
) -> pd.DataFrame:
    """Return the table of correlations: one row per panel, family and metric.

    Every predictor is paired with the headline targets, the metrics shown in figures with all
    targets. Statistics: ``pearson``, ``spearman``, ``kendall``; ``pearson_within`` (cluster means
    subtracted) and ``pearson_between`` (of cluster means), which differ if a trend across clusters
    does not hold within them (Simpson); ``pearson_partial`` given the covariates;
    ``pearson_disattenuated`` (corrected for the noise of diffusion seeds).

    Args:
        table: a checked tidy table (``check_measurements``).
        analysis: resamples, confidence and seed.
        covariates: metrics held fixed in ``pearson_partial``.

    Returns:
        Values in [-1, 1], not sign-oriented: ``expected_sign`` is their sign if the metric's
        declared direction is right. ``_low``, ``_high``: interval for
        independent tokenizers; ``_cluster_low``, ``_cluster_high``: for independent clusters.
        ``_p``: by permutation (of tokenizers, clusters, or inside clusters), of a partial
        correlation by Student's t; ``_p_holm`` and ``_p_by`` correct it over the metrics of a panel
        and family. Undefined values are NaN, with the reason in ``note``. There is no row if no
        tokenizer has both values. Deterministic given table and options.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    every, main = predictors(table), headline_targets(table)
    shown = set(matching(every, SHOWN_METRICS))
    rows: list[Row] = []
    for panel in panels(table):
        metrics = every if panel.target in main else [name for name in every if name in shown]
        known = _covariates(table, panel, covariates)
        rows.extend(_panel_rows(table, panel, metrics, known, analysis))
    return _corrected(table_frame("correlations", rows), ["target", "backbone", "guidance"])


def intercorrelate(
    table: Table, analysis: Analysis | None = None, metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the correlations between latent metrics: ``target`` is the second metric of a pair.

    Args:
        table: a checked tidy table. analysis: resamples, confidence and seed.
        metrics: every pair is used once; by default the headline metrics and the probe.

    Returns:
        Rows as in ``correlate``, without panel and covariates.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    names = matching(predictors(table), (*HEADLINE, PROBE)) if metrics is None else metrics
    rows = [
        row
        for index, second in enumerate(names)
        for row in _panel_rows(table, Panel(second, "", None), names[:index], {}, analysis)
    ]
    return _corrected(table_frame("intercorrelations", rows), ["target"])


def _panel_rows(
    table: Measured,
    panel: Panel,
    metrics: Sequence[str],
    covariates: Mapping[str, pd.Series],
    analysis: Analysis,
) -> Iterator[Row]:
    """Yield the rows of the metrics in one panel, of each metric by family."""
    paired = {m: cells(table, m, panel.target, panel.backbone, panel.guidance) for m in metrics}
    paired = {metric: part for metric, part in paired.items() if len(part.rows)}
    found: dict[str, dict[str, Row]] = {}
    for family in families(table):
        samples = {
            metric: _sample(
                part.of_family(family), {k: v for k, v in covariates.items() if k != metric}
            )
            for metric, part in paired.items()
        }
        found[family] = _statistics(samples, analysis)
    for metric, part in paired.items():
        sign = expected_sign(table, metric, panel.target)
        for family, rows in found.items():
            row = {**panel.labels, "family": family, "metric": metric, **rows[metric]}
            note = join_notes(row["note"], part.of_family(family).missing_note())
            yield row | {"expected_sign": sign, "note": note}


def _covariates(table: Measured, panel: Panel, names: Sequence[str]) -> dict[str, pd.Series]:
    known = {}
    for name in names:
        rows = cells(table, name, panel.target, panel.backbone, panel.guidance).rows
        known[name] = rows.set_index("tokenizer")["x"]
    return known


def _corrected(frame: pd.DataFrame, panel: list[str]) -> pd.DataFrame:
    """Fill Holm's and Benjamini-Yekutieli's p over the metrics of a panel and family."""
    tested = frame[frame["pearson_p"].notna()]
    for rows in tested.groupby([*panel, "family"], sort=False, dropna=False).groups.values():
        for name, method in (("holm", "holm"), ("by", "fdr_by")):
            corrected = multipletests(frame.loc[rows, "pearson_p"], method=method)[1]
            frame.loc[rows, f"pearson_p_{name}"] = corrected
    return frame


@dataclass(frozen=True)
class _Sample:
    """A metric and a target over the tokenizers of one family.

    Attributes:
        x: (n,) metric. y: (n,) target. clusters: (n,) codes 0 ... G-1.
        given: (n, k) covariates, NaN where a tokenizer lacks one. given_names: their names.
        part: the cells behind them.
    """

    x: Array
    y: Array
    clusters: np.ndarray
    given: Array
    given_names: tuple[str, ...]
    part: Cells

    @property
    def n(self) -> int:
        """Number of tokenizers."""
        return len(self.x)

    @property
    def design(self) -> tuple[object, ...]:
        """Key of samples that are computed together: tokenizers, target and its runs."""
        runs = self.part.runs["y"].to_numpy(float)
        return (*self.part.rows["tokenizer"], self.y.tobytes(), runs.tobytes())

    @property
    def problem(self) -> str:
        """The reason why nothing can be computed, or empty."""
        if self.n < 3:
            return f"{self.n} tokenizers have both values: no correlation"
        sides = (("metric", self.x), ("target", self.y))
        flat = [name for name, values in sides if not standardise(values).any()]
        return f"the {' and the '.join(flat)} is constant: no correlation" if flat else ""


def _sample(part: Cells, given: Mapping[str, pd.Series]) -> _Sample:
    """Return the arrays of paired cells; covariates that a tokenizer lacks are NaN."""
    rows, names = part.rows, tuple(given)
    columns = [rows["tokenizer"].map(values).to_numpy(float) for values in given.values()]
    return _Sample(
        x=rows["x"].to_numpy(float),
        y=rows["y"].to_numpy(float),
        clusters=pd.factorize(rows["cluster"])[0],
        given=np.column_stack(columns) if columns else np.empty((len(rows), 0)),
        given_names=names,
        part=part,
    )


def _statistics(samples: Mapping[str, _Sample], analysis: Analysis) -> dict[str, Row]:
    """Return the row of each metric of a panel; samples of one design are vectorised."""
    found: dict[str, Row] = {}
    alike: dict[tuple[object, ...], dict[str, _Sample]] = {}
    for metric, sample in samples.items():
        counts = {"n": sample.n, "clusters": len(set(sample.clusters))}
        found[metric] = counts | {"note": sample.problem}
        if not sample.problem:
            alike.setdefault(sample.design, {})[metric] = sample
    for group in alike.values():
        related = _related(list(group.values()), analysis)
        for metric, parts in zip(group, zip(*related, strict=True), strict=True):
            notes = join_notes(*(part.pop("note", "") for part in parts))
            for part in parts:
                found[metric] |= part
            found[metric]["note"] = notes
    return found


def _related(samples: list[_Sample], analysis: Analysis) -> list[list[Row]]:
    """Return the statistics of P samples of one design, as part of a row per sample."""
    first, seed, resamples = samples[0], analysis.seed, analysis.resamples
    x, y = np.column_stack([sample.x for sample in samples]), first.y
    clusters = first.clusters
    orders = shared_permutations(seed, len(y), resamples)
    plain = _parts("pearson", pearson(x, y), clusters, analysis, pairing_p(x, y, orders))
    rank_x, rank_y = (stats.rankdata(values, axis=0) for values in (x, y))
    tau = np.array([stats.kendalltau(column, y).pvalue for column in x.T])
    p, smallest = within_p(x, y, clusters, shared_within(seed, clusters, resamples))
    inside = _parts("pearson_within", within(x, y, clusters), clusters, analysis, p)
    for part, value in zip(inside, p, strict=True):
        if smallest > 0.01 and value < 2 * smallest:
            part["note"] = join_notes(part["note"], f"clusters allow no p below {smallest:.2g}")
    return [
        plain,
        _parts("spearman", spearman(x, y), clusters, analysis, pairing_p(rank_x, rank_y, orders)),
        _parts("kendall", kendall(x, y), clusters, analysis, tau),
        inside,
        _between(x, y, clusters, analysis),
        _partials(samples, analysis),
        _disattenuated(samples, plain, analysis),
    ]


def _parts(
    name: str,
    estimator: Estimator,
    clusters: np.ndarray,
    analysis: Analysis,
    p: Sequence[float] | Array,
) -> list[Row]:
    """Return a statistic of P pairs with its two intervals and p."""
    seed, options = analysis.seed, (analysis.confidence, analysis.resamples)
    plain = bootstrap_intervals(estimator, tokenizer_draws(seed, estimator.points), *options)
    clustered = cluster_intervals(estimator, clusters, cluster_draws(seed, clusters), *options)
    return [
        {
            name: float(value),
            **own.columns(name),
            **shared.columns(name, cluster=True),
            f"{name}_p": float(one),
            "note": join_notes(own.note, shared.note),
        }
        for value, own, shared, one in zip(estimator.values, plain, clustered, p, strict=True)
    ]


def _between(x: Array, y: Array, clusters: np.ndarray, analysis: Analysis) -> list[Row]:
    """Return r between cluster means; its points are clusters, so it has one interval."""
    sizes = np.bincount(clusters)
    count = len(sizes)
    if count < 3:
        return [{"note": f"{count} clusters: no correlation between them"} for _ in x.T]
    members = np.eye(count)[clusters] / sizes  # (n, G)
    means = members.T @ x, members.T @ y
    estimator, seed = pearson(*means), analysis.seed
    draws = tokenizer_draws(seed, count)
    found = bootstrap_intervals(estimator, draws, analysis.confidence, analysis.resamples)
    p = pairing_p(*means, shared_permutations(seed, count, analysis.resamples))
    name = "pearson_between"
    return [
        {name: float(value), **interval.columns(name), f"{name}_p": float(one)}
        for value, interval, one in zip(estimator.values, found, p, strict=True)
    ]


def _partials(samples: list[_Sample], analysis: Analysis) -> list[Row]:
    """Return r given the covariates; samples with the same covariates are vectorised."""
    found: dict[int, Row] = {}
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        alike.setdefault((sample.given_names, sample.given.tobytes()), []).append(index)
    for indices in alike.values():
        rows = _given([samples[index] for index in indices], analysis)
        found |= dict(zip(indices, rows, strict=True))
    return [found[index] for index in range(len(samples))]


def _given(samples: list[_Sample], analysis: Analysis) -> list[Row]:
    """Return r given one set of covariates, over the tokenizers that have them."""
    first, name = samples[0], "pearson_partial"
    if not first.given_names:
        return [{} for _ in samples]
    there = np.isfinite(first.given).all(axis=1)
    given, clusters = first.given[there], pd.factorize(first.clusters[there])[0]
    n, k = given.shape
    held = ", ".join(first.given_names)
    lost = f"{first.n - n} tokenizers lack {held}" if n < first.n else ""
    if n < k + 4:
        few = f"{n} tokenizers are too few to hold {held} fixed"
        return [{"note": join_notes(few, lost)} for _ in samples]
    x = np.column_stack([sample.x[there] for sample in samples])
    estimator = partial(x, first.y[there], given)
    p = [partial_p(r, n, k) for r in estimator.values]
    nothing = f"nothing is left to correlate given {held}"
    return [
        {**part, "note": join_notes(part["note"] if math.isfinite(r) else nothing, lost)}
        for part, r in zip(
            _parts(name, estimator, clusters, analysis, p), estimator.values, strict=True
        )
    ]


def _disattenuated(samples: list[_Sample], plain: list[Row], analysis: Analysis) -> list[Row]:
    """Return r corrected for the noise of diffusion seeds."""
    first, name = samples[0], "pearson_disattenuated"
    ends = [
        Interval(r["pearson_low"], r["pearson_high"], analysis.confidence, "")  # type: ignore[arg-type]
        for r in plain
    ]
    found = disattenuate(
        np.column_stack([sample.x for sample in samples]),
        first.y,
        first.part.runs,
        ends,
        [varies_by_run(sample.part.runs) for sample in samples],
        tokenizer_draws(analysis.seed, first.n),
        analysis.resamples,
    )
    return [{name: one.value, **one.interval.columns(name), "note": one.note} for one in found]
