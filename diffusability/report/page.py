"""Write the report of a study as one self-contained page."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
import pandas as pd

from diffusability import __version__
from diffusability.analysis.answer import Answer, answer, largest_family
from diffusability.analysis.catalogue import name_metric, represented
from diffusability.analysis.equal_reconstruction import compared, unequal
from diffusability.analysis.headline import (
    NO_CORRELATIONS,
    headline_correlations,
    noise_sentences,
    study_tables,
)
from diffusability.analysis.measurements import read_tables, target_metric
from diffusability.artifacts.atomic import write_bytes
from diffusability.artifacts.card import read_card
from diffusability.artifacts.inventory import folder_of
from diffusability.report.doubts import (
    damaged_images,
    enlarged_images,
    equality_rows,
    failed_rows,
    flag_rows,
    warnings,
    wider_than_stated,
)
from diffusability.report.figures import caption, drawings, parted
from diffusability.report.methods import BIBTEX, methods
from diffusability.report.pictures import tokenizer_pictures
from diffusability.report.scores import (
    LeftOut,
    Places,
    left_out_rows,
    perspective_rows,
    score_table,
)
from diffusability.report.summaries import (
    compared_sentence,
    declared_rows,
    encoder_rows,
    latent_space_rows,
    ledger_rows,
    prediction_rows,
    regression_rows,
    unpredicted,
    untested_claims,
    verdict_counts,
)
from diffusability.study.planning.plan import Plan

TEMPLATE = Path(__file__).with_name("page.html.jinja")
PICTURE_CAPTIONS = ("reconstructions", "samples", "fir_images")
TABLE_CAPTIONS = (
    *("measurements", "claims", "regressions", "predictions", "latent_spaces", "tokenizers"),
    "declared_tests",
)
FIRST_FIGURES = ("correlations", "strongest")  # on the first screen
EXPLAINED = ("scheme",)  # before the scores
NEXT_FIGURES = ("reconstruction", "noise_floor")  # before the claims
# columns of the measurements that the page omits: constant, or long
_HIDDEN = ("study", "dataset", "family", "cluster", "higher_is_better", "options")


def write_page(
    plan: Plan,
    path: Path,
    *,
    left_out: LeftOut = MappingProxyType({}),
    places: Places | None = None,
) -> None:
    """Write the report of a finished study to `path`.

    Args:
        plan: of the study.
        path: of the page.
        left_out: of a score: why metric groups and metrics have no value, by tokenizer.
        places: of a score: where its latent spaces lie among known ones.

    Raises:
        ArtifactError: tables or pictures are missing, or of another state of the study.
    """
    tables, target = study_tables(plan), target_metric(plan.study)
    measurements = read_tables(plan)["measurements"]  # of every step
    cards, manifests = [read_card(folder_of(a)) for a in plan], _manifests(plan)
    pictures = [tokenizer_pictures(plan, name, target) for name in plan.study.selected_tokenizers]
    found = answer(tables, target)
    context = {
        **_numbers(tables, target),
        **_drawn(plan),
        "study": plan.study.name,
        "dataset": plan.study.dataset,
        "dataset_name": plan.study.select.dataset,
        "fingerprint": plan.fingerprint,
        "answer": {
            "sentence": _typeset(found.sentence),
            "details": [_typeset(sentence) for sentence in found.details],
            "decided": found.decided,
        },
        "extremes": _extremes(found, pictures),
        "perspectives": _rows(
            pd.DataFrame() if target else perspective_rows(measurements, left_out)
        ),
        "left_out": _rows(
            left_out_rows(plan.study, measurements, manifests[0]["images_by_class"], left_out)
        ),
        "places": places and {**vars(places), "table": _rows(places.table)},
        "doubts": warnings(
            tables, damaged_images(plan), wider_than_stated(plan), enlarged_images(plan)
        ),
        "methods": methods(plan, tables, target, manifests, _packages(cards)),
        "bibtex": BIBTEX % __version__,
        "tokenizers": pictures,
        "pictured": any(of["reconstructions"] or of["samples"] for of in pictures),
        "captions": {name: caption(name) for name in PICTURE_CAPTIONS}
        | {name: caption(f"tables/{name}") for name in TABLE_CAPTIONS},
        "own_encoders": _rows(encoder_rows(plan)),
        "times": _times(plan, cards),
        "table": _rows(measurements.drop(columns=list(_HIDDEN))),
        "machines": sorted(set(_machine_lines(cards))),
    }
    write_bytes(path, render(context).encode())


def render(context: Mapping[str, Any]) -> str:
    """Return the page with its values filled in."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["parted"] = parted
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(context)


