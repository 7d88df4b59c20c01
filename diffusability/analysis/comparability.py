"""Do the tokenizers of a family reconstruct about equally well? (Fig. 3, arXiv 2606.03578)"""

import math

import numpy as np
import pandas as pd
from scipy import stats

from diffusability.analysis.intervals import MIN_POINTS
from diffusability.analysis.schema import join_notes
from diffusability.analysis.tables import Measured, Table, cells, families

RECONSTRUCTION = "reconstruction."
COLUMNS = (
    "family",
    "metric",
    "mean",
    "value",
    "low",
    "high",
    "cv",
    "confidence",
    "method",
    "n",
    "clusters",
    "note",
)


def comparability(table: Table, confidence: float = 0.95) -> pd.DataFrame:
    """Return how far the tokenizers of each family spread in reconstruction quality.

    Args:
        table: a checked tidy table (``check_measurements``).
        confidence: nominal coverage of the intervals.

    Returns:
        One row a family and ``reconstruction.*`` metric: ``value`` is the standard deviation
        over tokenizers in the metric's unit (lower: more comparable) with its chi-square
        interval, ``cv`` its share of the mean. NaN with a ``note`` where there is none.
    """
    table = Measured.of(table)
    metrics = [m for m in table.metrics if m.startswith(RECONSTRUCTION)]
    rows = []
    for metric in metrics:
        paired = cells(table, metric, metric, "", None)
        for family in families(table):
            part = paired.of_family(family)
            row = _spread(part.rows["x"].to_numpy(float), confidence)
            labels = {"family": family, "metric": metric, "confidence": confidence}
            note = join_notes(row["note"], part.missing_note())
            row |= {"clusters": part.rows["cluster"].nunique(), "note": note}
            rows.append(labels | row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _spread(values: np.ndarray, confidence: float) -> dict[str, object]:
    n = len(values)
    if n < 2:
        return {"n": n, "method": "none", "note": f"{n} tokenizers: no spread"}
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    row = {"n": n, "mean": mean, "value": spread, "cv": spread / abs(mean) if mean else math.nan}
    if n < MIN_POINTS:
        note = f"{n} tokenizers, fewer than {MIN_POINTS}: no interval"
        return row | {"method": "none", "note": note}
    tails = stats.chi2.ppf([0.5 + confidence / 2, 0.5 - confidence / 2], n - 1)
    low, high = spread * np.sqrt((n - 1) / tails)
    return row | {"low": float(low), "high": float(high), "method": "chi-square", "note": ""}
