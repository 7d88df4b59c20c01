"""Statistics of the toy curves for testing the claims of the Fisher paper.

Every statistic has its own row with its interval, for the exact curves and for each network. The
interval of an exact value is the value itself. A learned value has an interval of plus or minus
three standard errors, because a claim about all noise levels tests many values. Both curves of a
ratio are treated as independent, which is conservative if they share their noise.

The paper plots curves and describes them in words, so each comparison is read twice: at every noise
level, and as a curve, by the supremum and the mean over log v of the distance. Only noise that
tiny-diffusion's schedule has is used.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from diffusability.analysis.latent_spaces import AS_PAPER
from diffusability.claims.claim import Claim
from diffusability.claims.run_estimates import Ranged, wholes
from diffusability.claims.verdicts import check_findings
from diffusability.fisher.checks import RELATIVE
from diffusability.fisher.information import log_weights
from diffusability.study.fisher_toy import EXACT, step_variances

WIDTH = 3.0  # half-width of an interval in standard errors
COLUMNS = ("statistic", "network", "metric", "space", "v", "value", "low", "high", "note")
REFERENCE = "relu"  # the worst activation according to the paper
# smooth activations, each more curved than the one before: largest |f''| is 0.10, 0.77 and 0.80
BY_CURVATURE = ("sigmoid", "tanh", "gelu")
_Curve = Mapping[float, Ranged]  # by noise variance


def fisher_findings(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics used by claims on Fisher information.

    Args:
        curves: from `fisher.toy_table`. Rows where the curve of the space or of the data has flags
            (inconsistent estimates) are left out; a network without other rows has no findings.

    Returns:
        One row per statistic, network, space and noise variance, columns ``COLUMNS``; "metric"
        contains space and v as text. Statistics, natural logarithms throughout; those with
        ``_curve`` have rows "supremum" and "mean over log v" instead of noise variances:

        Excess is log of the latent's FI (FIR) over the data's; 0 is no change.
        fi_over_bound, fi_over_bound_curve: log of FI over the upper end that Proposition 3.1 gives
            for a leaky slope a, J / a^2 below one and J above; at most 0 if the bound holds.
        fi_beyond_relu, fir_beyond_relu and ``_curve``: |excess| of an activation minus that of
            ReLU.
        fi_toward_one, fir_toward_one and ``_curve``: |excess| of a leaky slope minus that of its
            neighbour farther from one; below 0 the curve is nearer to the data's.
        fir_by_curvature and ``_curve``: |excess| of a smooth activation minus that of the next more
            curved one.
        eps_straightness, radius_straightness, dimension_straightness_<reading> and ``_curve``: R^2
            of a straight line through the deviations over the parameter; 1 on a line. As a curve:
            of their means over log v.
        radius_exponent: slope of log deviation over log 1/R between neighbours.
    """
    kept = curves[["flags", "pixel_flags"]].isin(["", math.nan]).all(axis=1)
    curves = curves[kept]
    curves = curves[curves["v"] <= step_variances()[-1] * (1 + 1e-9)]
    rows = [row for part in (_activations, _lines, _cylinder) for row in part(curves)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(
    statistic: str, network: str, space: str, at: Ranged, v: float = math.nan, what: str = ""
) -> dict[str, Any]:
    note = "" if math.isfinite(at.value) else "the curve is not positive here"
    where = what or f"v = {v:.2g}"
    return at.row(statistic, space, where, network=network, v=v, note=note)


def _read(row: pd.Series, name: str) -> Ranged:
    return Ranged(row[name], WIDTH * row[f"{name}_stderr"])


def _compare(
    statistic: str, network: str, space: str, curve: _Curve, other: _Curve
) -> Iterator[dict[str, object]]:
    """Yield how much farther from zero a curve is than another: at every v, and as a whole."""
    shared = sorted(set(curve) & set(other))
    for v in shared:
        yield _row(statistic, network, space, abs(curve[v]) - abs(other[v]), v)
    known = [v for v in shared if math.isfinite(curve[v].value + other[v].value)]
    own, others = (wholes({v: abs(x[v]) for v in known}) for x in (curve, other))
    for what in own:
        yield _row(f"{statistic}_curve", network, space, own[what] - others[what], what=what)


def _activations(curves: pd.DataFrame) -> Iterator[dict[str, object]]:
    chosen = curves[curves["experiment"] == "activation"]
    for key, rows in chosen.groupby("network", sort=False):
        network = str(key)
        for name in ("fi", "fir"):
            found: dict[str, dict[float, Ranged]] = {}
            for _, row in rows.iterrows():
                excess = _read(row, name).log() - _read(row, f"pixel_{name}").log()
                found.setdefault(row["space"], {})[row["v"]] = excess
            functions = rows.loc[rows["parameter"].isna(), "space"].unique()
            for space in functions:
                if space != REFERENCE and REFERENCE in found:
                    other = found[REFERENCE]
                    yield from _compare(f"{name}_beyond_relu", network, space, found[space], other)
            leaky = rows[rows["parameter"].notna()]
            slopes = dict(zip(leaky["space"], leaky["parameter"], strict=True))
            yield from _toward_one(f"{name}_toward_one", network, found, slopes)
            if name == "fi":
                yield from _bounds(network, found, slopes)
                continue
            for smooth, curved in pairwise(s for s in BY_CURVATURE if s in found):
                yield from _compare(
                    "fir_by_curvature", network, smooth, found[smooth], found[curved]
                )


def _toward_one(
    statistic: str, network: str, found: Mapping[str, _Curve], slopes: Mapping[str, float]
) -> Iterator[dict[str, object]]:
    for above in (False, True):
        side = [s for s in slopes if (slopes[s] > 1) == above and slopes[s] != 1]
        for far, near in pairwise(sorted(side, key=lambda s: -abs(slopes[s] - 1))):
            yield from _compare(statistic, network, near, found[near], found[far])


def _bounds(
    network: str, found: Mapping[str, _Curve], slopes: Mapping[str, float]
) -> Iterator[dict[str, object]]:
    for space, slope in slopes.items():
        squeeze = 2 * math.log(min(slope, 1.0))
        bound = {v: Ranged(at.value + squeeze, at.reach) for v, at in found[space].items()}
        for v, at in bound.items():
            yield _row("fi_over_bound", network, space, at, v)
        known = [at for at in bound.values() if math.isfinite(at.value)]
        if known:
            most = max(known, key=lambda at: at.value)
            yield _row("fi_over_bound_curve", network, space, most, what="supremum")


def _lines(curves: pd.DataFrame) -> Iterator[dict[str, object]]:
    for experiment, statistic, reading in (
        ("scale", "eps_straightness", "relative"),
        ("dimension", "dimension_straightness_scaled", "scaled"),
        ("dimension", "dimension_straightness_per_dimension", "per_dimension"),
        ("cylinder", "radius_straightness", "relative"),
    ):
        chosen = curves[curves["experiment"] == experiment]
        exact = chosen[chosen["network"] == EXACT].groupby("v")["relative"].max()
        for key, rows in chosen.groupby("network", sort=False):
            value = rows.pivot(index="v", columns="parameter", values=reading)
            error = rows.pivot(index="v", columns="parameter", values=f"{reading}_stderr")
            where = (statistic, str(key), str(rows.iloc[0]["space"]))
            yield from _straight(where, value, error, exact)


def _straight(
    where: tuple[str, str, str], value: pd.DataFrame, error: pd.DataFrame, exact: pd.Series
) -> Iterator[dict[str, object]]:
    """Yield R^2 over the parameter (columns) at every v (rows), and of the means over log v."""
    whole = value.notna().all(axis=1)
    value, error = value[whole], error[whole]
    if value.shape[0] == 0:
        return
    statistic, network, space = where
    levels = [float(v) for v in value.index]
    if value.shape[1] < 3:
        for v in levels:
            row = _row(statistic, network, space, Ranged(math.nan, math.nan), v)
            yield _resolved(row | {"note": "a line needs three parameters"}, exact.get(v))
        return
    parameter = value.columns.to_numpy(float)
    for v, y, spread in zip(levels, value.to_numpy(float), error.to_numpy(float), strict=True):
        row = _row(statistic, network, space, _straightness(parameter, y, spread), v)
        yield _resolved(_share(row), exact.get(v))
    weights = np.array(log_weights(levels))
    mean, spread = weights @ value.to_numpy(float), weights @ error.to_numpy(float)
    at = _straightness(parameter, mean, spread)
    found = _share(_row(f"{statistic}_curve", network, space, at, what="mean"))
    yield _resolved(found, exact.reindex(value.index).max())


def _share(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose interval ends at the limits of a share, 0 and 1."""
    return row | {"low": max(0.0, row["low"]), "high": min(1.0, row["high"])}


def _straightness(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> Ranged:
    """Return R^2 of a straight line with its first-order error."""

    def squared(values: np.ndarray) -> float:
        return float(np.corrcoef(x, values)[0, 1] ** 2)

    value = squared(y)
    steps = [squared(y + np.eye(len(y))[i] * error[i]) - value for i in range(len(y))]
    return Ranged(value, WIDTH * math.hypot(*steps))


def _resolved(row: dict[str, Any], effect: float | None) -> dict[str, Any]:
    """Return a row without its interval where a learned score cannot have seen the effect."""
    if row["network"] == EXACT or effect is None or not effect < RELATIVE:
        return row
    note = f"the exact effect is {effect:.0e} of F_D, too small for a learned score"
    return row | {"low": math.nan, "high": math.nan, "note": note}


def _cylinder(curves: pd.DataFrame) -> Iterator[dict[str, object]]:
    chosen = curves[curves["experiment"] == "cylinder"]
    exact = chosen[chosen["network"] == EXACT].groupby("v")["relative"].max()
    for (network, v), rows in chosen.groupby(["network", "v"], sort=True):
        ordered = [row for _, row in rows.sort_values("parameter").iterrows()]
        for wide, tight in pairwise(ordered):
            step = math.log(tight["parameter"] / wide["parameter"])
            gap = _read(tight, "relative").log() - _read(wide, "relative").log()
            at = gap.times(1 / step)
            found = _row("radius_exponent", str(network), tight["space"], at, float(str(v)))
            yield _resolved(found, exact.get(v))


def as_the_paper(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the learned curves by the paper's estimators: FI by Eq. 33, and nothing flagged.

    `toy_table` reports FI as the divergence (form B), which errs less; Figures 2 and 4 of the paper
    are E|s|^2 (form A, `fi_score`).
    """
    learned = curves[curves["network"] != EXACT]
    if "fi_score" not in curves or learned.empty:
        return curves.iloc[:0]
    names = [f"{side}fi{end}" for side in ("", "pixel_") for end in ("", "_stderr")]
    score = {name: learned[name.replace("fi", "fi_score", 1)] for name in names}
    named = learned["network"] + AS_PAPER
    return learned.assign(network=named, flags="", pixel_flags="", **score)


def check_fisher_claims(claims: Sequence[Claim], curves: pd.DataFrame) -> pd.DataFrame:
    """Return the verdict on every claim, by the exact curves and by those of each network.

    For each claim "exact" is first, then networks in the order of the table (`fisher.toy_table`),
    then the same networks by the paper's own estimators. An exact value needs no interval.
    """
    curves = pd.concat([curves, as_the_paper(curves)], ignore_index=True)
    networks = list(dict.fromkeys(curves["network"]))
    return check_findings(claims, fisher_findings(curves), networks)
