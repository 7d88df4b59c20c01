"""Curves of the toy study: exact from an oracle, estimated from a trained network."""

from collections.abc import Sequence

import pandas as pd
import torch

from diffusability.fisher.checks import flags_of, raised
from diffusability.fisher.denoiser import Denoiser
from diffusability.fisher.estimator import Quantity, sample_fisher
from diffusability.fisher.oracle import Oracle

# columns of a curve: v, dim, the quantities with their standard errors, and flags
NUMBERS = ("fi", "fi_score", "fi_held_out", "fir", "mmse_rate")
# their names in the estimator; a curve's FI is form B
FORMS: tuple[Quantity, ...] = ("divergence", "score", "held_out", "fir", "mmse_rate")


def exact_curve(oracle: Oracle, variances: Sequence[float]) -> pd.DataFrame:
    """Return one row per noise variance; all forms of FI are equal and all errors are 0."""
    rows = []
    for v in variances:
        at = oracle.information(v)
        values = (at.fi, at.fi, at.fi, at.fir, at.mmse_rate)
        numbers = dict(zip(NUMBERS, values, strict=True))
        errors = {f"{name}_stderr": 0.0 for name in NUMBERS}
        rows.append({"v": v, "dim": at.dim, **numbers, **errors, "flags": ""})
    return pd.DataFrame(rows)


def learned_curve(
    denoiser: Denoiser, oracle: Oracle, variances: Sequence[float], *, samples: int, seed: int
) -> pd.DataFrame:
    """Return one row per noise variance, estimated at fresh draws with the exact Jacobian.

    Args:
        denoiser: float64.
        oracle: distribution of the data.
        variances: increasing.
        samples: draws.
        seed: of draws and noise, both shared by all variances.
    """
    x = oracle.sample(samples, torch.Generator().manual_seed(seed))
    eigenvalues = raised(torch.linalg.eigvalsh(torch.cov(x.T)).clamp(min=0), samples)
    rows = []
    for v in variances:
        at = sample_fisher(denoiser, x, v, seed=seed + 1, probes="exact")
        row: dict[str, float | int | str] = {"v": v, "dim": at.dim}
        for name, form in zip(NUMBERS, FORMS, strict=True):
            estimate = at.estimate(form)
            row |= {name: estimate.value, f"{name}_stderr": estimate.stderr}
        row["flags"] = "; ".join(flags_of(at, eigenvalues=eigenvalues))
        rows.append(row)
    return pd.DataFrame(rows)
