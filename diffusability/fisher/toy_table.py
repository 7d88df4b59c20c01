"""The table of the toy study: every curve next to that of the data, and four FIR deviations."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from diffusability.artifacts.card import verified
from diffusability.errors import ArtifactError
from diffusability.fisher.deviation import Rate, fir_deviation
from diffusability.study.fisher_toy import EXACT, INTRINSIC_DIM, FisherToyPlan, Panel
from diffusability.study.planning.plan import Artifact

READINGS = ("relative", "scaled", "per_dimension", "intrinsic")


def read_curve(artifact: Artifact) -> pd.DataFrame:
    """Return a curve after verifying its card and file."""
    folder = Path(artifact.path)
    verified(folder, artifact.stage, artifact.fingerprint)
    return pd.read_csv(folder / "curve.csv", keep_default_na=False)


def toy_table(plan: FisherToyPlan) -> pd.DataFrame:
    """Return one row for every panel, network (or "exact"), seed and noise variance.

    Columns: experiment, space, pixel, parameter, network, seed, v, dim; the latent's numbers and
    their standard errors (`fi` is form B); the data's own as `pixel_*`; four forms of the FIR
    deviation with their standard errors; `flags` of the latent's and the data's estimate.
    """
    parts = []
    for panel in plan.panels:
        for network in (EXACT, *panel.networks):
            for seed in (0,) if network == EXACT else plan.study.seeds:
                latent = read_curve(plan.curve(panel.space, network, seed))
                pixel = read_curve(plan.curve(panel.pixel, network, seed))
                parts.append(_compare(panel, network, seed, latent, pixel))
    return pd.concat(parts, ignore_index=True)


def _compare(
    panel: Panel, network: str, seed: int, latent: pd.DataFrame, pixel: pd.DataFrame
) -> pd.DataFrame:
    """Return the rows of one latent curve with those of the data.

    Raises:
        ArtifactError: the curves are at different noise levels.
    """
    if sorted(latent["v"]) != sorted(pixel["v"]):
        raise ArtifactError(
            f"the curves of {panel.space} and {panel.pixel} ({network}, seed {seed}) are at "
            "different noise levels"
        )
    both = latent.merge(pixel.add_prefix("pixel_"), left_on="v", right_on="pixel_v")
    readings = []
    for row in both.to_dict("records"):
        at = fir_deviation(
            Rate(row["pixel_fir"], row["pixel_dim"], row["pixel_fir_stderr"]),
            Rate(row["fir"], row["dim"], row["fir_stderr"]),
            row["v"],
            INTRINSIC_DIM,
        )
        values = asdict(at)
        readings.append(
            {name: values[name]["value"] for name in READINGS}
            | {f"{name}_stderr": values[name]["stderr"] for name in READINGS}
        )
    names = {
        "experiment": panel.experiment,
        "space": panel.space,
        "pixel": panel.pixel,
        "parameter": panel.parameter,
        "network": network,
        "seed": seed,
    }
    labels = pd.DataFrame([names] * len(both))
    columns = both.drop(columns=["pixel_v"])
    return pd.concat([labels, columns, pd.DataFrame(readings)], axis=1)
