"""Rows of the analysis tables shown in the report: claims, selection, fits, encoders."""

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from diffusability.analysis.comparison import difference_interval
from diffusability.analysis.panels import ALL_FAMILIES
from diffusability.analysis.verdicts import CONTRADICTED, NOT_TESTABLE, REPRODUCED, UNDECIDED
from diffusability.study.plan import Plan
from diffusability.study.tables import BEST

VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_TESTABLE)
# column of latent_spaces: its name in the report
ENCODER_COLUMNS = {
    "stretch_min": "a",
    "stretch_max": "b",
    "stretch_ratio": "b / a",
    "stretch_q01": "1 %",
    "stretch_q50": "median",
    "stretch_q99": "99 %",
    "stretch_q99_q01": "99 % / 1 %",
    "mse": "reconstruction MSE",
}


def verdict_counts(ledger: pd.DataFrame) -> dict[str, int]:
    """Return the number of claims for each verdict, including zeros."""
    return {verdict: int((ledger["verdict"] == verdict).sum()) for verdict in VERDICTS}


def ledger_rows(ledger: pd.DataFrame) -> list[dict[str, str]]:
    """Return the claims, decided ones first, with value and interval as text."""
    order = {verdict: rank for rank, verdict in enumerate(VERDICTS)}
    ranked = ledger.sort_values("verdict", key=lambda v: v.map(order), kind="stable")
    return [
        {
            **{name: str(row[name]) for name in ("id", "network", "section", "statement")},
            "expected": str(row["expected"]),
            "measured": with_interval(row["value"], row["low"], row["high"]),
            **{name: str(row[name]) for name in ("verdict", "reason", "refuted_by", "exact")},
        }
        for row in ranked.to_dict("records")
    ]


def selection_rows(selection: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return the metric chosen for each perspective, over all families, one row per panel."""
    chosen = _of_target(selection, target)
    columns = ["naive_metric", "naive_r2", "naive_q2", "nested_q2", "optimism", "agreement"]
    return chosen[["backbone", "guidance", "perspective", *columns, "n", "note"]]


def regression_rows(regressions: pd.DataFrame, target: str, best: int = 10) -> pd.DataFrame:
    """Return the fits with the highest Q² on left-out clusters, at most ``best`` per panel.

    If no cluster can be left out, those with the highest R² are shown.
    """
    chosen = _of_target(regressions, target)
    fitted = chosen[chosen["r2"].notna()].sort_values(["q2", "r2"], ascending=False)
    fitted = fitted.groupby(["backbone", "guidance"], sort=False).head(best)
    intervals = [
        with_interval(*row) for row in fitted[["r2", "r2_low", "r2_high"]].to_numpy(float).tolist()
    ]
    columns = ["q2", "q2_rank", "ordering", "ordering_pairs", "regret", "n", "note"]
    predictors = fitted["metric_1"] + (" + " + fitted["metric_2"]).where(
        fitted["metric_2"] != "", ""
    )
    shown = fitted[["backbone", "guidance"]].assign(predictors=predictors, r2=intervals)
    return shown.join(fitted[columns]).sort_values(["backbone", "guidance"], kind="stable")


def proxy_rows(proxies: pd.DataFrame, target: str, family: str) -> pd.DataFrame:
    """Return every pair of the two papers' proxies at the smallest guidance scale of a backbone."""
    chosen = proxies[(proxies["target"] == target) & (proxies["family"] == family)]
    scales = chosen["guidance"].replace(BEST, math.inf).astype(float)
    smallest = scales.groupby(chosen["backbone"]).transform("min")
    rows = chosen[scales == smallest].to_dict("records")
    columns = ("backbone", "guidance", "first paper", "r", "second paper", "its r", "difference")
    shown = [
        (
            *(row["backbone"], row["guidance"]),
            *(row["metric_a"], with_interval(row["r_a"], row["low_a"], row["high_a"])),
            *(row["metric_b"], with_interval(row["r_b"], row["low_b"], row["high_b"])),
            *(with_interval(row["value"], *difference_interval(row)), row["better"]),
            *(row["n"], row["note"]),
        )
        for row in rows
    ]
    return pd.DataFrame(shown, columns=[*columns, "better", "n", "note"])


def latent_space_rows(spaces: pd.DataFrame) -> pd.DataFrame:
    """Return Tables 1 to 3 of the Fisher paper as text, one row per tokenizer, with their errors.

    Args:
        spaces: from ``analysis.latent_spaces``.

    Returns:
        One column per backbone and guidance scale with the Frechet distance. Empty if the study
        does not measure `geometry`; the headline then has the rest.
    """
    if not spaces["stretch_q99_q01"].notna().any():
        return pd.DataFrame()
    rows = []
    for name, part in spaces.groupby("tokenizer", sort=False):
        first = part.iloc[0]
        row = {"tokenizer": str(name), "cluster": str(first["cluster"])}
        row |= {words: _plus(first, column) for column, words in ENCODER_COLUMNS.items()}
        for model in part[part["distance"].notna()].to_dict("records"):
            metric = str(model["distance_metric"]).removeprefix("generation.")
            row[f"{metric} {model['backbone']} guidance {model['guidance']:g}"] = _plus(
                model, "distance"
            )
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def encoder_rows(plan: Plan) -> pd.DataFrame:
    """Return what each encoder that the study trained knows of held-out images, one row each.

    Accuracies are of linear probes, on single tokens and on their mean. Empty without encoders.
    """
    rows = []
    for artifact in plan.of_stage("encoder"):
        history = pd.read_csv(Path(artifact.path) / "history.csv")
        if "probe_token" not in history:
            continue  # published weights: nothing was trained
        last, spec = history.iloc[-1], artifact.spec
        rows.append(
            {
                "encoder": artifact.labels["encoder"],
                "kind": str(spec["kind"]),
                "network": str(spec.get("arch", "convnet")),
                "accuracy of a single token": _plus(last, "probe_token"),
                "accuracy of the mean token": _plus(last, "probe_mean"),
                "effective rank of tokens": f"{last['token_rank']:.3g}",
            }
        )
    return pd.DataFrame(rows)


def _plus(row: Mapping[Hashable, Any] | pd.Series, column: str) -> str:
    value, error = row[column], row[f"{column}_stderr"]
    if pd.isna(value):
        return ""
    return f"{value:.3g}" if pd.isna(error) else f"{value:.3g} ± {error:.1g}"


def with_interval(value: float, low: float, high: float) -> str:
    """Return "value [low, high]", or the known part of it."""
    if pd.isna(value):
        return "none"
    if pd.isna(low) or pd.isna(high):
        return f"{value:.2f}, no interval"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _of_target(table: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return the rows of a target over all tokenizers; a guidance is text."""
    families = set(table["family"])
    every = {ALL_FAMILIES} if len(families) > 1 else families
    chosen = table[(table["target"] == target) & table["family"].isin(every)]
    words = chosen["guidance"].map(lambda scale: scale if scale == BEST else f"{scale:g}")
    return chosen.assign(guidance=words)
