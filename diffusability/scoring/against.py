"""Where a latent space lies among known ones: those of a finished study, or of a published one."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from html import escape
from pathlib import Path

import pandas as pd

from diffusability.errors import StudyError
from diffusability.scoring.table import Score, shown_rows

KNOWN = Path(__file__).with_name("known")
# what the tables that come with the package are of
ABOUT = {
    "shapes-small": "24 tokenizers of a few thousand parameters each, of coloured shapes of "
    "16 x 16 pixels (studies/shapes-small.yaml); their iFD is of z-scored latents and their "
    "uniformity of posterior means, measured before the defaults were their sources'"
}
NEAREST = 2
CARE = (
    "They are of other images and other latents: take it as a first orientation, not as a verdict."
)
BEFORE = '<h2 id="doubts">'  # part of the page before which the places are put


@dataclass(frozen=True)
class Known:
    """Latent spaces that were measured before.

    Attributes:
        about: what they are, for the caption.
        values: one row per tokenizer, one column per metric; means over seeds.
    """

    about: str
    values: pd.DataFrame


def read_known(name: str) -> Known:
    """Return the known latent spaces of a table.

    Args:
        name: one that comes with the package, or the path of a finished study's measurements.csv or
            of the folder that holds it.

    Raises:
        StudyError: there is no such table, or it has other columns.
    """
    path = Path(name)
    path = path / "measurements.csv" if path.is_dir() else path
    about = ABOUT.get(name, f"the tokenizers of {name}")
    if name in ABOUT:
        path = KNOWN / f"{name}.csv"
    if not path.is_file():
        raise StudyError(
            f"--against {name}: neither measurements.csv of a finished study, nor one of the "
            f"tables that come with the package: {', '.join(ABOUT)}"
        )
    # read as text first: a tokenizer may be called "007" or "nan"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if not {"tokenizer", "metric", "value"} <= set(table.columns):
        raise StudyError(f"--against {path}: has no columns tokenizer, metric and value")
    if "backbone" in table:
        table = table[table["backbone"] == ""]
    table = table.assign(value=pd.to_numeric(table["value"], errors="coerce"))
    return Known(about, table.pivot_table(index="tokenizer", columns="metric", values="value"))


def place(score: Score, known: Known) -> pd.DataFrame:
    """Return where each shown metric lies among the known latent spaces.

    Returns:
        One row per metric that both have: ``better_than`` the share of known latent spaces that are
        worse, in percent, ties counted half (``above`` where no direction is claimed), of
        ``known`` many; and the names of the ``nearest``.
    """
    rows = []
    for _, short, m in shown_rows(score):
        values = _of_metric(known.values, str(m["metric"]))
        if values is None or values.empty:
            continue
        value, up = float(m["value"]), m["higher_is_better"]
        below = float(((values < value) + 0.5 * (values == value)).mean())
        share = 1 - below if up is False else below
        nearest = (values - value).abs().sort_values(kind="stable").index[:NEAREST]
        rows.append(
            {
                "latents": score.name,
                "metric": short,
                "value": value,
                "above" if up is None else "better_than": 100 * share,
                "known": len(values),
                "range": f"{values.min():.4g} to {values.max():.4g}",
                "nearest": ", ".join(map(str, nearest)),
            }
        )
    return pd.DataFrame(rows)


def _of_metric(values: pd.DataFrame, metric: str) -> pd.Series | None:
    """Return the known values of a metric, by tokenizer."""
    found = next((name for name in values.columns if fnmatchcase(str(name), metric)), None)
    return None if found is None else values[found].dropna()


def _places(scores: Sequence[Score], known: Known) -> pd.DataFrame | None:
    """Return the places of all scores, as words; None: no metric was measured of both."""
    tables = [table for table in (place(score, known) for score in scores) if not table.empty]
    if not tables:
        return None
    table = pd.concat(tables)
    for column in ("above", "better_than"):
        if column in table:
            words = [f"{v:.0f} %" if pd.notna(v) else "" for v in table[column]]
            table[column] = words
    table["value"] = table["value"].map("{:.4g}".format)
    return table.fillna("")


def against_text(scores: Sequence[Score], known: Known) -> str:
    """Return the places of all scores as text, with what they are compared with."""
    table = _places(scores, known)
    if table is None:
        return f"Against {known.about}: no metric was measured of both"
    return f"Against {known.about}.\n{CARE}\n{table.to_string(index=False)}"


def with_places(page: str, scores: Sequence[Score], known: Known) -> str:
    """Return a score's page with the places of all scores before its warnings."""
    table = _places(scores, known)
    if table is None:
        return page
    section = (
        f'<h2 id="against">Against known latent spaces</h2>\n<p>Against {escape(known.about)}. '
        f'{CARE}</p>\n<div class="scroll">{table.to_html(index=False, border=0)}</div>\n\n'
    )
    return page.replace(BEFORE, section + BEFORE, 1)
