"""Headline of a study: its answer, one row per tokenizer, and correlations with quality."""

import json
import textwrap
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from diffusability.analysis.answer import Answer, answer, largest_family, target_means
from diffusability.analysis.catalogue import represented
from diffusability.analysis.correlation import at_smallest_guidance, sign, turned
from diffusability.analysis.equal_reconstruction import compared, reconstruction_sentence, unequal
from diffusability.analysis.failed import failed_on, failed_sentence
from diffusability.analysis.frames import rows_where, table_frame, with_interval
from diffusability.analysis.measurements import read_tables, target_metric
from diffusability.analysis.pairing import means_by_tokenizer
from diffusability.analysis.panels import Guidance, Measured, scales
from diffusability.analysis.snapshots import at_last_step
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.tables import BEST, TABLES
from diffusability.study.planning.targets import report_file

LINES, COLUMNS = 25, 100  # of the text
SCALED = "(LNC and SRSS: z-scored)"
NO_CORRELATIONS = (
    "No correlation: it takes three tokenizers of one family with the metric and generated images"
)


@dataclass(frozen=True)
class Headline:
    """What `diffusability show` says of a finished study.

    Attributes:
        answer: of the study. target: the generation metric. family: the largest one.
        scores: ``headline_values``, best tokenizer first. relations: ``headline_correlations``,
            largest first. doubts, noise: sentences. report: path of the page.
    """

    answer: Answer
    target: str
    family: str
    scores: pd.DataFrame
    relations: pd.DataFrame
    doubts: list[str]
    noise: list[str]
    report: str

    @classmethod
    def of(cls, plan: Plan) -> "Headline":
        """Read the headline of a finished study.

        Raises:
            ArtifactError: the study has no tables yet, or outdated ones.
        """
        tables = study_tables(plan)
        target = target_metric(plan.study)
        measurements, family = tables["measurements"], largest_family(compared(tables))
        relations = headline_correlations(tables["correlations"], target, family)
        by_size = relations["r"].abs().sort_values(ascending=False, kind="stable").index
        return cls(
            answer(tables, target),
            target,
            family,
            best_first(
                _noted(headline_values(measurements, target), tables, target), measurements, target
            ),
            relations.loc[by_size],
            [sentence for sentence in doubt_sentences(tables) if sentence],
            noise_sentences(tables["noise_floor"], target, family),
            report_file(plan.study),
        )

    def text(self) -> str:
        """Return at most ``LINES`` lines of at most ``COLUMNS`` columns."""
        words = " ".join([self.answer.sentence, *self.answer.details])
        said = textwrap.wrap(words, COLUMNS, max_lines=10, placeholder=" ...")
        scores = _fitted(self.scores, 3, "tokenizer")
        shown = ["metric", "backbone", "r", "r interval", "Holm's p", "n"]
        relations = [f"{NO_CORRELATIONS}."] if self.target else []
        if len(self.relations):
            head = f"Correlation with {self.target}, positive: in the expected direction {SCALED}"
            relations = [head, *_fitted(self.relations[shown], 4, "correlation")]
        page = f"Report: {self.report}"
        page = page if len(page) <= COLUMNS else f"...{page[3 - COLUMNS :]}"
        return "\n".join([*said, "", *scores, "", *relations, page])

    def csv(self) -> str:
        """Return the scores of every tokenizer as CSV."""
        return str(self.scores.to_csv(index=False))

    def json(self) -> str:
        """Return everything as JSON."""
        found = {
            "answer": self.answer.sentence,
            "decided": self.answer.decided,
            "details": list(self.answer.details),
            **{"target": self.target, "family": self.family},
            "tokenizers": json.loads(self.scores.to_json(orient="records")),
            "correlations": json.loads(self.relations.to_json(orient="records")),
            **{"doubts": self.doubts, "noise": self.noise, "report": self.report},
        }
        return json.dumps(found, indent=2, ensure_ascii=False)


def study_tables(plan: Plan) -> dict[str, pd.DataFrame]:
    """Return all tables by name, each backbone at its last step.

    In a study without diffusion models those of generated images are empty.

    Raises:
        ArtifactError: the study has no tables yet, or outdated ones.
    """
    every = read_tables(plan)
    return {
        name: at_last_step(every[name]) if name in every else table_frame(name, [])
        for name in TABLES
    }


