"""The power spectra of a study's latents as one table (Fig. 13 of the Fisher paper)."""

from pathlib import Path

import pandas as pd

from diffusability.analysis.roles import GPE, VAE
from diffusability.artifacts.card import verified
from diffusability.study.plan import Plan

FILE = "spectra.csv"
COLUMNS = (
    *("tokenizer", "family", "cluster", "tokenizer_seed"),
    *("order", "permuted", "frequency", "power", "stderr"),
)


def spectrum_order(role: str) -> str:
    """Return in which order the paper transforms a latent: a vector as a line, else as a grid."""
    return "line" if role in (GPE, VAE) else "grid"


def no_spectra() -> pd.DataFrame:
    """Return the table of a study that measures no spectra."""
    return pd.DataFrame(columns=list(COLUMNS))


def collect_spectra(plan: Plan) -> pd.DataFrame:
    """Return every power spectrum that the study measured, in planning order; often none.

    Returns:
        One row a tokenizer, seed, order ("grid": radial, of the latent grid; "line": along the
        latent's vector), permutation (1: entries in a random order first) and frequency in cycles
        a cell. ``power`` is a mean over images, each brought to mean 0 and variance 1, so that
        white noise has 1; ``stderr`` is over images.

    Raises:
        ArtifactError: a spectrum is missing, altered, or not of this plan.
    """
    parts = []
    for artifact in plan.of_stage("geometry"):
        path = Path(artifact.path)
        verified(path, artifact.stage, artifact.fingerprint, only=(FILE,))
        name, seed = artifact.labels["tokenizer"], int(artifact.labels["tokenizer_seed"])
        spec = plan.study.tokenizers[name]
        labels = {"tokenizer": name, "family": spec.family, "cluster": spec.cluster}
        parts.append(pd.read_csv(path / FILE).assign(**labels, tokenizer_seed=seed))
    if not parts:
        return no_spectra()
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]
