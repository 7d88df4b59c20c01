"""Fisher information along a diffusion: exact oracles, estimators and toy experiments.

The public names below can be imported from here; modules are imported lazily, when one of their
names is first used.
"""

from typing import Any

from diffusability.lazy import lazy_import, public_names

_PUBLIC = {
    "checks": ("flags_of",),
    "denoiser": (
        "Denoiser",
        "from_edm",
        "from_noise_prediction",
        "from_trained",
        "from_velocity",
    ),
    "deviation": ("fir_deviation",),
    "estimator": ("Estimate", "FisherSamples", "sample_fisher"),
    "gaussian": ("Gaussian",),
    "information": ("FisherInformation", "embedded", "rescaled"),
    "oracle": ("Oracle", "Product", "Subspace"),
    "spectrum": ("image_spectrum", "spectral_slope", "vector_spectrum"),
    "toy_oracles": ("Arc", "Pushforward", "toy_oracle"),
}
__all__ = public_names(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import and return a public name or a module of this package."""
    return lazy_import(__name__, _PUBLIC, name)