def best_first(values: pd.DataFrame, measurements: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return the rows of ``headline_values``, family by family, the best target first."""
    order = [
        name
        for family in dict.fromkeys(measurements["family"])
        for name in target_means(measurements, target, family).index
    ]
    places = values["tokenizer"].map({name: place for place, name in enumerate(order)})
    return values.loc[places.sort_values(kind="stable").index].reset_index(drop=True)


def _noted(values: pd.DataFrame, tables: Mapping[str, pd.DataFrame], target: str) -> pd.DataFrame:
    """Return the values with a column that marks what does not count, if there is such a row."""
    measured = Measured(tables["measurements"])
    every = list(scales(measured, target))
    failed = {
        name: "failed" if backbones == every else f"failed on {', '.join(backbones)}"
        for name, backbones in failed_on(measured, target).items()
    }
    notes = failed | dict.fromkeys(unequal(tables["tokenizers"]), "left out")
    noted = [notes.get(name, "") for name in values["tokenizer"]]
    if any(noted):
        values.insert(1, "note", noted)
    return values


def _fitted(table: pd.DataFrame, rows: int, what: str) -> list[str]:
    """Return the first rows and columns of a table that fit, and one line on what does not."""
    shown = table.head(rows).map(lambda cell: cell[:28] if isinstance(cell, str) else cell)
    columns = list(shown.columns)
    while True:
        lines = shown[columns].to_string(index=False, na_rep="-").splitlines()
        if max(map(len, lines)) <= COLUMNS or len(columns) == 1:
            break
        columns.pop()
    left = {what: len(table) - len(shown), "column": len(table.columns) - len(columns)}
    said = [f"{n} more {name}{'s' * (n > 1)}" for name, n in left.items() if n]
    return [*lines, f"({', '.join(said)}: --csv, --json)"] if said else lines


def doubt_sentences(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return what is said of tokenizers and models that do not count; some may be empty."""
    failed = failed_sentence(tables["measurements"])
    return [reconstruction_sentence(tables["tokenizers"]), failed]


def headline_values(measurements: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return one row per tokenizer: the target by backbone and guidance, and headline metrics.

    Metrics that no tokenizer has are omitted. Values are means over trainings; the target has its
    standard error over them if there are several, else that of its single measurement.
    """
    means = measurements.pivot_table(
        index="tokenizer", columns="metric", values="value", aggfunc="mean", sort=False
    )
    names = represented(means.columns)
    table = means[list(names)].rename(columns=names)
    scores = pd.DataFrame(index=table.index)
    chosen = measurements[measurements["metric"] == target]
    for (backbone, guidance), cell in chosen.groupby(["backbone", "guidance"]):
        column = f"{target.removeprefix('generation.')} {backbone} guidance {guidance:g}"
        values = means_by_tokenizer(cell)
        errors = values["stderr"].map(" ± {:.2f}".format).where(values["stderr"].notna(), "")
        scores[column] = values["value"].map("{:.2f}".format) + errors
    return scores.join(table.round(3)).reset_index()


def headline_correlations(correlations: pd.DataFrame, target: str, family: str) -> pd.DataFrame:
    """Return r, partial r given PSNR, and ρ of each headline metric with the target.

    Turned: positive where a better metric, as it declares, goes with a better target.
    With intervals over clusters, Holm's p over all metrics of the panel, and the range of r without
    any one tokenizer or cluster, with the one that moves it most; at the smallest guidance scale of
    every backbone, over the tokenizers of one family.
    """
    names = represented(correlations["metric"])
    chosen = rows_where(correlations, target=target, family=family)
    chosen = at_smallest_guidance(chosen[chosen["metric"].isin(list(names))])
    columns: dict[str, object] = {
        "metric": chosen["metric"].map(names),
        "backbone": chosen["backbone"],
        "guidance": [f"{guidance:g}" for guidance in chosen["guidance"]],
        "n": chosen["n"].astype(int),
    }
    for statistic, words, interval in (
        ("pearson", "r", "r interval"),
        ("pearson_partial", "r given PSNR", "interval given PSNR"),
        ("spearman", "Spearman's ρ", "ρ interval"),
    ):
        columns[words] = (chosen[statistic] * chosen["expected_sign"].fillna(1.0)).round(2)
        columns[interval] = [_interval(row, statistic) for row in chosen.to_dict("records")]
    columns["Holm's p"] = chosen["pearson_p_holm"].round(3)
    for words, end in (("tokenizer", ""), ("cluster", "_cluster")):
        columns[f"r without one {words}"] = [_without(r, end) for r in chosen.to_dict("records")]
    for words, mark in (("at chance", "at_chance"), ("models failed", "failed")):
        columns[words] = chosen[mark].map({True: "yes"}).fillna("")
    return pd.DataFrame(columns).reset_index(drop=True)


def _without(row: Mapping[Hashable, Any], of: str) -> str:
    """Return the range of r without any one tokenizer or cluster, and which moves it most."""
    if pd.isna(row[f"without{of}_low"]):
        return ""
    low, high = sorted(sign(row) * row[f"without{of}_{end}"] for end in ("low", "high"))
    return f"{low:.2f} to {high:.2f} ({row[f'influential{of}']})"


def _interval(row: Mapping[Hashable, Any], statistic: str) -> str:
    _, low, high = turned(row, statistic)
    if pd.isna(low) or pd.isna(high):
        return str(row["note"]).partition(";")[0] or "none"
    return f"[{low:.2f}, {high:.2f}]"


def noise_sentences(floor: pd.DataFrame, target: str, family: str) -> list[str]:
    """Return one sentence per backbone and guidance scale on the noise of a target."""
    chosen = rows_where(floor, target=target, family=family)
    return [_noise_sentence(row) for row in chosen.to_dict("records")]


def _noise_sentence(row: Mapping[Hashable, Any]) -> str:
    target = str(row["target"]).removeprefix("generation.")
    where = f"Noise floor of {target}, {row['backbone']}, {guidance_words(row['guidance'])}"
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
    apart = f"by {between**0.5:.3g}" if between > 0 else "no more than that"
    return (
        f"{where}: {', '.join(moved)}, tokenizers differ {apart} (standard deviations); "
        f"reliability {with_interval(row['reliability'], row['low'], row['high'])}"
    )


def guidance_words(guidance: Guidance) -> str:
    """Return a guidance scale in words."""
    if guidance == BEST:
        return "best guidance of each"
    return "no guidance" if guidance is None or pd.isna(guidance) else f"guidance {guidance:g}"