def _numbers(tables: Mapping[str, pd.DataFrame], target: str) -> dict[str, Any]:
    """Return what the page shows of the tables."""
    measurements, ledger = tables["measurements"], tables["claims"]
    family = largest_family(compared(tables))
    return {
        "target": target,
        "target_name": name_metric(target),
        "family": family,
        "metrics": {s: of for of, s in represented(measurements["metric"]).items()},
        "scores": score_table(tables, target),
        "relations": _rows(headline_correlations(tables["correlations"], target, family)),
        "no_correlations": NO_CORRELATIONS,
        "equality": _rows(equality_rows(tables["tokenizers"])),
        "compared": compared_sentence(unequal(tables["tokenizers"])),
        # without models, the page says elsewhere what is not applicable
        "flags": _rows(flag_rows(measurements if target else measurements.dropna(subset="value"))),
        "failed": _rows(failed_rows(measurements)),
        "declared": _rows(declared_rows(tables["declared_tests"])),
        "noise": noise_sentences(tables["noise_floor"], target, family),
        "verdicts": verdict_counts(ledger),
        "ledger": ledger_rows(ledger),
        "untested": untested_claims(ledger),
        "latent_spaces": _rows(latent_space_rows(tables["latent_spaces"])),
        "regressions": _rows(regression_rows(tables["regressions"], target)),
        "predictions": _rows(prediction_rows(tables["predictions"])),
        "unpredicted": unpredicted(tables["predictions"]),
    }


def _drawn(plan: Plan) -> dict[str, Any]:
    """Return the figures of each part of the page, and why some are not drawn."""
    drawn, empty = drawings(plan.study)
    parts = {
        "first_figures": FIRST_FIGURES,
        "explained": EXPLAINED,
        "next_figures": NEXT_FIGURES,
    }
    placed = {name for names in parts.values() for name in names}
    return {
        **{part: [drawn[n] for n in names if n in drawn] for part, names in parts.items()},
        "figures": [figure for name, figure in drawn.items() if name not in placed],
        "not_drawn": {name.replace("_", " "): reason for name, reason in empty.items()},
    }


def _extremes(found: Answer, pictures: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return one picture of samples of the tokenizers with the best and the worst images."""
    first = found.strongest
    samples = {
        picture["name"]: [
            own
            for own in picture["samples"]
            if first is None or own["backbone"] == first.panel.backbone
        ]
        for picture in pictures
    }
    return [
        {"tokenizer": name, "words": words, **samples[name][0]}
        for name, words in ((found.best, "Best images"), (found.worst, "Worst images"))
        if samples.get(name)
    ]


def _manifests(plan: Plan) -> list[dict[str, Any]]:
    return [
        json.loads((folder_of(a) / "manifest.json").read_text(encoding="utf-8"))
        for a in plan.of_stage("dataset")
    ]


def _packages(cards: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return the versions of the packages that made the artifacts; several are all named."""
    found: dict[str, dict[str, None]] = {}
    for card in cards:
        machine = card["machine"]
        for name, version in {"Python": machine["python"], **machine["packages"]}.items():
            if version:
                found.setdefault(name, {})[version] = None
    return {name: " and ".join(versions) for name, versions in found.items()}


def _rows(table: pd.DataFrame) -> dict[str, Any]:
    """Return header and rows of a table as strings; empty cells stay empty."""
    return {
        "header": list(table.columns),
        "rows": [[_text(value) for value in row] for row in table.itertuples(index=False)],
    }


def _typeset(sentence: str) -> str:
    """Return a sentence with true minus signs, and intervals that no line break divides."""
    whole = re.sub(r"\[[^\]]*\]|r = \S+", lambda m: m[0].replace(" ", "\u00a0"), sentence)
    return re.sub(r"(?<![\w)])-(?=[\d.])", "\N{MINUS SIGN}", whole)


def _text(value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _times(plan: Plan, cards: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return jobs, seconds and peak memory by stage, from the cards of a plan."""
    costs = [
        {"stage": a.stage, "seconds": card["seconds"], "peak": card["peak_memory_bytes"]}
        for a, card in zip(plan, cards, strict=True)
    ]
    grouped = pd.DataFrame(costs).groupby("stage", sort=False)
    table = pd.DataFrame(
        {
            "jobs": grouped.size(),
            "seconds each (median)": grouped["seconds"].median().round(1),
            "seconds in total": grouped["seconds"].sum().round(1),
            "peak memory (MiB)": (grouped["peak"].max() / 2**20).round().astype(int),
        }
    ).reset_index()
    return _rows(table)


def _machine_lines(cards: Iterable[dict[str, Any]]) -> Iterable[str]:
    for card in cards:
        machine = card["machine"]
        packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items() if v)
        day = datetime.fromtimestamp(card["started"], UTC).date()
        commit = (machine["commit"] or "no commit")[:12]
        yield f"{day}: {machine['system']}, {machine['device']}, {packages}, {commit}"
