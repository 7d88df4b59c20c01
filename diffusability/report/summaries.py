"""Rows of the analysis tables shown in the report: claims, fits, encoders."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from diffusability.analysis.catalogue import name_metric
from diffusability.analysis.declared import NOT_TESTABLE
from diffusability.analysis.frames import in_words, with_interval
from diffusability.artifacts.inventory import folder_of
from diffusability.claims.verdicts import VERDICTS
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.tables import BEST

NAMED = 3  # tokenizers in one sentence; more are counted
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


def compared_sentence(left_out: Sequence[str]) -> str:
    """Return which tokenizers the statistics leave out, because of their reconstruction."""
    if not left_out:
        return ""
    who = in_words(left_out) if len(left_out) <= NAMED else f"{len(left_out)} of them"
    be = "are" if len(left_out) > 1 else "is"
    return f"{who} {be} left out of the statistics: not equal in reconstruction."


def verdict_counts(ledger: pd.DataFrame) -> dict[str, int]:
    """Return the number of claims with each verdict, including zeros.

    A claim that is tested on several networks counts once for each verdict that it gets.
    """
    return {
        verdict: int(ledger.loc[ledger["verdict"] == verdict, "id"].nunique())
        for verdict in VERDICTS
    }


def ledger_rows(ledger: pd.DataFrame) -> list[dict[str, str]]:
    """Return the claims that were tested, decided first, with value and interval as text."""
    order = {verdict: rank for rank, verdict in enumerate(VERDICTS)}
    tested = ledger[ledger["verdict"] != NOT_TESTABLE]
    ranked = tested.sort_values("verdict", key=lambda v: v.map(order), kind="stable")
    return [
        {
            **{name: str(row[name]) for name in ("id", "network", "section", "statement")},
            "expected": str(row["expected"]),
            "measured": with_interval(row["value"], row["low"], row["high"]),
            "power": "" if pd.isna(row["power"]) else f"{row['power']:.0%}",
            **{name: str(row[name]) for name in ("verdict", "reason", "refuted_by", "exact")},
        }
        for row in ranked.to_dict("records")
    ]


def untested_claims(ledger: pd.DataFrame) -> dict[str, list[str]]:
    """Return the claims that this study cannot test, by reason."""
    rows = ledger[ledger["verdict"] == NOT_TESTABLE]
    found: dict[str, list[str]] = {}
    for reason, name, network in rows[["reason", "id", "network"]].itertuples(index=False):
        found.setdefault(str(reason), []).append(f"{name} by {network}" if network else str(name))
    return found


def regression_rows(regressions: pd.DataFrame, target: str, best: int = 10) -> pd.DataFrame:
    """Return the fits with the highest Q² on left-out clusters, at most ``best`` per panel.

    A panel is a backbone, guidance scale and family: tokenizers of two families are never pooled.
    """
    chosen = regressions[(regressions["target"] == target) & regressions["r2_adj"].notna()]
    words = chosen["guidance"].map(lambda scale: scale if scale == BEST else f"{scale:g}")
    fitted = chosen.assign(guidance=words).sort_values(["q2", "r2_adj"], ascending=False)
    panel = ["family", "backbone", "guidance"]
    fitted = fitted.groupby(panel, sort=False).head(best)
    predictors = fitted["metric_1"] + (" + " + fitted["metric_2"]).where(
        fitted["metric_2"] != "", ""
    )
    ranges = [
        with_range(*row) for row in fitted[["q2", "q2_low", "q2_high"]].to_numpy(float).tolist()
    ]
    shown = fitted[panel].assign(predictors=predictors, q2=ranges, r2_adj=fitted["r2_adj"].round(2))
    shown = shown.join(fitted[["gain", "n", "note"]].round({"gain": 2}))
    named = {"q2": "Q² on left-out clusters", "r2_adj": "adjusted R²"}
    return shown.sort_values(panel, kind="stable").rename(columns=named)


def prediction_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the table `predictions` with its columns in words."""
    words = {
        "error_factor": "typical error (factor)",
        "held": "coverage of 80 % intervals",
        "spearman": "Spearman's ρ",
    }
    return predictions.drop(columns="step").round(2).rename(columns=words)


def unpredicted(predictions: pd.DataFrame) -> list[str]:
    """Return one sentence per panel that cannot predict, with the reason."""
    rows = predictions[predictions["note"].fillna("") != ""].to_dict("records")
    return [
        f"{name_metric(str(row['target']))} of {row['backbone']} in {row['family']} cannot be "
        f"predicted: {row['note']}"
        for row in rows
    ]


def declared_rows(tests: pd.DataFrame) -> pd.DataFrame:
    """Return the tests that the study declared, with what became of each."""
    intervals = [
        with_interval(*row)
        for row in tests[["turned_r", "turned_r_low", "turned_r_high"]].to_numpy(float).tolist()
    ]
    shown = tests[["metric", "backbone", "step", "family"]].assign(r=intervals)
    shown = shown.join(tests[["p_holm", "n", "clusters", "verdict", "reason"]].round({"p_holm": 3}))
    return shown.rename(columns={"p_holm": f"p (Holm, {len(tests)} tests)"})


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

    Accuracies are of linear probes, on single tokens and on their mean; of images of one class
    there are none. Empty without encoders.
    """
    rows = []
    for artifact in plan.of_stage("encoder"):
        history = pd.read_csv(folder_of(artifact) / "history.csv")
        if "token_rank" not in history:
            continue  # published weights: nothing was trained
        last, spec = history.iloc[-1], artifact.spec
        rows.append(
            {
                "encoder": artifact.labels["encoder"],
                "kind": str(spec["kind"]),
                "network": str(spec.get("arch", "convnet")),
                "accuracy of a single token": _plus(last, "probe_token"),
                "accuracy of the mean token": _plus(last, "probe_mean"),
                "entropy rank of tokens": f"{last['token_rank']:.3g}",
            }
        )
    return pd.DataFrame(rows)


def _plus(row: Mapping[Hashable, Any] | pd.Series, column: str) -> str:
    value, error = row.get(column), row.get(f"{column}_stderr")
    if pd.isna(value):
        return ""
    return f"{value:.3g}" if pd.isna(error) else f"{value:.3g} ± {error:.1g}"


def with_range(value: float, low: float, high: float) -> str:
    """Return "value (range low to high)", or the known part of it."""
    if pd.isna(value):
        return "none"
    return f"{value:.2f}" + ("" if pd.isna(low) else f" (range {low:.2f} to {high:.2f})")
