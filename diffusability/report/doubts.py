"""What a report warns of: flags, images left out, failed models, metrics at chance."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from diffusability.analysis.catalogue import RECONSTRUCTION
from diffusability.analysis.headline import doubt_sentences
from diffusability.artifacts.inventory import folder_of
from diffusability.report.flags import HARDLY_RECONSTRUCTED, LEAST_PSNR, in_plain_words
from diffusability.study.planning.plan import Plan

NAMED = 3  # image files and tokenizers that are named; more are counted
WIDE_POSTERIOR = 0.05  # share of posterior noise in the variance above which a report warns
SPREAD = 1.0  # dB of PSNR within a family above which a report warns


def damaged_images(plan: Plan) -> dict[str, str]:
    """Return the image files that the dataset left out, each with the reason."""
    found: dict[str, str] = {}
    for artifact in plan.of_stage("dataset"):
        text = (folder_of(artifact) / "manifest.json").read_text(encoding="utf-8")
        found |= json.loads(text).get("damaged", {})
    return found


def enlarged_images(plan: Plan) -> str:
    """Return how many images of the dataset are smaller than the study's, in words, or nothing."""
    for artifact in plan.of_stage("dataset"):
        text = (folder_of(artifact) / "manifest.json").read_text(encoding="utf-8")
        manifest = json.loads(text)
        if count := manifest.get("enlarged", 0):
            side = manifest["shape"][-1]
            return f"{count} of {manifest['images']} images are enlarged to {side} pixels"
    return ""


def wider_than_stated(plan: Plan) -> dict[str, float]:
    """Return the tokenizers whose latents are wider than EDM's models take them to be.

    Where a backbone of process edm divides latents by the spread of posterior means, draws from the
    posteriors have a larger variance than `sigma_data` states. The value is the share of posterior
    noise in it, above WIDE_POSTERIOR.
    """
    found: dict[str, float] = {}
    for artifact in plan.of_stage("diffusion"):
        spec = artifact.spec
        if spec.get("process") != "edm" or spec.get("latent_scale", "means") != "means":
            continue
        stated = Path(artifact.upstream["latents"].path, "latents.json").read_text(encoding="utf-8")
        share = json.loads(stated)["posterior_variance_share"]
        if share > WIDE_POSTERIOR:
            found.setdefault(artifact.labels["tokenizer"], share)
    return found


def warnings(
    tables: Mapping[str, pd.DataFrame],
    damaged: Mapping[str, str],
    wide: Mapping[str, float],
    enlarged: str = "",
) -> list[str]:
    """Return one sentence per kind of doubt, in the order of importance; none are empty.

    Args:
        tables: each backbone at its last step. damaged: image files that were left out.
        wide: see `wider_than_stated`. enlarged: see `enlarged_images`.
    """
    said = [f"{sentence}." for sentence in doubt_sentences(tables) if sentence]
    if damaged:
        files = _some([f"{name} ({reason})" for name, reason in damaged.items()])
        said.append(f"Damaged image files that were left out ({len(damaged)}): {files}.")
    if enlarged:
        said.append(f"{enlarged}: they hold less detail than images of that size.")
    rows = tables["measurements"]
    psnr = rows[rows["metric"] == RECONSTRUCTION].groupby("tokenizer", sort=False)["value"].mean()
    if poor := [f"{name} ({value:.1f} dB)" for name, value in psnr.items() if value < LEAST_PSNR]:
        said.append(f"{HARDLY_RECONSTRUCTED.capitalize()}: {RECONSTRUCTION} of {_some(poor)}.")
    if wide:
        names = _some([f"{name} ({share:.0%})" for name, share in wide.items()])
        said.append(
            "Models of process edm were trained on latents of a larger variance than sigma_data "
            "states, as latents were divided by the spread of posterior means; share of posterior "
            f"noise: {names}. `latent_scale: draws` in the backbone mends it."
        )
    said += _spread(tables["tokenizers"])
    rows = tables["correlations"]
    at_chance = rows[rows["at_chance"].fillna(False).astype(bool)]
    for family, own in at_chance.groupby("family", sort=False):
        metrics = _some(list(dict.fromkeys(own["metric"])))
        said.append(
            f"At chance over the tokenizers of {family}, and so without meaning: {metrics}."
        )
    return said


def flag_rows(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return one row per flag of a measurement: where it was raised, and how often."""
    flagged = measurements[measurements["flags"] != ""]
    flags = flagged.assign(flag=flagged["flags"].str.split("; ")).explode("flag")
    flags["flag"] = flags["flag"].map(in_plain_words)
    rows = [
        {
            "flag": flag,
            "metrics": _some(list(dict.fromkeys(own["metric"]))),
            "tokenizers": _some(list(dict.fromkeys(own["tokenizer"]))),
            "measurements": len(own),
        }
        for flag, own in flags.groupby("flag", sort=False)
    ]
    return pd.DataFrame(rows, columns=["flag", "metrics", "tokenizers", "measurements"])


def failed_rows(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return one row per diffusion model and guidance scale that failed, with the reason."""
    failed = measurements["failed"].fillna(False).astype(bool)
    rows = measurements[failed & measurements["guidance"].notna()]
    columns = ["tokenizer", "tokenizer_seed", "backbone", "seed", "guidance", "failed_reason"]
    return rows[columns].drop_duplicates().rename(columns={"failed_reason": "why it failed"})


def equality_rows(tokenizers: pd.DataFrame) -> pd.DataFrame:
    """Return the reconstruction of each tokenizer if the study judges it, else no rows."""
    judged = tokenizers[tokenizers["comparable"].notna()]
    words = {
        "psnr": "PSNR (dB)",
        "psnr_spread": "spread in the family (dB)",
        "rfd": "rFD",
        "smallest_gfd": "smallest gFD of the family",
    }
    shown = judged.assign(comparable=judged["comparable"].map({True: "yes", False: "no"}))
    return shown.round(3).rename(columns=words)


def _spread(tokenizers: pd.DataFrame) -> list[str]:
    """Warn where reconstruction differs within a family, and nothing was left out for it."""
    if tokenizers["comparable"].notna().any():
        return []
    spreads = tokenizers.drop_duplicates("family").set_index("family")["psnr_spread"]
    wide = [f"{family} ({spread:.2g} dB)" for family, spread in spreads.items() if spread > SPREAD]
    if not wide:
        return []
    return [
        f"Tokenizers do not reconstruct equally well ({RECONSTRUCTION}), and none was left out for "
        f"it: {_some(wide)}."
    ]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
