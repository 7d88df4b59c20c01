"""Roles of tokenizers in the image experiments of the Fisher paper."""

from diffusability.study.entries.tokenizer import MEANS

PIXELS, PERMUTED = "pixels", "permuted pixels"
GPE, VAE, LEVEL = "gpe", "vae", "level"
VAE_MEANS = "vae, posterior means"
CONTROL = ""  # a tokenizer without a role in the paper's experiments
TRAINED = (GPE, VAE, VAE_MEANS, LEVEL)


def role_of(family: str, cluster: str) -> str:
    """Return the role of a tokenizer.

    Args:
        family: architecture and latent size. cluster: its method, or its linear map.

    Returns:
        ``PIXELS``, ``PERMUTED``; of `arch: vector` ``GPE`` or, trained as a plain autoencoder,
        ``VAE``, and without the noise of its posteriors ``VAE_MEANS``; of `arch: hierarchical`
        ``LEVEL``; else ``CONTROL``.
    """
    if cluster == "pixels":
        return PIXELS
    if cluster == "permuted-pixels":
        return PERMUTED
    if cluster == "gpe":
        return GPE
    if family.startswith("hierarchical-") and not family.endswith(MEANS):
        return LEVEL
    if not (family.startswith("vector-") and cluster == "baseline"):
        return CONTROL
    return VAE_MEANS if family.endswith(MEANS) else VAE
