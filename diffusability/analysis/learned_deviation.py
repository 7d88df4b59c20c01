"""Deviation of the learned Fisher curves of a latent space from those learned in pixel space."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
_RUN = ("tokenizer", "tokenizer_seed", "backbone", "seed")
Row = dict[str, Any]


@dataclass(frozen=True)
class _Curve:
    """Totals of one run, or their means over runs.

    Attributes:
        row: a row of the table, whose labels are copied to the deviations.
        dim: dimensions.
        totals: value and standard error of fi, fir and mmse_rate by noise variance.
        flags: of its rows, without duplicates.
    """

    row: Row
    dim: int
    totals: dict[float, dict[str, tuple[float, float]]]
    flags: tuple[str, ...]


def learned_deviations(rows: Sequence[Row], reference: str) -> list[Row]:
    """Return the rows of a tidy table that compare learned curves with those of a tokenizer.

    Args:
        rows: of ``tabulate``.
        reference: tokenizer that is the identity on pixels. The deviations of a backbone's runs
            are from the mean over its runs with this backbone.

    Returns:
        ``fisher.learned_<deviation>`` of ``fisher.deviation.DEVIATIONS``, means over log v, and
        ``fisher.curve_learned_<deviation>_v<v>``, one per run, class-conditional and
        ``_unconditional``; LOWER is better. Both models are treated as independent; the
        error of a mean over v treats its terms as dependent. Runs whose backbone has no reference
        are listed as not applicable.
    """
    runs = _curves(rows)
    found: list[Row] = []
    for (tokenizer_run, condition), curve in runs.items():
        pixels = [
            other
            for (run, case), other in runs.items()
            if run[0] == reference and run[2] == tokenizer_run[2] and case == condition
        ]
        found += _compare(curve, _mean(pixels), condition, reference)
    return found


def _curves(rows: Sequence[Row]) -> dict[tuple[tuple[str, ...], str], _Curve]:
    """Return the learned curves by run and condition."""
    curves: dict[tuple[tuple[str, ...], str], _Curve] = {}
    for row in rows:
        match = _CURVE.fullmatch(row["metric"])
        if match is None:
            continue
        name, condition = match.groups()
        options = json.loads(row["options"])
        key = (tuple(row[label] for label in _RUN), condition)
        before = curves.get(key, _Curve(row, options["dim"], {}, ()))
        before.totals.setdefault(options["v"], {})[name] = (
            options["total"],
            options["total_stderr"],
        )
        flags = dict.fromkeys((*before.flags, *filter(None, row["flags"].split("; "))))
        curves[key] = _Curve(row, before.dim, before.totals, tuple(flags))
    return curves


def _mean(curves: Sequence[_Curve]) -> _Curve | None:
    """Return the mean over independent runs, or None without runs."""
    if not curves:
        return None
    totals = {
        v: {name: _mean_of([curve.totals[v][name] for curve in curves]) for name in numbers}
        for v, numbers in curves[0].totals.items()
    }
    flags = dict.fromkeys(flag for curve in curves for flag in curve.flags)
    return _Curve(curves[0].row, curves[0].dim, totals, tuple(flags))


def _mean_of(estimates: Sequence[tuple[float, float]]) -> tuple[float, float]:
    count = len(estimates)
    return sum(value for value, _ in estimates) / count, math.hypot(
        *(e for _, e in estimates)
    ) / count


def _compare(curve: _Curve, pixel: _Curve | None, condition: str, reference: str) -> Iterator[Row]:
    """Yield the deviations of one run."""
    names = {name: f"fisher.learned_{name}{condition}" for name in DEVIATIONS}
    base = curve.row | {"higher_is_better": False, "unit": "1"}
    if pixel is None:
        reason = f"not applicable: no model of `{reference}` was measured with this backbone"
        for metric in names.values():
            yield base | {"metric": metric, "value": None, "stderr": None, "flags": reason}
        return
    grid = sorted(curve.totals)
    by_level = [_readings(v, curve, pixel) for v in grid]
    weights = log_weights(grid)
    flags = "; ".join(dict.fromkeys((*curve.flags, *pixel.flags)))
    for name, metric in names.items():
        readings = [level[name] for level in by_level]
        at_v = metric.replace("fisher.", "fisher.curve_")
        for v, reading in zip(grid, readings, strict=True):
            yield base | _cell(f"{at_v}_v{v:g}", reading, {"v": v, "reference": reference}, flags)
        mean = Reading(
            sum(w * r.value for w, r in zip(weights, readings, strict=True)),
            sum(w * r.stderr for w, r in zip(weights, readings, strict=True)),
        )
        options = {"v": grid, "reference": reference, "reading": "mean over log v"}
        yield base | _cell(metric, mean, options, flags)


def _readings(v: float, curve: _Curve, pixel: _Curve) -> Mapping[str, Reading]:
    """Return every deviation at one noise variance."""
    own, theirs = curve.totals[v], pixel.totals[v]
    (fi, fi_error), (pixel_fi, pixel_fi_error) = own["fi"], theirs["fi"]
    dims = curve.dim / pixel.dim
    fir = fir_deviation(
        Rate(theirs["fir"][0], pixel.dim, theirs["fir"][1]),
        Rate(own["fir"][0], curve.dim, own["fir"][1]),
        v,
        0,
    )
    values = (
        distance_from_one(fi / dims, fi_error / dims, pixel_fi, pixel_fi_error),
        fir.relative,
        fir.scaled,
        fir.per_dimension,
        distance_from_one(*own["mmse_rate"], *theirs["mmse_rate"]),
    )
    return dict(zip(DEVIATIONS, values, strict=True))


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
