"""The numbers of a score: by perspective, with their errors, and what was left out and why."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from html import escape
from typing import Any

import pandas as pd

from diffusability.errors import StudyError
from diffusability.report.flags import (
    HARDLY_RECONSTRUCTED,
    LEAST_PSNR,
    UNCONDITIONAL,
    direction,
    reading,
    to_read,
)
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.metrics.metric_group import LEFT_OUT, is_left_out

# metrics of the table, by perspective, where the figures show none
FURTHER = {"reconstruction": {"PSNR": "reconstruction.psnr", "SSIM": "reconstruction.ssim"}}
FURTHER["reconstruction"]["Fréchet distance"] = "reconstruction.f[di]*"
COLUMNS = ["metric", "value", "stderr", "n", "unit", "higher_is_better", "flags"]
PREFIX = "not applicable: "
MATERIAL = 0.01  # share of VIV by which it is said to be too low
# options that follow from the data, or set only the error of a value; all others say what it is.
# They are listed, not those that count, so that an option of a further metric counts by default.
_NOT_OF_THE_VALUE = {
    *("ceiling", "chance", "classes", "smallest_class", "dim", "reference_digest"),
    *("near", "far", "decay"),  # of the grid
    *("halvings", "max_iterations", "repeats", "seed", "shards", "stderr", "tolerance"),
}


@dataclass(frozen=True)
class Score:
    """Measurements of one latent space.

    Attributes:
        name: of the latent space.
        measurements: as `Measurement.to_json` gives them.
        left_out: metric groups and metrics that were not measured, with the reasons.
    """

    name: str
    measurements: Sequence[Mapping[str, Any]]
    left_out: Mapping[str, str]

    def __getitem__(self, metric: str) -> float:
        """Return the value of a metric, for example `velocity.viv`.

        Raises:
            KeyError: it was not measured; the message says why, or what was measured.
        """
        for found in self.measurements:
            if found["metric"] == metric and found["value"] is not None:
                return float(found["value"])
        reason = self.left_out.get(metric) or self.left_out.get(metric.partition(".")[0])
        measured = sorted({str(m["metric"]).partition(".")[0] for m in self.measurements})
        raise KeyError(f"{metric}: {reason or 'not measured; measured are ' + ', '.join(measured)}")

    def to_frame(self) -> pd.DataFrame:
        """Return every measurement, one per row, with value, stderr, n, unit and direction."""
        rows = [{**m, "flags": "; ".join(m["flags"])} for m in self.measurements]
        return pd.DataFrame(rows, columns=COLUMNS).assign(latents=self.name)

    def shown(self) -> pd.DataFrame:
        """Return one row per metric of a perspective: value ± error, and which way is better."""
        return side_by_side([self])

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        lines = [self.shown().to_html(index=False, na_rep="")]
        for heading, items in _notes([self]).items():
            listed = "".join(f"<li>{escape(item)}</li>" for item in items)
            lines.append(f"<p>{escape(heading)}:</p><ul>{listed}</ul>")
        return "".join(lines)

    def __repr__(self) -> str:
        """Return the table as text."""
        return score_text([self])

    def plot(self, *others: "Score", against: str | None = "fashion") -> Any:
        """Return a figure: one axis per metric, this space and `others` as points on it.

        Args:
            others: scores to be drawn beside this one.
            against: known latent spaces, drawn in grey; see `--against`. None: none.

        Raises:
            StudyError: there is no such table, or two scores have one name.
        """
        from diffusability.scoring.against import read_known
        from diffusability.scoring.plot import draw_scores

        names = [score.name for score in (self, *others)]
        if len(set(names)) < len(names):
            raise StudyError(
                f"plot: several scores are called {', '.join(names)}; give each a name of its own: "
                "score(..., name=...)"
            )
        known = None if against is None else read_known(against)
        return draw_scores([self, *others], known)


def score_name(tokenizer: str, seed: str, seeds: Collection[str]) -> str:
    """Return the name of a score, with the tokenizer's seed where there are several."""
    return tokenizer if len(seeds) == 1 else f"{tokenizer}/s{seed}"


def tokenizer_of(name: str) -> str:
    """Return the tokenizer of a score's name; names of tokenizers have no slash."""
    return name.partition("/")[0]


def shown_rows(score: Score) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return perspective, short name and measurement of what the table shows, in order."""
    found = []
    for group in METRIC_GROUPS.values():
        for short, pattern in {**group.shows, **FURTHER.get(group.name, {})}.items():
            for m in score.measurements:
                if m["value"] is not None and fnmatchcase(str(m["metric"]), pattern):
                    how = reading(str(m["metric"]), m["options"], m["flags"])
                    named = ", ".join(filter(None, (short, how)))
                    found.append((group.title or group.name, named, m))
                    break
    return found


def is_unconditional(m: Mapping[str, Any]) -> bool:
    """Return whether a metric that is defined by classes was measured without them."""
    return any(flag.endswith(UNCONDITIONAL) for flag in m["flags"])


def side_by_side(scores: Sequence[Score]) -> pd.DataFrame:
    """Return one row per shown metric, with a column per latent space."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for score in scores:
        for perspective, short, m in shown_rows(score):
            metric = str(m["metric"])
            row = {"perspective": perspective, "metric": f"{short} ({metric})"}
            row |= {s.name: LEFT_OUT if is_left_out(metric, s.left_out) else "-" for s in scores}
            row["better"] = direction(m["higher_is_better"], m["options"].get("chance"))
            rows.setdefault((short, metric), row)[score.name] = plus_minus(m)
    columns = ["perspective", "metric", *(score.name for score in scores), "better"]
    return pd.DataFrame(list(rows.values()), columns=columns)


