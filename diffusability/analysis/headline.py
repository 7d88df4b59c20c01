"""Headline of a study: one row per tokenizer, and correlations of metrics with quality."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from diffusability.analysis.catalogue import HEADLINE_METRICS
from diffusability.analysis.equal_reconstruction import reconstruction_sentence
from diffusability.analysis.failed import failed_sentence
from diffusability.analysis.measurements import read_tables, target_metric
from diffusability.analysis.panels import Guidance
from diffusability.analysis.snapshots import at_last_step
from diffusability.study.plan import Plan
from diffusability.study.tables import BEST
from diffusability.study.targets import report_file

NO_MODELS = "There are no diffusion models in this study: latents alone are measured"
NO_CORRELATIONS = "No headline metric was measured together with generated images"


def headline(plan: Plan) -> str:
    """Return the headline tables of a finished study as text.

    Raises:
        ArtifactError: the study has no tables yet, or outdated ones.
    """
    tables = {name: at_last_step(table) for name, table in read_tables(plan).items()}
    target = target_metric(plan.study)
    values = headline_values(tables["measurements"], target)
    report = f"Report: {report_file(plan.study)}"
    if not plan.study.has_models:
        shown = values.to_string(index=False, na_rep="-")
        return "\n".join([shown, "", f"{NO_MODELS}.", "", report])
    family = headline_family(tables["measurements"])
    relations = headline_correlations(tables["correlations"], target, family)
    correlated = [
        f"Correlation with {target} (lower is better), over {family} tokenizers:",
        relations.to_string(index=False, na_rep="-"),
    ]
    return "\n".join(
        [
            values.to_string(index=False, na_rep="-"),
            "",
            *filter(None, doubt_sentences(tables)),
            *([NO_CORRELATIONS] if relations.empty else correlated),
            "",
            *noise_sentences(tables["noise_floor"], target, family),
            "",
            report,
        ]
    )


def doubt_sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return what is said of tokenizers and models that do not count; some may be empty."""
    failed = failed_sentence(tables["measurements"])
    return [reconstruction_sentence(tables["tokenizers"]), failed]


