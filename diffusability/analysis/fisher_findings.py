"""Statistics of the toy curves for testing the claims of the Fisher paper.

Every statistic has its own row with its interval, for the exact curves and for each network. The
interval of an exact value is the value itself. A learned value has an interval of plus or minus
three standard errors, because a claim about all noise levels tests many values. Both curves of a
ratio are treated as independent, which is conservative if they share their noise.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffusability.analysis.claims import Claim
from diffusability.analysis.verdicts import check_findings

WIDTH = 3.0  # half-width of an interval in standard errors
COLUMNS = ("statistic", "network", "metric", "space", "v", "value", "low", "high", "note")
REFERENCE = "relu"  # the worst activation according to the paper
_READINGS = ("relative", "scaled", "per_dimension")


@dataclass(frozen=True)
class _Value:
    """A number with its standard error, to first order."""

    value: float
    stderr: float

    def __abs__(self) -> "_Value":
        return _Value(abs(self.value), self.stderr)

    def __sub__(self, other: "_Value") -> "_Value":
        return _Value(self.value - other.value, math.hypot(self.stderr, other.stderr))

    def log(self) -> "_Value":
        """Return the natural logarithm; NaN if undefined."""
        if not self.value > 0:
            return _Value(math.nan, math.nan)
        return _Value(math.log(self.value), self.stderr / self.value)


def fisher_findings(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics used by claims on Fisher information.

    Args:
        curves: from `fisher.toy_table`. Rows with flags (inconsistent estimates) are left out; a
            network without remaining rows has no findings.

    Returns:
        One row per statistic, network, space and noise variance, columns ``COLUMNS``; "metric"
        contains space and v as text. Statistics, natural logarithms throughout:

        fi_excess, fir_excess: log of the latent's FI (FIR) over the data's; 0 is no change.
        fi_over_bound: log of FI over the upper end that Proposition 3.1 gives for a leaky slope a,
            J / a^2 below one and J above; at most 0 if the bound holds.
        fi_beyond_relu, fir_beyond_relu: |excess| of an activation minus that of ReLU.
        fi_toward_one, fir_toward_one: |excess| of a leaky slope minus that of its neighbour farther
            from one; at most 0 if curves approach the data's as the slope approaches one.
        eps_linearity: deviation per eps at the largest eps over that at the smallest; 1 on a line.
        line_departure_<reading>: largest distance of the deviations over d from the straight line
            through their ends, relative to its fall; 0 on a line.
        radius_exponent: slope of log deviation over log 1/R between neighbours; 1 on a line
            through the origin.
    """
    curves = curves[curves["flags"].isna() | (curves["flags"] == "")]
    rows = [
        row for part in (_excess, _leaky, _scale, _dimension, _cylinder) for row in part(curves)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(statistic: str, network: str, space: str, v: float, at: _Value) -> dict[str, object]:
    reach = WIDTH * at.stderr
    note = "" if math.isfinite(at.value) else "the curve is not positive here"
    return {
        "statistic": statistic,
        "network": network,
        "metric": f"{space}, v = {v:.2g}",
        "space": space,
        "v": v,
        "value": at.value,
        "low": at.value - reach,
        "high": at.value + reach,
        "note": note,
    }


def _ratio(row: pd.Series, name: str) -> _Value:
    """Return log(latent / data) of a quantity."""
    latent = _Value(row[name], row[f"{name}_stderr"]).log()
    return latent - _Value(row[f"pixel_{name}"], row[f"pixel_{name}_stderr"]).log()


def _levels(curves: pd.DataFrame, experiment: str) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Yield network, noise variance and the rows of an experiment there, by parameter."""
    chosen = curves[curves["experiment"] == experiment]
    for (network, v), rows in chosen.groupby(["network", "v"], sort=True):
        yield str(network), float(str(v)), rows.sort_values("parameter")


def _excess(curves: pd.DataFrame) -> Iterator[dict[str, object]]:
    for network, v, rows in _levels(curves, "activation"):
        for name in ("fi", "fir"):
            found = {row["space"]: _ratio(row, name) for _, row in rows.iterrows()}
            for space, at in found.items():
                yield _row(f"{name}_excess", network, space, v, at)
            functions = rows.loc[rows["parameter"].isna(), "space"]
            for space in functions:
                if space != REFERENCE and REFERENCE in found:
                    gap = abs(found[space]) - abs(found[REFERENCE])
                    yield _row(f"{name}_beyond_relu", network, space, v, gap)


def _leaky(curves: pd.DataFrame) -> Iterator[dict[str, object]]:
    for network, v, rows in _levels(curves, "activation"):
        leaky = rows[rows["parameter"].notna()]
        for _, row in leaky.iterrows():
            squeeze = 2 * math.log(min(row["parameter"], 1.0))
            at = _ratio(row, "fi")
            bound = _Value(at.value + squeeze, at.stderr)
            yield _row("fi_over_bound", network, row["space"], v, bound)
        for side in (leaky[leaky["parameter"] < 1], leaky[leaky["parameter"] > 1]):
            distance = (side["parameter"] - 1).abs()
            ordered = side.loc[distance.sort_values(ascending=False).index]
            for (_, far), (_, near) in zip(
                ordered.iloc[:-1].iterrows(), ordered.iloc[1:].iterrows(), strict=True
            ):
                for name in ("fi", "fir"):
                    gap = abs(_ratio(near, name)) - abs(_ratio(far, name))
                    yield _row(f"{name}_toward_one", network, near["space"], v, gap)


def _scale(curves: pd.DataFrame) -> Iterator[dict[str, object]]:
    for network, v, rows in _levels(curves, "scale"):
        if len(rows) < 2:
            continue
        first, last = rows.iloc[0], rows.iloc[-1]
        ends = [
            _Value(row["relative"] / row["parameter"], row["relative_stderr"] / row["parameter"])
            for row in (last, first)
        ]
        relative = ends[0].log() - ends[1].log()
        ratio = math.exp(relative.value)
        yield _row(
            "eps_linearity", network, last["space"], v, _Value(ratio, ratio * relative.stderr)
        )


def _dimension(curves: pd.DataFrame) -> Iterator[dict[str, object]]:
    for network, v, rows in _levels(curves, "dimension"):
        if len(rows) < 3:
            continue
        d = rows["parameter"].to_numpy(float)
        for reading in _READINGS:
            value = rows[reading].to_numpy(float)
            error = rows[f"{reading}_stderr"].to_numpy(float)
            fall = value[0] - value[-1]
            share = (d - d[0]) / (d[-1] - d[0])  # 0 at the smallest d, 1 at the largest
            departure = np.abs(value - (value[0] - fall * share))
            spread = np.sqrt(error**2 + ((1 - share) * error[0]) ** 2 + (share * error[-1]) ** 2)
            at = int(departure.argmax())
            found = _Value(float(departure[at] / abs(fall)), float(spread[at] / abs(fall)))
            yield _row(f"line_departure_{reading}", network, rows.iloc[0]["space"], v, found)


def _cylinder(curves: pd.DataFrame) -> Iterator[dict[str, object]]:
    for network, v, rows in _levels(curves, "cylinder"):
        for (_, wide), (_, tight) in zip(
            rows.iloc[:-1].iterrows(), rows.iloc[1:].iterrows(), strict=True
        ):
            logs = [_Value(row["relative"], row["relative_stderr"]).log() for row in (tight, wide)]
            step = math.log(tight["parameter"] / wide["parameter"])
            gap = logs[0] - logs[1]
            found = _Value(gap.value / step, gap.stderr / step)
            yield _row("radius_exponent", network, tight["space"], v, found)


def check_fisher_claims(claims: Sequence[Claim], curves: pd.DataFrame) -> pd.DataFrame:
    """Return the verdict on every claim, by the exact curves and by those of each network.

    Args:
        claims: of the Fisher paper, from ``load_claims``.
        curves: from `fisher.toy_table`.

    Returns:
        The rows of `check_findings`: for each claim "exact" first, then networks in the order
        of the table. An exact value needs no interval.
    """
    networks = list(dict.fromkeys(curves["network"]))
    return check_findings(claims, fisher_findings(curves), networks)
