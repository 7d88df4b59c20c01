"""Deviation of the learned Fisher curves of a latent space from those learned in pixel space."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from diffusability.fisher.deviation import (
    DEVIATIONS,
    Rate,
    Reading,
    distance_from_one,
    fir_deviation,
)
from diffusability.fisher.information import log_weights

_CURVE = re.compile(r"fisher\.curve_learned_(fi|fir|mmse_rate)(_unconditional|)_v[0-9.e+-]+")
_NOT_POSITIVE = "not applicable: the learned curve of pixel space is not positive"
_RUN = ["tokenizer", "tokenizer_seed", "backbone", "seed"]
_TOTAL = ["v", "dim", "total", "total_stderr"]  # options of a row
Row = dict[str, Any]
Totals = Mapping[Any, tuple[float, float]]  # with errors, by noise variance and name


def learned_deviations(
    rows: Sequence[Row], reference: str, backbone: str | None = None
) -> list[Row]:
    """Return the rows of a tidy table that compare learned curves with those of a tokenizer.

    Args:
        rows: of ``tabulate``.
        reference: tokenizer that is the identity on pixels. The deviations of a backbone's runs
            are from the mean over its runs with this backbone.
        backbone: of the reference's runs, instead of that of each run.

    Returns:
        ``fisher.learned_<deviation>`` of ``fisher.deviation.DEVIATIONS``, means over log v, and
        ``fisher.curve_learned_<deviation>_v<v>``, one per run, class-conditional and
        ``_unconditional``; LOWER is better. Both models are treated as independent; the
        error of a mean over v treats its terms as dependent. Runs whose backbone has no reference
        are listed as not applicable.
    """
    curves = _curves(rows)
    found: list[Row] = []
    of_reference = curves[curves["tokenizer"] == reference]
    for _, own in curves.groupby([*_RUN, "condition"], sort=False):
        labels = rows[own["row"].iloc[-1]] | {"higher_is_better": False, "unit": "1"}
        of = own.iloc[0]
        same = of_reference["backbone"] == (backbone or of["backbone"])
        same &= of_reference["condition"] == of["condition"]
        cells = _compare(own, of_reference[same], reference, backbone)
        found += [labels | cell for cell in cells]
    return found


def _curves(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the totals of learned curves: run, condition, name, place of the row, options."""
    found = []
    for place, row in enumerate(rows):
        if match := _CURVE.fullmatch(row["metric"]):
            options = json.loads(row["options"])
            cell = {"name": match[1], "condition": match[2], "row": place, "flags": row["flags"]}
            cell |= {label: row[label] for label in _RUN}
            found.append(cell | {name: options[name] for name in _TOTAL})
    return pd.DataFrame(found, columns=[*_RUN, *_TOTAL, "name", "condition", "row", "flags"])


def _compare(
    own: pd.DataFrame, pixels: pd.DataFrame, reference: str, backbone: str | None
) -> Iterator[Row]:
    """Yield the deviations of one run from the mean of the runs of pixels."""
    names = [f"fisher.learned_{name}{own['condition'].iloc[0]}" for name in DEVIATIONS]
    if pixels.empty:
        which = f"backbone `{backbone}`" if backbone else "this backbone"
        reason = f"not applicable: no model of `{reference}` was measured with {which}"
        for metric in names:
            yield {"metric": metric, "value": None, "stderr": None, "flags": reason}
        return
    stated = {"reference": reference}
    stated |= {"reference_backbone": backbone} if backbone else {}
    grid = sorted(own["v"].unique().tolist())
    dims = own["dim"].iloc[0], pixels["dim"].iloc[0]
    totals = _mean_totals(own), _mean_totals(pixels)
    by_level = [_readings(v, *totals, *dims) for v in grid]
    weights = log_weights(grid)
    every = [flag for text in (*own["flags"], *pixels["flags"]) for flag in text.split("; ")]
    flags = "; ".join(filter(None, dict.fromkeys(every)))
    for metric, readings in zip(names, zip(*by_level, strict=True), strict=True):
        at_v = metric.replace("fisher.", "fisher.curve_")
        for v, reading in zip(grid, readings, strict=True):
            yield _cell(f"{at_v}_v{v:g}", reading, {"v": v, **stated}, flags)
        mean = Reading(
            sum(w * r.value for w, r in zip(weights, readings, strict=True)),
            sum(w * r.stderr for w, r in zip(weights, readings, strict=True)),
        )
        options = {"v": grid, **stated, "reading": "mean over log v"}
        yield _cell(metric, mean, options, flags)


def _mean_totals(curves: pd.DataFrame) -> Totals:
    """Return the means over independent runs."""
    cells = curves.groupby(["v", "name"])
    means = cells["total"].mean()
    errors = cells["total_stderr"].agg(lambda own: math.hypot(*own) / len(own))
    return dict(zip(means.index, zip(means, errors, strict=True), strict=True))


def _readings(v: float, own: Totals, pixel: Totals, dim: int, pixel_dim: int) -> list[Reading]:
    """Return every deviation of ``DEVIATIONS`` at one noise variance."""
    (fi, fi_error), (fir, fir_error) = own[v, "fi"], own[v, "fir"]
    share = dim / pixel_dim
    at = fir_deviation(
        Rate(pixel[v, "fir"][0], pixel_dim, pixel[v, "fir"][1]), Rate(fir, dim, fir_error), v, 0
    )
    return [
        distance_from_one(fi / share, fi_error / share, *pixel[v, "fi"]),
        *(at.relative, at.scaled, at.per_dimension),
        distance_from_one(*own[v, "mmse_rate"], *pixel[v, "mmse_rate"]),
    ]


def _cell(metric: str, reading: Reading, options: Row, flags: str) -> Row:
    """Return the columns that differ between rows; NaN becomes a cell that is not applicable."""
    known = math.isfinite(reading.value)
    return {
        "metric": metric,
        "value": reading.value if known else None,
        "stderr": reading.stderr if known else None,
        "options": json.dumps(options, sort_keys=True),
        "flags": flags if known else _NOT_POSITIVE,
    }
