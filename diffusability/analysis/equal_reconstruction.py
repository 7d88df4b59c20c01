"""Which tokenizers reconstruct equally well: only their latent spaces can be compared.

The paper compares tokenizers of like reconstruction. Where a study has the block
`analysis.equal_reconstruction`, a tokenizer that falls out is marked in the table `tokenizers`
and left out of every statistic over tokenizers.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from diffusability.analysis.catalogue import DISTANCE, RECONSTRUCTION, RECONSTRUCTION_DISTANCE
from diffusability.analysis.frames import rows_where, table_frame
from diffusability.analysis.pairing import means_by_tokenizer
from diffusability.analysis.panels import Measured, Table
from diffusability.study.study import DEFAULTS, AnalysisSpec, EqualReconstruction

NOT_MEASURED = "neither PSNR nor rFD was measured"


def tokenizers(table: Table, analysis: AnalysisSpec = DEFAULTS) -> pd.DataFrame:
    """Return one row per tokenizer; the columns: report/captions/tables/tokenizers.rst.

    A tokenizer of a family falls out if

    - its PSNR is outside the window of `psnr_spread` dB that holds the most tokenizers of the
      family (of several such windows, that of the highest PSNR), or
    - its rFD is not below `rfd_share` times the smallest gFD of the family: reconstruction, not
      generation, would limit it. Both are Fréchet distances by one extractor; the gFD is the
      smallest mean over seeds, of any backbone and guidance scale, at the last step.

    Without `equal_reconstruction` nothing falls out. ``comparable`` is missing without limits and
    where neither PSNR nor rFD says anything.
    """
    measured, limits = Measured.of(table), analysis.equal_reconstruction
    rows = measured.tokenizers.copy()
    target, rfd = (
        next((m for m in measured.metrics if re.fullmatch(pattern, m)), "")
        for pattern in (DISTANCE, RECONSTRUCTION_DISTANCE)
    )
    if target:  # only distances by one extractor compare
        rfd = target.replace("generation.", "reconstruction.")
    for column, metric in (("psnr", RECONSTRUCTION), ("rfd", rfd)):
        means = means_by_tokenizer(rows_where(measured.table, metric=metric))["value"]
        rows[column] = rows["tokenizer"].map(means)
    rows["smallest_gfd"] = rows["family"].map(_smallest(measured.table, target))
    psnr = rows.groupby("family", sort=False)["psnr"]
    rows["psnr_spread"] = psnr.transform("max") - psnr.transform("min")
    if limits is None:
        return table_frame("tokenizers", rows)
    inside = psnr.transform(lambda own: _widest(own.to_numpy(float), limits.psnr_spread))
    known = rows["psnr"].notna() | rows["rfd"].notna()
    reasons = [
        _reason(row, bool(fits), limits)
        for row, fits in zip(rows.to_dict("records"), inside, strict=True)
    ]
    rows["reason"] = pd.Series(reasons, rows.index).where(known, NOT_MEASURED)
    rows["comparable"] = rows["reason"].eq("").where(known)
    return table_frame("tokenizers", rows)


def without_unequal(table: pd.DataFrame, analysis: AnalysisSpec) -> pd.DataFrame:
    """Return the rows of the tokenizers that do not fall out; without limits, all."""
    if analysis.equal_reconstruction is None:
        return table
    judged = tokenizers(table, analysis)
    return table[~table["tokenizer"].isin(unequal(judged))].reset_index(drop=True)


def compared(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the measurements of the tokenizers that are compared; of all, where all fell out.

    Args:
        tables: measurements, and tokenizers where it is known which of them fell out.
    """
    measurements, judged = tables["measurements"], tables.get("tokenizers")
    if judged is None:
        return measurements
    equal = measurements[~measurements["tokenizer"].isin(unequal(judged))]
    return measurements if equal.empty else equal


def unequal(judged: pd.DataFrame) -> list[str]:
    """Return the tokenizers that fall out, by the table of tokenizers."""
    return list(judged.loc[~judged["comparable"].fillna(True).astype(bool), "tokenizer"])


def reconstruction_sentence(judged: pd.DataFrame) -> str:
    """Return one sentence that names the tokenizers that fell out; empty if none did."""
    if judged["comparable"].isna().all():
        if judged["reason"].eq(NOT_MEASURED).any():
            return f"Whether tokenizers reconstruct equally well is unknown: {NOT_MEASURED}"
        return ""
    out = judged[judged["tokenizer"].isin(unequal(judged))]
    if out.empty:
        return ""
    names = "; ".join(f"{row['tokenizer']} ({row['reason']})" for row in out.to_dict("records"))
    return f"Left out, because they do not reconstruct like the others of their family: {names}"


def _smallest(table: pd.DataFrame, target: str) -> pd.Series:
    """Return the smallest mean distance of generated images of each family."""
    own = rows_where(table, metric=target)
    means = means_by_tokenizer(own, by=["family", "backbone", "guidance", "tokenizer"])
    return means["value"].groupby("family").min()


def _widest(psnr: np.ndarray, width: float) -> np.ndarray:
    """Return which of (n,) values are in the window that holds the most; NaN is in none."""
    best = np.zeros(len(psnr), bool)
    for top in sorted(psnr[np.isfinite(psnr)], reverse=True):
        inside = (psnr <= top) & (psnr >= top - width)
        if inside.sum() > best.sum():
            best = inside
    return best


def _reason(row: Mapping[Any, Any], fits: bool, limits: EqualReconstruction) -> str:
    """Return why a tokenizer falls out, or empty; what was not measured rules nothing out."""
    reasons = []
    if pd.notna(row["psnr"]) and not fits:
        reasons.append(
            f"PSNR {row['psnr']:.2f} dB is outside the {limits.psnr_spread:g} dB that most of "
            "the family are within"
        )
    most = limits.rfd_share * row["smallest_gfd"]
    if pd.notna(row["rfd"]) and pd.notna(most) and not row["rfd"] < most:
        reasons.append(
            f"rFD {row['rfd']:.3g} is not below {limits.rfd_share:.2g} of the smallest gFD "
            f"({row['smallest_gfd']:.3g})"
        )
    return "; ".join(reasons)
