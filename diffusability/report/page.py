"""Write the report of a study as one self-contained page."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from diffusability.analysis.answer import largest_family
from diffusability.analysis.catalogue import HEADLINE_METRICS
from diffusability.analysis.headline import (
    NO_CORRELATIONS,
    doubt_sentences,
    headline_correlations,
    headline_values,
    noise_sentences,
)
from diffusability.analysis.measurements import read_tables, target_metric
from diffusability.analysis.snapshots import at_last_step
from diffusability.artifacts.atomic import write_bytes
from diffusability.artifacts.card import read_card
from diffusability.report.pictures import inline, tokenizer_pictures
from diffusability.report.summaries import (
    encoder_rows,
    latent_space_rows,
    ledger_rows,
    regression_rows,
    verdict_counts,
)
from diffusability.study.plan import Plan
from diffusability.study.targets import FIGURE_NAMES, figure_files
from diffusability.study.workflow_files import CAPTIONS

TEMPLATE = Path(__file__).with_name("page.html.jinja")
PICTURE_CAPTIONS = ("reconstructions", "samples")
TABLE_CAPTIONS = ("measurements", "claims", "regressions", "latent_spaces", "tokenizers")
# columns of the measurements that the page omits: constant, or long
_HIDDEN = ("study", "dataset", "family", "cluster", "higher_is_better", "options")


def write_page(plan: Plan, path: Path) -> None:
    """Write the report of a finished study to `path`.

    Raises:
        ArtifactError: tables or pictures are missing, or of another state of the study.
    """
    every, target = read_tables(plan), target_metric(plan.study)
    tables = {name: at_last_step(table) for name, table in every.items()}
    measurements, ledger = tables["measurements"], tables["claims"]
    family, values = largest_family(measurements), headline_values(measurements, target)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        study=plan.study.name,
        dataset=plan.study.dataset,
        fingerprint=plan.fingerprint,
        target=target,
        metrics={name: of for name, of in HEADLINE_METRICS.items() if name in values},
        values=_rows(values),
        family=family,
        relations=_rows(headline_correlations(tables["correlations"], target, family)),
        no_correlations=NO_CORRELATIONS,
        doubts=[sentence for sentence in doubt_sentences(tables) if sentence],
        equality=_rows(tables["tokenizers"].round(3)),
        noise=noise_sentences(tables["noise_floor"], target, family),
        verdicts=verdict_counts(ledger),
        ledger=ledger_rows(ledger),
        latent_spaces=_rows(latent_space_rows(tables["latent_spaces"])),
        regressions=_rows(regression_rows(tables["regressions"], target)),
        figures=[_figure(plan, name) for name in FIGURE_NAMES],
        tokenizers=[
            tokenizer_pictures(plan, name, target) for name in plan.study.selected_tokenizers
        ],
        captions={name: _caption(name) for name in PICTURE_CAPTIONS}
        | {name: _caption(f"tables/{name}") for name in TABLE_CAPTIONS},
        own_encoders=_rows(encoder_rows(plan)),
        times=_times(plan),
        table=_rows(every["measurements"].drop(columns=list(_HIDDEN))),
        machines=_machines(plan),
    )
    write_bytes(path, html.encode())


def _rows(table: pd.DataFrame) -> dict[str, Any]:
    """Return header and rows of a table as strings; empty cells stay empty."""
    return {
        "header": list(table.columns),
        "rows": [[_text(value) for value in row] for row in table.itertuples(index=False)],
    }


def _text(value: object) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _caption(name: str) -> str:
    return " ".join((CAPTIONS / f"{name}.rst").read_text(encoding="utf-8").split())


def _figure(plan: Plan, name: str) -> dict[str, str]:
    svg = next(path for path in figure_files(plan.study, name) if path.endswith(".svg"))
    return {
        "source": inline(Path(svg).read_bytes(), "image/svg+xml"),
        "caption": _caption(f"figures/{name}"),
    }


def _times(plan: Plan) -> dict[str, Any]:
    """Return jobs, seconds and peak memory by stage, from the cards."""
    cards = pd.DataFrame(
        [{"stage": a.stage, **_cost(read_card(Path(a.path)))} for a in plan],
    )
    grouped = cards.groupby("stage", sort=False)
    table = pd.DataFrame(
        {
            "jobs": grouped.size(),
            "seconds each (median)": grouped["seconds"].median().round(1),
            "seconds in total": grouped["seconds"].sum().round(1),
            "peak memory (MiB)": (grouped["peak"].max() / 2**20).round().astype(int),
        }
    ).reset_index()
    return _rows(table)


def _cost(card: dict[str, Any]) -> dict[str, float]:
    return {"seconds": card["seconds"], "peak": card["peak_memory_bytes"]}


def _machines(plan: Plan) -> list[str]:
    """Return one line for every combination of system, device and versions used."""
    return sorted(set(_machine_lines(read_card(Path(a.path)) for a in plan)))


def _machine_lines(cards: Iterable[dict[str, Any]]) -> Iterable[str]:
    for card in cards:
        machine = card["machine"]
        packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items() if v)
        day = datetime.fromtimestamp(card["started"], UTC).date()
        commit = (machine["commit"] or "no commit")[:12]
        yield f"{day}: {machine['system']}, {machine['device']}, {packages}, {commit}"