def headline_values(measurements: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return one row per tokenizer: headline metrics and the target by backbone and guidance.

    Metrics that no tokenizer has are omitted. Values are means over seeds; the target has its
    standard error over seeds if there are several, else that of its single measurement.
    """
    names = {metric: short for short, metric in HEADLINE_METRICS.items()}
    means = measurements.pivot_table(
        index="tokenizer", columns="metric", values="value", aggfunc="mean", sort=False
    )
    measured = [metric for metric in names if metric in means]
    table = means[measured].rename(columns=names)
    chosen = measurements[measurements["metric"] == target]
    keys = chosen[["backbone", "guidance"]].drop_duplicates().sort_values(["backbone", "guidance"])
    for backbone, guidance in zip(keys["backbone"], keys["guidance"], strict=True):
        cell = chosen[(chosen["backbone"] == backbone) & (chosen["guidance"] == guidance)]
        column = f"{target.removeprefix('generation.')} {backbone} guidance {guidance:g}"
        table[column] = cell.groupby("tokenizer").apply(_plus)
    return table.round(3).reset_index()


def headline_family(measurements: pd.DataFrame) -> str:
    """Return the largest family; tokenizers of different families are not comparable."""
    members = measurements.drop_duplicates("tokenizer")["family"].value_counts(sort=False)
    return str(members.idxmax())


def headline_correlations(correlations: pd.DataFrame, target: str, family: str) -> pd.DataFrame:
    """Return r, partial r given PSNR, and ρ of each headline metric with the target.

    With intervals over clusters, Holm's p over all metrics of the panel, and the range of r without
    any one tokenizer, with the one that moves it most; at the smallest guidance scale of every
    backbone, over the tokenizers of one family.
    """
    names = {metric: short for short, metric in HEADLINE_METRICS.items()}
    chosen = correlations[
        (correlations["target"] == target)
        & correlations["metric"].isin(list(names))
        & (correlations["family"] == family)
        & (correlations["guidance"] != BEST)
    ]
    smallest = chosen["guidance"].astype(float).groupby(chosen["backbone"]).transform("min")
    chosen = chosen[chosen["guidance"] == smallest]
    columns: dict[str, object] = {
        "metric": chosen["metric"].map(names),
        "backbone": chosen["backbone"],
        "guidance": [f"{guidance:g}" for guidance in chosen["guidance"]],
    }
    for statistic, words, interval in (
        ("pearson", "Pearson's r", "r interval"),
        ("pearson_partial", "partial r given PSNR", "partial interval"),
        ("spearman", "Spearman's ρ", "ρ interval"),
    ):
        columns[words] = chosen[statistic].round(2)
        columns[interval] = [_interval(row, statistic) for row in chosen.to_dict("records")]
    columns["Holm's p"] = chosen["pearson_p_holm"].round(3)
    columns["r without one"] = [_without(row) for row in chosen.to_dict("records")]
    columns["at chance"] = chosen["at_chance"].map({True: "yes"}).fillna("")
    return pd.DataFrame({**columns, "n": chosen["n"].astype(int)}).reset_index(drop=True)


def _plus(cell: pd.DataFrame) -> str:
    values = cell["value"].to_numpy(float)
    errors = cell["stderr"].to_numpy(float)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else errors[0]
    return f"{values.mean():.2f} ± {error:.2f}"


def _without(row: Mapping[Hashable, Any]) -> str:
    """Return the range of r without any one tokenizer, and the one that moves it most."""
    if pd.isna(row["without_low"]):
        return ""
    return f"{row['without_low']:.2f} to {row['without_high']:.2f} ({row['influential']})"


def _interval(row: Mapping[Hashable, Any], statistic: str) -> str:
    low, high = row[f"{statistic}_low"], row[f"{statistic}_high"]
    if pd.isna(low) or pd.isna(high):
        return str(row["note"]).partition(";")[0] or "none"
    return f"[{low:.2f}, {high:.2f}]"


def noise_sentences(floor: pd.DataFrame, target: str, family: str) -> list[str]:
    """Return one sentence per backbone and guidance scale on the noise of a target.

    Args:
        floor: the table of noise floors. target: name of a generation metric. family: of the
            tokenizers.
    """
    chosen = floor[(floor["target"] == target) & (floor["family"] == family)]
    return [_noise_sentence(row) for row in chosen.to_dict("records")]


def _noise_sentence(row: Mapping[Hashable, Any]) -> str:
    where = f"Noise floor of {_place(row)}"
    if pd.isna(row["reliability"]):
        return f"{where}: unknown ({row['note']})"
    moved = [
        f"a retrained {name} moves it "
        + (f"by {row[column] ** 0.5:.3g}" if row[column] > 0 else "no further")
        for name, column in (
            ("diffusion model", "variance_diffusion_seeds"),
            ("tokenizer", "variance_tokenizer_seeds"),
        )
        if pd.notna(row[column])
    ]
    between = row["variance_tokenizers"]
    apart = f"by {between**0.5:.3g}" if between > 0 else "no more than seeds do"
    known = pd.notna(row["low"])
    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if known else ", no interval"
    return (
        f"{where}: {', '.join(moved)}, tokenizers differ {apart} (standard deviations); "
        f"reliability {row['reliability']:.2f}{interval}"
    )


def _place(row: Mapping[Hashable, Any]) -> str:
    short = str(row["target"]).removeprefix("generation.")
    return f"{short}, {row['backbone']}, {guidance_words(row['guidance'])}"


def guidance_words(guidance: Guidance) -> str:
    """Return a guidance scale in words."""
    if guidance == BEST:
        return "best guidance of each"
    return "no guidance" if guidance is None or pd.isna(guidance) else f"guidance {guidance:g}"
