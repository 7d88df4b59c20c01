"""Sampling: step lengths along trajectories (Fig. 10) and best guidance scale (Fig. 25)."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from diffusability.analysis.estimators import Array, Estimator, pearson, standardise
from diffusability.analysis.frames import join_notes, table_frame
from diffusability.analysis.intervals import (
    Analysis,
    AnalysisOptions,
    bootstrap_interval,
    bootstrap_intervals,
    cluster_draws,
    cluster_interval,
    cluster_intervals,
    keyed_generator,
    tokenizer_draws,
)
from diffusability.analysis.measurements import control_of, step_of
from diffusability.analysis.panels import (
    ALL_FAMILIES,
    CURVE,
    Guidance,
    Measured,
    Table,
    best_guidance,
    cells,
    families,
    higher_is_better,
    panels,
)
from diffusability.analysis.snapshots import at_last_step
from diffusability.artifacts.card import verified
from diffusability.study.plan import Artifact, Plan
from diffusability.study.tables import BEST

FILE = "samples.json"
VARIANCE = f"velocity{CURVE}"


def collect_profiles(plan: Plan) -> pd.DataFrame:
    """Return the length ratio of every sampling step, means over the seeds of a tokenizer.

    Returns:
        One row per tokenizer, backbone, guidance scale and segment i of M: ``time`` is the middle
        of the segment, 0 noise and 1 data; ``value`` M ||step i|| / ||x_M - x_0||, 1 for a
        straight line at constant speed; ``stderr`` over runs if there are several, else over
        trajectories; ``n`` images of each of ``runs`` runs. Backbones of process edm
        are omitted: their steps are not uniform in this time.

    Raises:
        ArtifactError: samples are missing, altered, or not of this plan.
    """
    by_cell: dict[tuple[str, ...], list[Artifact]] = {}
    for artifact in plan.of_stage("samples"):
        if control_of(artifact) is not None:
            continue
        labels = artifact.labels
        edm = plan.study.backbones[labels["backbone"]].process == "edm"
        if edm or plan.study.sampling.shift != 1:  # their steps are not uniform in time
            continue
        step = str(step_of(plan, artifact))
        key = (labels["tokenizer"], labels["backbone"], step, labels["guidance"])
        by_cell.setdefault(key, []).append(artifact)
    rows = [row for key, runs in by_cell.items() for row in _profile(plan, key, runs)]
    return table_frame("profiles", rows)


def _profile(
    plan: Plan, key: tuple[str, ...], artifacts: list[Artifact]
) -> Iterator[dict[str, object]]:
    tokenizer, backbone, step, guidance = key
    spec = plan.study.tokenizers[tokenizer]
    runs = [_read(artifact) for artifact in artifacts]
    ratios = np.array([run["length_ratio"] for run in runs])  # (runs, M)
    steps, mean = ratios.shape[1], ratios.mean(axis=0)
    known, note = runs[0]["length_ratio_stderr"], ""
    errors = np.array(known) if known is not None else np.full(steps, np.nan)
    if len(runs) > 1:
        errors = ratios.std(axis=0, ddof=1) / math.sqrt(len(runs))
    elif known is None:
        note = "a single trajectory: no standard error"
    for segment in range(steps):
        yield {
            **{"tokenizer": tokenizer, "family": spec.family, "cluster": spec.cluster},
            **{"backbone": backbone, "step": int(step)},
            **{"guidance": float(guidance), "segment": segment},
            "time": (segment + 0.5) / steps,
            **{"value": mean[segment], "stderr": errors[segment]},
            **{"n": runs[0]["images"], "runs": len(runs), "note": note},
        }


def _read(artifact: Artifact) -> dict[str, list[float]]:
    path = Path(artifact.path)
    verified(path, artifact.stage, artifact.fingerprint, only=(FILE,))
    return dict(json.loads((path / FILE).read_text()))


def relate_profiles(
    table: Table, profiles: pd.DataFrame, analysis: Analysis | None = None
) -> pd.DataFrame:
    """Return correlations of the length ratios of sampling steps.

    Args:
        table: a checked tidy table. profiles: from ``collect_profiles``.
        analysis: resamples, confidence and seed.

    Returns:
        Two kinds of rows per backbone, guidance scale and family, each with its intervals over
        tokenizers and over clusters. ``deviation_vs_target``, one per target: Pearson's r over
        tokenizers between mean |ratio - 1| and the target, oriented so that a positive sign means
        that better tokenizers deviate less. ``ratio_vs_variance`` (empty target): Pearson's r
        along the trajectory between the ratio and the irreducible variance I(t)
        (``velocity.curve_*``, interpolated), averaged over tokenizers. NaN with a ``note`` if
        undefined.
    """
    table, analysis = Measured.of(table), analysis or AnalysisOptions()
    profiles = at_last_step(profiles)
    rows = []
    scales = [panel for panel in panels(table) if panel.guidance != BEST]
    for panel in scales:
        found = cells(table, panel.target, panel.target, panel.backbone, panel.guidance).rows
        deviation = _of_panel(profiles, panel.backbone, panel.guidance).groupby("tokenizer")[
            "value"
        ]
        gaps = {str(name): float((part - 1).abs().mean()) for name, part in deviation}
        sign = {None: math.nan, False: 1.0, True: -1.0}[higher_is_better(table, panel.target)]
        for family in families(table):
            part = found if family == ALL_FAMILIES else found[found["family"] == family]
            labels = {**panel.labels, "family": family, "statistic": "deviation_vs_target"}
            rows.append(labels | _deviation(part, gaps, sign, analysis))
    curves = _variance_curves(table)
    sampled = dict.fromkeys((panel.backbone, panel.guidance) for panel in scales)
    for backbone, guidance in sampled:
        chosen = _of_panel(profiles, backbone, guidance)
        along = {str(n): _along(part, curves) for n, part in chosen.groupby("tokenizer")}
        for family in families(table):
            own = table.tokenizers
            own = own if family == ALL_FAMILIES else own[own["family"] == family]
            labels = {"target": "", "backbone": backbone, "guidance": guidance, "family": family}
            labels["statistic"] = "ratio_vs_variance"
            rows.append(labels | _mean_along(own, along, bool(curves), analysis))
    return table_frame("profile_relations", rows)


def _of_panel(profiles: pd.DataFrame, backbone: str, guidance: Guidance) -> pd.DataFrame:
    return profiles[(profiles["backbone"] == backbone) & (profiles["guidance"] == guidance)]


def _deviation(
    part: pd.DataFrame, gaps: Mapping[str, float], sign: float, analysis: Analysis
) -> dict[str, object]:
    deviation = part["tokenizer"].map(gaps).astype(float)
    lost = int(deviation.isna().sum())
    part, deviation = part[deviation.notna()], deviation[deviation.notna()]
    note = f"{lost} tokenizers have no profile" if lost else ""
    x, y = np.asarray(deviation, np.float64), np.asarray(part["y"], np.float64)
    clusters = pd.factorize(part["cluster"])[0]
    problem = ""
    if len(x) < 3:
        problem = f"{len(x)} tokenizers have both values: no correlation"
    elif not (standardise(x).any() and standardise(y).any()):
        problem = "the deviation or the target is constant: no correlation"
    elif math.isnan(sign):
        problem = "the target has no direction"
    if problem:
        return _none(len(x), clusters, join_notes(problem, note))
    return _summary(pearson(x, sign * y), clusters, analysis, note)


def _variance_curves(table: Measured) -> dict[str, tuple[Array, Array]]:
    """Return times and irreducible variance by tokenizer, means over its seeds."""
    names = [name for name in table.metrics if name.startswith(VARIANCE)]
    times = {
        name: json.loads(table.rows[name]["options"].iloc[0] or "{}").get("t") for name in names
    }
    names = sorted((name for name in names if times[name] is not None), key=times.__getitem__)
    if not names:
        return {}
    curves = pd.concat([table.rows[name] for name in names])
    means = curves.pivot_table(index="tokenizer", columns="metric", values="value")[names]
    grid = np.array([times[name] for name in names], dtype=float)
    return {str(name): (grid, row.to_numpy(float)) for name, row in means.iterrows()}


def _along(profile: pd.DataFrame, curves: Mapping[str, tuple[Array, Array]]) -> float:
    """Return r along one trajectory, NaN if the variance is unknown or constant."""
    known = curves.get(str(profile["tokenizer"].iloc[0]))
    if known is None or len(profile) < 3 or not np.isfinite(known[1]).all():
        return math.nan
    variance = np.interp(profile["time"].to_numpy(float), *known)
    return pearson(profile["value"].to_numpy(float), variance).value


def _mean_along(
    own: pd.DataFrame, along: Mapping[str, float], measured: bool, analysis: Analysis
) -> dict[str, object]:
    r = own["tokenizer"].map(along).astype(float)
    lost = int(r.isna().sum())
    own, r = own[r.notna()], r[r.notna()]
    clusters = pd.factorize(own["cluster"])[0]
    note = f"{lost} tokenizers without r along their trajectory" if lost else ""
    if not len(r):
        reason = "no r along any trajectory" if measured else f"{VARIANCE}* was not measured"
        return _none(0, clusters, join_notes(reason, note))
    values = r.to_numpy(float)[:, None]
    mean = Estimator(lambda w: w @ values / w.sum(axis=1, keepdims=True), len(r), distinct=2)
    return _summary(mean, clusters, analysis, note)


def _none(n: int, clusters: np.ndarray, note: str) -> dict[str, object]:
    return {"value": math.nan, "n": n, "clusters": len(set(clusters)), "note": note}


def _summary(
    estimator: Estimator, clusters: np.ndarray, analysis: Analysis, note: str
) -> dict[str, object]:
    seed, options = analysis.seed, (analysis.confidence, analysis.resamples)
    (own,) = bootstrap_intervals(estimator, tokenizer_draws(seed, estimator.points), *options)
    draws = cluster_draws(seed, clusters)
    (shared,) = cluster_intervals(estimator, clusters, draws, *options)
    note = join_notes(note, own.note, shared.note)
    return _none(estimator.points, clusters, note) | {
        **{"value": estimator.value, "low": own.low, "high": own.high},
        **{"cluster_low": shared.low, "cluster_high": shared.high},
    }


def guidance_optima(
    table: Table,
    analysis: Analysis | None = None,
    inside: tuple[float, float] = (1.5, 2.0),
) -> pd.DataFrame:
    """Return statistics of the best guidance scale of each tokenizer.

    Args:
        table: a checked tidy table (``check_measurements``).
        analysis: resamples, confidence and seed.
        inside: range of scales of the first statistic, ends included.

    Returns:
        Two rows per target, backbone and family: ``share_inside``, the share of tokenizers whose
        best scale is in the range (Clopper-Pearson interval), and ``optimum_vs_quality``,
        Pearson's r between best scale and the target at the smallest scale, oriented so that a
        positive sign means that better tokenizers need less guidance. NaN with a ``note``
        if fewer than two scales were sampled or the target has no direction.
    """
    analysis = analysis or AnalysisOptions()
    rows = []
    table = Measured.of(table)
    scanned: dict[tuple[str, str], list[float]] = {}
    for panel in panels(table):
        found = scanned.setdefault((panel.target, panel.backbone), [])
        found += [panel.guidance] if isinstance(panel.guidance, float) else []
    for (target, backbone), scales in scanned.items():
        best, problem = best_guidance(table, target, backbone)
        if not scales:
            problem = f"{target} was not sampled at any guidance scale"
        base = cells(table, target, target, backbone, scales[0] if scales else None).rows
        base = base.assign(best=base["tokenizer"].map(best).astype(float))
        labels = {"target": target, "backbone": backbone, "guidance_scales": len(scales)}
        partly = _partly_scanned(table.rows[target], backbone, len(scales))
        if not problem and len(scales) < 2:
            problem = f"{len(scales)} guidance scale was sampled: there is no best"
        sign = -1.0 if higher_is_better(table, target) else 1.0
        for family in families(table):
            part = base if family == ALL_FAMILIES else base[base["family"] == family]
            for row in _family_rows(part, sign, inside, scales, problem, analysis, labels):
                row["note"] = join_notes(row["note"], partly)
                rows.append({**labels, "family": family, **row})
    return table_frame("guidance", rows)


def _partly_scanned(rows: pd.DataFrame, backbone: str, scales: int) -> str:
    """Return a note on tokenizers that were not sampled at every scale."""
    there = rows[(rows["backbone"] == backbone) & rows["value"].notna()]
    counts = there.groupby("tokenizer", sort=False)["guidance"].nunique()
    partly = [str(name) for name in counts.index[counts < scales]]
    return f"not sampled at every scale: {', '.join(partly)}" if partly else ""


def _family_rows(
    part: pd.DataFrame,
    sign: float,
    inside: tuple[float, float],
    scales: list[float],
    problem: str,
    analysis: Analysis,
    labels: dict[str, object],
) -> list[dict[str, object]]:
    part = part[part["best"].notna()] if not problem else part
    n, clusters = len(part), part["cluster"].nunique()
    common = {"n": n, "clusters": clusters, "note": problem}
    share: dict[str, object] = {**common, "statistic": "share_inside"}
    trend: dict[str, object] = {**common, "statistic": "optimum_vs_quality"}
    if problem or not n:
        return [share, trend]
    edge = int(part["best"].isin([scales[0], scales[-1]]).sum())
    note = f"{edge} of {n} are best at an end of the scan" if edge else ""
    hits = int(part["best"].between(*inside).sum())
    exact = stats.binomtest(hits, n).proportion_ci(analysis.confidence, method="exact")
    share |= {"value": hits / n, "low": float(exact.low), "high": float(exact.high)}
    share |= {"note": note}
    trend["note"] = note
    x, y = part["best"].to_numpy(float), sign * part["y"].to_numpy(float)
    if n < 3 or not (standardise(x).any() and standardise(y).any()):
        trend["note"] = "fewer than 3 tokenizers, or all have the same best scale: no trend"
        return [share, trend]
    codes = pd.factorize(part["cluster"])[0]
    options = {"confidence": analysis.confidence, "resamples": analysis.resamples}
    rng = keyed_generator(analysis.seed, *labels.values(), tuple(part["tokenizer"]))
    estimator = pearson(x, y)
    plain = bootstrap_interval(estimator, rng=rng, **options)  # type: ignore[arg-type]
    cluster = cluster_interval(estimator, codes, rng=rng, **options)  # type: ignore[arg-type]
    trend |= {"value": estimator.value, "low": plain.low, "high": plain.high}
    trend |= {"cluster_low": cluster.low, "cluster_high": cluster.high}
    return [share, trend | {"note": join_notes(note, plain.note, cluster.note)}]
