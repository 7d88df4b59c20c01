"""Curves of FI, FIR and MMSE rate of latent spaces, as totals over their dimensions.

The tidy table holds pure numbers a dimension; the paper draws totals (Fig. 4, 6, 11, 12). Both are
read from the same rows, those of no class: the paper's models are unconditional.
"""

import json
import math
import re

import pandas as pd

from diffusability.analysis.roles import with_roles

FITS = "mixture fit"  # no network: the exact curves of the mixture that is fitted to the latents
POWERS = {"fi": 1, "fir": 2, "mmse_rate": 0}  # of v, which makes a total per dimension pure
COLUMNS = (
    *("tokenizer", "role", "network", "tokenizer_seed", "seed", "dim", "v", "quantity"),
    *("total", "stderr", "flags"),
)
_DOUBTS = ("misfit", "not converged")
_CURVE = re.compile(r"fisher\.curve_(learned_|)(fi|fir|mmse_rate)_unconditional_v[0-9.e+-]+")


def fisher_totals(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return every unconditional curve of a study, one row a run, noise variance and quantity.

    Args:
        measurements: the tidy table.

    Returns:
        Columns ``COLUMNS``. ``network`` is the backbone, or ``FITS``; ``total`` is FI, FIR or the
        MMSE rate of all ``dim`` dimensions of z-scored latents at noise variance v, with its
        standard error over data (NaN: unknown); ``flags`` say why it is not to be trusted. Those
        of fits that say no such thing are left out: with noise, a singular covariance is regular.
    """
    names = measurements["metric"].drop_duplicates()
    parts = {name: match.groups() for name in names if (match := _CURVE.fullmatch(name))}
    chosen = measurements[measurements["metric"].isin(parts) & measurements["value"].notna()]
    rows = []
    for row in with_roles(chosen).to_dict("records"):
        learned, quantity = parts[row["metric"]]
        options = json.loads(row["options"])
        unit = options["dim"] / options["v"] ** POWERS[quantity]
        rows.append(
            {
                **{name: row[name] for name in ("tokenizer", "role", "tokenizer_seed", "seed")},
                "network": row["backbone"] if learned else FITS,
                **{"dim": options["dim"], "v": options["v"], "quantity": quantity},
                "total": options["total"],
                "stderr": math.nan if pd.isna(row["stderr"]) else row["stderr"] * unit,
                "flags": row["flags"] if learned else _doubts(row["flags"]),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _doubts(flags: str) -> str:
    """Return the flags of a fit that are reasons not to trust it."""
    return "; ".join(flag for flag in flags.split("; ") if any(word in flag for word in _DOUBTS))


def networks(totals: pd.DataFrame) -> list[str]:
    """Return the backbones in the order of the table, then the fits."""
    there = list(dict.fromkeys(totals["network"]))
    return [name for name in there if name != FITS] + [FITS] * (FITS in there)


def per_dimension(quantity: str, v: float, dim: int) -> float:
    """Return what a total is multiplied by to be a pure number a dimension."""
    return float(v ** POWERS[quantity]) / dim
