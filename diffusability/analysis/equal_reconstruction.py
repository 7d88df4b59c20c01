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

from diffusability.analysis.catalogue import DISTANCE, RECONSTRUCTION
from diffusability.analysis.frames import table_frame
from diffusability.analysis.panels import Measured, Table, means_by_tokenizer
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
    rows["psnr"] = rows["tokenizer"].map(_means(measured.table, RECONSTRUCTION))
    target = next((m for m in measured.metrics if re.fullmatch(DISTANCE, m)), None)
    rfd = target.replace("generation.", "reconstruction.") if target else ""
    rows["rfd"] = rows["tokenizer"].map(_means(measured.table, rfd))
    rows["smallest_gfd"] = rows["family"].map(_smallest(measured.table, target))
    found: list[Mapping[Any, Any]] = []
    for _, family in rows.groupby("family", sort=False):
        spread = float(family["psnr"].max() - family["psnr"].min())
        inside = _widest(family["psnr"].to_numpy(float), limits.psnr_spread if limits else np.inf)
        for row, fits in zip(family.to_dict("records"), inside, strict=True):
            more: dict[Any, Any] = {"psnr_spread": spread, "comparable": None, "reason": ""}
            if limits is not None and pd.isna(row["psnr"]) and pd.isna(row["rfd"]):
                more["reason"] = NOT_MEASURED
            elif limits is not None:
                more["reason"] = _reason(row, bool(fits), limits)
                more["comparable"] = not more["reason"]
            found.append(row | more)
    order = {name: place for place, name in enumerate(rows["tokenizer"])}
    return table_frame("tokenizers", sorted(found, key=lambda row: order[row["tokenizer"]]))


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
    """Return one sentence that names the tokenizers that fell out, or empty without limits."""
    if judged["comparable"].isna().all():
        if judged["reason"].eq(NOT_MEASURED).any():
            return f"Whether tokenizers reconstruct equally well is unknown: {NOT_MEASURED}"
        return ""
    out = judged[judged["tokenizer"].isin(unequal(judged))]
    if out.empty:
        return "All tokenizers reconstruct equally well within their families"
    names = "; ".join(f"{row['tokenizer']} ({row['reason']})" for row in out.to_dict("records"))
    return f"Left out, because they do not reconstruct like the others of their family: {names}"


def _means(table: pd.DataFrame, metric: str) -> dict[str, float]:
    own = table[(table["metric"] == metric) & table["value"].notna()]
    return {str(k): float(v) for k, v in own.groupby("tokenizer")["value"].mean().items()}


def _smallest(table: pd.DataFrame, target: str | None) -> dict[str, float]:
    """Return the smallest mean distance of generated images of each family."""
    own = table[(table["metric"] == target) & table["value"].notna()]
    found: dict[str, float] = {}
    for (family, *_), cell in own.groupby(["family", "backbone", "guidance"], dropna=False):
        least = float(means_by_tokenizer(cell)["value"].min())
        found[str(family)] = min(found.get(str(family), least), least)
    return found


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
