"""Where the best guidance scale lies, and whether better tokenizers want less (Fig. 25)."""

import pandas as pd
from scipy import stats

from diffusability.analysis.estimators import pearson, standardise
from diffusability.analysis.intervals import bootstrap_interval, cluster_interval, keyed_generator
from diffusability.analysis.options import Analysis, AnalysisOptions
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import (
    Measured,
    Table,
    best_guidance,
    cells,
    families,
    higher_is_better,
    panels,
)

COLUMNS = (
    "target",
    "backbone",
    "family",
    "statistic",
    "value",
    "low",
    "high",
    "confidence",
    "method",
    "cluster_low",
    "cluster_high",
    "n",
    "clusters",
    "scales",
    "note",
)


def guidance_optima(
    table: Table,
    analysis: Analysis | None = None,
    inside: tuple[float, float] = (1.5, 2.0),
) -> pd.DataFrame:
    """Return what is known of the best guidance scale of each tokenizer.

    Args:
        table: a checked tidy table (``check_measurements``).
        analysis: resamples, confidence and seed.
        inside: range of scales of the first statistic, ends included.

    Returns:
        Two rows a target, backbone and family: ``share_inside``, the share of tokenizers whose
        best scale lies in the range (Clopper-Pearson interval), and ``optimum_vs_quality``,
        Pearson's r between best scale and the target at the smallest scale, turned so that a
        positive sign means that better tokenizers want less guidance. NaN with a ``note``
        where fewer than two scales were sampled or the target has no direction.
    """
    analysis = analysis or AnalysisOptions()
    rows = []
    table = Measured.of(table)
    scanned: dict[tuple[str, str], list[float]] = {}
    for panel in panels(table):
        found = scanned.setdefault((panel.target, panel.backbone), [])
        found += [panel.cfg] if panel.cfg is not None else []
    for (target, backbone), scales in scanned.items():
        best, problem = best_guidance(table, target, backbone)
        if not scales:
            problem = f"{target} was sampled at no guidance scale"
        base = cells(table, target, target, backbone, scales[0] if scales else None).rows
        base = base.assign(best=base["tokenizer"].map(best).astype(float))
        labels = {"target": target, "backbone": backbone, "scales": len(scales)}
        partly = _partly_scanned(table.rows[target], backbone, len(scales))
        if not problem and len(scales) < 2:
            problem = f"{len(scales)} guidance scale was sampled: there is no best"
        sign = -1.0 if higher_is_better(table, target) else 1.0
        for family in families(table):
            part = base if family == "all" else base[base["family"] == family]
            for row in _family_rows(part, sign, inside, scales, problem, analysis, labels):
                row["note"] = join_notes(row["note"], partly)
                rows.append({**labels, "family": family, "confidence": analysis.confidence, **row})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _partly_scanned(rows: pd.DataFrame, backbone: str, scales: int) -> str:
    """Say which tokenizers lack a scale, so that their best is one of fewer."""
    there = rows[(rows["backbone"] == backbone) & rows["value"].notna()]
    counts = there.groupby("tokenizer", sort=False)["cfg"].nunique()
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
    common = {"n": n, "clusters": clusters, "method": "none", "note": problem}
    share: dict[str, object] = {**common, "statistic": "share_inside"}
    trend: dict[str, object] = {**common, "statistic": "optimum_vs_quality"}
    if problem or not n:
        return [share, trend]
    edge = int(part["best"].isin([scales[0], scales[-1]]).sum())
    note = f"{edge} of {n} are best at an end of the scan" if edge else ""
    hits = int(part["best"].between(*inside).sum())
    exact = stats.binomtest(hits, n).proportion_ci(analysis.confidence, method="exact")
    share |= {"value": hits / n, "low": float(exact.low), "high": float(exact.high)}
    share |= {"method": "Clopper-Pearson", "note": note}
    trend["note"] = note
    x, y = part["best"].to_numpy(float), sign * part["y"].to_numpy(float)
    if n < 3 or not (standardise(x).any() and standardise(y).any()):
        trend["note"] = "fewer than 3 tokenizers, or all want the same scale: no trend"
        return [share, trend]
    codes = pd.factorize(part["cluster"])[0]
    options = {"confidence": analysis.confidence, "resamples": analysis.resamples}
    rng = keyed_generator(analysis.seed, *labels.values(), tuple(part["tokenizer"]))
    estimator = pearson(x, y)
    plain = bootstrap_interval(estimator, rng=rng, **options)  # type: ignore[arg-type]
    cluster = cluster_interval(estimator, codes, rng=rng, **options)  # type: ignore[arg-type]
    trend |= {"value": estimator.value, "low": plain.low, "high": plain.high}
    trend |= {"cluster_low": cluster.low, "cluster_high": cluster.high, "method": plain.method}
    return [share, trend | {"note": join_notes(note, plain.note, cluster.note)}]
