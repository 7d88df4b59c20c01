"""Where a latent space lies among known ones: those of a finished study, or of a published one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffusability.errors import StudyError
from diffusability.report.pictures import inline
from diffusability.report.scores import Places
from diffusability.scoring.advice import advice
from diffusability.scoring.comparable import difference, of_table
from diffusability.scoring.expected import images_of
from diffusability.scoring.table import Score, shown_rows, tokenizer_of

KNOWN = Path(__file__).with_name("known")
# what the tables that come with the package are of
ABOUT = {
    "fashion": "24 tokenizers of about 450,000 parameters each, of Fashion-MNIST at "
    "32 x 32 pixels (studies/fashion.yaml)"
}
NEAREST = 2
_NO_VERDICT = "take it as a first orientation, not as a verdict."
OTHER_IMAGES = f"They are of other images, or of the same with other options: {_NO_VERDICT}"
UNKNOWN_IMAGES = f"Unless they are of the same images: {_NO_VERDICT}"
EXPECTED = "What diffusion models are expected to make of it"
MOVED = "What moved the metrics of the known ones, against the baseline of their family"
NOT_COMPARED = "Not compared"


@dataclass(frozen=True)
class Known:
    """Latent spaces that were measured before.

    Attributes:
        about: what they are, for the caption.
        rows: their measurements: tokenizer, metric, value, options (JSON) and flags.
        advice: what moved their metrics, a sentence each.
        images: fingerprint of their dataset; empty: not known.
    """

    about: str
    rows: pd.DataFrame
    advice: Sequence[str] = ()
    images: str = ""

    def care(self, images: str) -> str:
        """Return with what care spaces of a dataset's fingerprint are compared, or nothing."""
        if not (images and self.images):
            return UNKNOWN_IMAGES
        return "" if images == self.images else OTHER_IMAGES

    def beside(self, score: Score, images: str) -> dict[str, "Known"]:
        """Return the known spaces by family, without the scored one, which a study may hold itself.

        Values of two families may not overlap at all, so a place among both says nothing. A
        tokenizer of the study is compared with its own family alone.
        """
        rows = self.rows
        if not (images and self.images and images != self.images):  # else equal names are chance
            own = rows["tokenizer"] == tokenizer_of(score.name)
            family = rows.loc[own, "family"].unique()
            rows = rows[~own & (rows["family"].isin(family) if len(family) else True)]
        return {
            str(family): replace(self, rows=part)
            for family, part in rows.groupby("family", sort=False)
        }


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
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        for options in set(table.get("options", ())):
            json.loads(options or "{}")
    except ValueError as error:  # also of pandas, of its text, and of JSON
        raise StudyError(
            f"--against {path}: is no table of measurements ({str(error)[:200]}); name the folder "
            "of a finished study's tables, results/tables/<study>"
        ) from None
    if not {"tokenizer", "metric", "value"} <= set(table.columns):
        raise StudyError(f"--against {path}: has no columns tokenizer, metric and value")
    if "backbone" in table:
        table = table[table["backbone"] == ""]
    table = table.assign(value=pd.to_numeric(table["value"], errors="coerce"))
    known = [name for name in ("tokenizer", "family", "cluster", "metric") if name in table]
    means = table.groupby(known, sort=False)["value"].mean().reset_index()
    how = {name: table.get(name, "") for name in ("options", "flags", "family")}
    images = "" if name in ABOUT else images_of(name)
    return Known(about, table.assign(**how), tuple(advice(means)), images)


def place(score: Score, known: Known, images: str = "") -> pd.DataFrame:
    """Return where each shown metric lies among the known latent spaces.

    Args:
        score: of the space; is not compared with itself. known: what it is compared with.
        images: fingerprint of its dataset; empty: not known.

    Returns:
        One row per metric that both have, measured in one way (see ``not_compared``), and family:
        ``better_than`` the share of known latent spaces that are worse, in percent, ties counted
        half (``above`` where no direction is claimed), of ``known`` many; whether the value is
        ``outside`` of their range; and the names of the ``nearest``.
    """
    families = known.beside(score, images)
    rows = [
        {"latents": score.name, "metric": short}
        | ({"family": family} if len(families) > 1 else {})
        | _place(m, values)
        for _, short, m in shown_rows(score)
        for family, part in families.items()
        if len(values := known_values(part, m)[0])
    ]
    return pd.DataFrame(rows)


