"""Which part of the second paper's image experiments a tokenizer plays, by how it was made."""

from collections.abc import Iterable

import pandas as pd

PIXELS, PERMUTED = "pixels", "permuted pixels"
GPE, VAE, LEVEL = "gpe", "vae", "level"
CONTROL = ""  # a tokenizer that the paper's experiments have no part for
TRAINED = (GPE, VAE, LEVEL)


def role_of(family: str, cluster: str) -> str:
    """Return the role of a tokenizer, from two columns of the tidy table.

    Args:
        family: architecture and latent size. cluster: its method, or the linear map that it is.

    Returns:
        ``PIXELS``, ``PERMUTED``; of `arch: vector` ``GPE`` or, trained as a plain autoencoder,
        ``VAE``; of `arch: hierarchical` ``LEVEL``; else ``CONTROL``.
    """
    if cluster == "pixels":
        return PIXELS
    if cluster == "permuted-pixels":
        return PERMUTED
    if cluster == "gpe":
        return GPE
    if family.startswith("hierarchical-"):
        return LEVEL
    return VAE if family.startswith("vector-") and cluster == "baseline" else CONTROL


def with_roles(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table that has columns family and cluster with the column ``role``."""
    pairs = zip(table["family"], table["cluster"], strict=True)
    return table.assign(role=[role_of(family, cluster) for family, cluster in pairs])


def of_role(table: pd.DataFrame, roles: Iterable[str]) -> list[str]:
    """Return the tokenizers of some roles in the order of a table of ``with_roles``."""
    chosen = table[table["role"].isin(list(roles))]
    return list(dict.fromkeys(chosen["tokenizer"]))