def one_row_each(scores: Sequence[Score]) -> pd.DataFrame:
    """Return one row per shown metric and latent space, numbers apart from errors and units."""
    rows = [
        {
            **{"latents": score.name, "perspective": perspective, "name": short},
            **{key: m[key] for key in ("metric", "value", "stderr", "unit", "n")},
            "better": direction(m["higher_is_better"]),
            "read_with_care": "; ".join(to_read(m["flags"])),
        }
        for score in scores
        for perspective, short, m in shown_rows(score)
    ]
    return pd.DataFrame(rows)


def plus_minus(m: Mapping[str, Any]) -> str:
    """Return value ± standard error as text, with its unit."""
    error = "" if m["stderr"] is None else f" ± {m['stderr']:.2g}"
    unit = "" if m["unit"] == "1" else f" {m['unit']}"
    return f"{m['value']:.4g}{error}{unit}"


def score_text(scores: Sequence[Score]) -> str:
    """Return the table of one or several latent spaces as text, with what was left out."""
    lines = [side_by_side(scores).to_string(index=False, justify="left")]
    for heading, items in _notes(scores).items():
        lines += ["", f"{heading}:", *(f"  {item}" for item in items)]
    return "\n".join(lines)


def _notes(scores: Sequence[Score]) -> dict[str, list[str]]:
    """Return what is to be said of a table, by heading."""
    unlike = [f"{name}: {reason}" for name, reason in _unlike(scores).items()]
    notes = {"Not measured alike, so not to be compared": unlike}
    for score in scores:
        left: dict[str, list[str]] = {}
        for name, reason in score.left_out.items():
            left.setdefault(reason, []).append(name)
        flags: dict[str, list[str]] = {}
        for _, short, m in shown_rows(score):
            for flag in to_read(m["flags"]):
                flags.setdefault(flag, []).append(short)
        care = [f"{', '.join(names)}: {flag}" for flag, names in flags.items()]
        care += [
            f"PSNR: below {LEAST_PSNR:g} dB {HARDLY_RECONSTRUCTED}"
            for _, _, m in shown_rows(score)
            if m["metric"] == "reconstruction.psnr" and m["value"] < LEAST_PSNR
        ]
        care += _too_low(score)
        lines = [f"{', '.join(names)}: {reason}" for reason, names in left.items()]
        notes |= {f"Left out of {score.name}": lines, f"Read with care, of {score.name}": care}
    return {heading: items for heading, items in notes.items() if items}


def _too_low(score: Score) -> list[str]:
    """Return by how much VIV is too low, where classes have few images for their latents."""
    found = {str(m["metric"]): m for m in score.measurements if m["value"] is not None}
    viv, corrected = (found.get(f"velocity.viv{form}") for form in ("", "_corrected"))
    if viv is None or corrected is None or viv["stderr"] is None:
        return []
    missing = corrected["value"] - viv["value"]
    if missing <= max(2 * viv["stderr"], MATERIAL * corrected["value"]):
        return []
    return [
        f"VIV: too low by about {missing:.2g}, more than its error, with {viv['n']:,} images; "
        "compare it with spaces of as many, or use velocity.viv_corrected"
    ]


def decides_value(option: str) -> bool:
    """Return whether an option of a metric says what its value is, not how well it is known."""
    return option not in _NOT_OF_THE_VALUE


def _unlike(scores: Sequence[Score]) -> dict[str, str]:
    """Return the shown metrics that two spaces were not measured alike in, with the options."""
    unlike: dict[str, str] = {}
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for score in scores:
        for _, short, m in shown_rows(score):
            name, other = first.setdefault(short, (score.name, m["options"]))
            for key in other.keys() & m["options"].keys():
                if decides_value(key) and other[key] != m["options"][key]:
                    what = f"{key} {other[key]} of {name}, {m['options'][key]} of {score.name}"
                    unlike.setdefault(short, what)
    return unlike


def is_shown(metric: str) -> bool:
    """Return whether figures and tables show a metric."""
    shown = (pattern for group in METRIC_GROUPS.values() for pattern in group.shows.values())
    return any(fnmatchcase(metric, pattern) for pattern in shown)


def split_applicable(
    measurements: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """Return the measurements that have a value, and the reasons of shown ones that have none."""
    without = {
        str(m["metric"]): "; ".join(m["flags"]).removeprefix(PREFIX)
        for m in measurements
        if m["value"] is None and is_shown(str(m["metric"]))
    }
    return [m for m in measurements if m["value"] is not None], without