def _place(m: Mapping[str, Any], values: pd.Series) -> dict[str, object]:
    """Return where a measurement lies among known values, by the names of their tokenizers."""
    value, up = float(m["value"]), m["higher_is_better"]
    below = float(((values < value) + 0.5 * (values == value)).mean())
    share = 1 - below if up is False else below
    nearest = (values - value).abs().sort_values(kind="stable").index[:NEAREST]
    return {
        "value": value,
        "above" if up is None else "better_than": 100 * share,
        "outside": "" if values.min() <= value <= values.max() else "yes",
        "known": len(values),
        "range": f"{values.min():.4g} to {values.max():.4g}",
        "nearest": ", ".join(map(str, nearest)),
    }


def known_values(known: Known, m: Mapping[str, Any]) -> tuple[pd.Series, str]:
    """Return the known values that a measurement can be compared with, by tokenizer.

    Returns:
        Means over seeds, and, where there are none although the metric was measured of known
        spaces, the reason.
    """
    rows = known.rows[(known.rows["metric"] == m["metric"]) & known.rows["value"].notna()]
    reasons = [
        difference(m, of_table(options, flags))
        for options, flags in zip(rows["options"], rows["flags"], strict=True)
    ]
    alike = rows[np.array([not reason for reason in reasons], dtype=bool)]
    reason = reasons[0] if reasons and alike.empty else ""
    return alike.groupby("tokenizer")["value"].mean(), reason


def not_compared(scores: Sequence[Score], known: Known) -> list[str]:
    """Return of which metrics there are known values that were measured otherwise, and how."""
    found: dict[tuple[str, str], list[str]] = {}
    for score in scores:
        for _, short, m in shown_rows(score):
            if reason := known_values(known, m)[1]:
                found.setdefault((score.name, reason), []).append(short)
    return [f"{', '.join(shorts)} of {name}: {reason}" for (name, reason), shorts in found.items()]


def _places(scores: Sequence[Score], known: Known, images: str) -> pd.DataFrame | None:
    """Return the places of all scores, as words; None: no metric was measured of both."""
    tables = [table for table in (place(s, known, images) for s in scores) if not table.empty]
    if not tables:
        return None
    table = pd.concat(tables)
    for column in ("above", "better_than"):
        if column in table:
            words = [f"{v:.0f} %" if pd.notna(v) else "" for v in table[column]]
            table[column] = words
    table["value"] = table["value"].map("{:.4g}".format)
    return table.fillna("").rename(columns={"better_than": "better than"})


def against_text(
    scores: Sequence[Score], known: Known, expected: Sequence[str] = (), images: str = ""
) -> str:
    """Return the places of all scores as text, with what is expected of them, and advice.

    Args: those of ``places_on_page``.
    """
    table, others = _places(scores, known, images), not_compared(scores, known)
    if table is None:
        reasons = "".join(f"\n  {sentence}" for sentence in others)
        return f"Against {known.about}: no metric was measured of both{reasons}"
    care = known.care(images)
    parts = [
        "\n".join(filter(None, [f"Against {known.about}.", care, table.to_string(index=False)]))
    ]
    lists = {NOT_COMPARED: others, EXPECTED: expected, MOVED: known.advice}
    for title, sentences in lists.items():
        if sentences:
            parts.append("\n".join([f"{title}:", *(f"  {sentence}" for sentence in sentences)]))
    return "\n\n".join(parts)


def places_on_page(
    scores: Sequence[Score],
    known: Known,
    expected: Sequence[str] = (),
    picture: bytes = b"",
    images: str = "",
    first: Sequence[str] = (),
) -> Places | None:
    """Return what `against_text` says, for the page; None: no metric was measured of both.

    Args:
        scores: that the page is of. known: what they are compared with.
        expected: sentences on predictions. picture: SVG of the scores among the known; empty: none.
        images: fingerprint of the dataset of the scores; empty: not known.
        first: those of the sentences that the page begins with.
    """
    table = _places(scores, known, images)
    if table is None:
        return None
    source = inline(picture, "image/svg+xml") if picture else ""
    lists = {
        NOT_COMPARED: not_compared(scores, known),
        EXPECTED: [sentence for sentence in expected if sentence not in first],
        MOVED: known.advice,
    }
    about = " ".join(filter(None, [f"Against {known.about}.", known.care(images)]))
    return Places(about, table, source, lists, first)
