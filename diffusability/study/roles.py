"""Roles of tokenizers in the image experiments of the Fisher paper."""

PIXELS, PERMUTED = "pixels", "permuted pixels"
GPE, VAE, LEVEL = "gpe", "vae", "level"
CONTROL = ""  # a tokenizer without a role in the paper's experiments
TRAINED = (GPE, VAE, LEVEL)


def role_of(family: str, cluster: str) -> str:
    """Return the role of a tokenizer.

    Args:
        family: architecture and latent size. cluster: its method, or its linear map.

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
