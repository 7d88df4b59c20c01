"""Latent spaces of the Fisher paper: their roles, Fisher curves, power spectra, Tables 1 to 3."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from diffusability.analysis.catalogue import DISTANCE
from diffusability.analysis.frames import table_frame
from diffusability.analysis.pairing import means_by_tokenizer
from diffusability.analysis.panels import Measured, Table
from diffusability.artifacts.card import verified
from diffusability.study.entries.roles import GPE, VAE, VAE_MEANS, role_of
from diffusability.study.planning.plan import Plan

# column: metric of the tokenizer
ENCODERS = {
    "stretch_min": "geometry.stretch_min",
    "stretch_max": "geometry.stretch_max",
    "stretch_ratio": "geometry.stretch_ratio",
    **{f"stretch_{q}": f"geometry.stretch_{q}" for q in ("q01", "q05", "q50", "q95", "q99")},
    "stretch_q99_q01": "geometry.stretch_q99_q01",
    "mse": "reconstruction.mse",
    "psnr": "reconstruction.psnr",
}


def latent_spaces(measurements: Table) -> pd.DataFrame:
    """Return distance quotients, reconstruction and generation quality of each tokenizer.

    One row per tokenizer, backbone and guidance scale. The columns:
    report/captions/tables/latent_spaces.rst.
    """
    table = with_roles(Measured.of(measurements).table)
    spaces = table.groupby("tokenizer", sort=False).agg(
        cluster=("cluster", "first"), role=("role", "first"), runs=("tokenizer_seed", "nunique")
    )
    for column, metric in ENCODERS.items():
        means = means_by_tokenizer(table[table["metric"] == metric])
        spaces[[column, f"{column}_stderr"]] = means.reindex(spaces.index)
    found = table[table["metric"].str.fullmatch(DISTANCE) & table["value"].notna()]
    found = found[found["metric"] == found["metric"].iloc[0]] if len(found) else found
    keys = ["tokenizer", "backbone", "guidance"]
    models = means_by_tokenizer(found, by=keys).set_axis(["distance", "distance_stderr"], axis=1)
    models["distance_runs"] = found.groupby(keys).size()
    models["distance_metric"] = found["metric"].iloc[0] if len(found) else ""
    spaces = spaces.reset_index().merge(models.reset_index(), "left", on="tokenizer")
    return table_frame("latent_spaces", spaces)


def with_roles(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``role`` to a table with columns family and cluster."""
    pairs = zip(table["family"], table["cluster"], strict=True)
    return table.assign(role=[role_of(family, cluster) for family, cluster in pairs])


def of_role(table: pd.DataFrame, roles: Iterable[str]) -> list[str]:
    """Return the tokenizers with some roles, in the order of a table from ``with_roles``."""
    chosen = table[table["role"].isin(list(roles))]
    return list(dict.fromkeys(chosen["tokenizer"]))


AS_PAPER = ", as the paper estimates"  # ending of a network's name
FITS = "mixture fit"  # no network: the exact curves of the mixture fitted to the latents
# power of v that makes a total per dimension a pure number
POWERS = {"fi": 1, "fir": 2, "mmse_rate": 0}
TOTALS = ["tokenizer", "role", "network", "tokenizer_seed", "seed", "dim", "v", "quantity"]
TOTALS += ["total", "stderr", "flags"]
_DOUBTS = ("misfit", "data-limited")
# fits of z-scored channels, which are what models learn
_CURVE = re.compile(
    r"^fisher\.curve_(?:(?P<learned>learned_)(?=\w+_unconditional_v)|(?=\w+_zscored_v))"
    r"(?P<quantity>fi|fi_score|fir|mmse_rate)_unconditional(?:_zscored)?_v[0-9.e+-]+$"
)


def fisher_totals(measurements: pd.DataFrame, *, as_paper: bool = False) -> pd.DataFrame:
    """Return every unconditional curve of a study, one row per run, noise variance and quantity.

    Args:
        measurements: the tidy table.
        as_paper: learned curves by the paper's estimators: FI by Eq. 33 (form A, E|s|^2) in the
            place of the divergence (form B), which errs less; and nothing flagged.

    Returns:
        tokenizer, role, network, tokenizer_seed, seed, dim, v, quantity, total, stderr, flags.
        ``network`` is the backbone, or ``FITS``; ``total`` is FI, FIR or the
        MMSE rate of all ``dim`` dimensions of z-scored latents at noise variance v, with its
        standard error over data (NaN: unknown); ``flags`` say why it is not reliable.
    """
    fi = "fi_score" if as_paper else "fi"
    quantities = {fi: "fi", "fir": "fir", "mmse_rate": "mmse_rate"}
    parts = measurements["metric"].str.extract(_CURVE)
    wanted = parts["quantity"].isin(list(quantities)) & measurements["value"].notna()
    if as_paper:
        wanted &= parts["learned"].notna()
    rows, parts = with_roles(measurements[wanted]), parts[wanted]
    if rows.empty:
        return pd.DataFrame(columns=TOTALS).astype({"v": float, "total": float, "stderr": float})
    options = pd.DataFrame(list(map(json.loads, rows["options"])), index=rows.index)
    learned, quantity = parts["learned"].notna(), parts["quantity"].map(quantities)
    totals = rows.assign(
        network=(rows["backbone"] + AS_PAPER * as_paper).where(learned, FITS),
        dim=options["dim"],
        v=options["v"].astype(float),
        quantity=quantity,
        total=options["total"].astype(float),
        stderr=rows["stderr"] * options["dim"] / options["v"] ** quantity.map(POWERS),
        flags="" if as_paper else rows["flags"].where(learned, rows["flags"].map(_doubts)),
    )
    return totals[TOTALS].reset_index(drop=True)


def _doubts(flags: str) -> str:
    """Return the flags of a fit that make it unreliable."""
    return "; ".join(flag for flag in flags.split("; ") if any(word in flag for word in _DOUBTS))


def networks(totals: pd.DataFrame) -> list[str]:
    """Return the backbones in the order of the table, then the fits."""
    there = list(dict.fromkeys(totals["network"]))
    return [name for name in there if name != FITS] + [FITS] * (FITS in there)


def per_dimension(quantity: str, v: float, dim: int) -> float:
    """Return the factor that makes a total a pure number per dimension."""
    return float(v ** POWERS[quantity]) / dim


FILE = "spectra.csv"


def spectrum_order(role: str) -> str:
    """Return the order of a latent's spectrum in the paper: "line" for vectors, else "grid"."""
    return "line" if role in (GPE, VAE, VAE_MEANS) else "grid"


def collect_spectra(plan: Plan) -> pd.DataFrame:
    """Return all measured power spectra in planning order; may be empty.

    The columns: report/captions/tables/spectra.rst.

    Raises:
        ArtifactError: a spectrum is missing, altered, or not of this plan.
    """
    parts = []
    for artifact in plan.of_stage("geometry"):
        path, labels = Path(artifact.path), artifact.labels
        verified(path, artifact.stage, artifact.fingerprint, only=(FILE,))
        spec = plan.study.tokenizers[labels["tokenizer"]]
        parts.append(
            pd.read_csv(path / FILE, dtype={"order": str}).assign(
                tokenizer=labels["tokenizer"],
                family=spec.family,
                cluster=spec.cluster,
                tokenizer_seed=int(labels["tokenizer_seed"]),
            )
        )
    return table_frame("spectra", pd.concat(parts) if parts else [])
