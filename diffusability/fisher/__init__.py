"""Fisher information along a diffusion: exact oracles, estimators and toy experiments.

The public names below can be imported from here; a module is imported when one of its names is
first asked for.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "checks": ("curve_mismatch", "flags_of"),
    "denoiser": (
        "Denoiser",
        "from_edm",
        "from_noise_prediction",
        "from_trained",
        "from_velocity",
    ),
    "deviation": ("fir_deviation",),
    "estimator": ("Estimate", "FisherSamples", "sample_fisher"),
    "gaussian": ("Gaussian", "gaussian_curve"),
    "information": ("FisherInformation", "embedded", "rescaled"),
    "oracle": ("Oracle", "Product", "Subspace"),
    "spectrum": ("image_spectrum", "spectral_slope", "vector_spectrum"),
    "toy_oracles": ("Arc", "Pushforward", "toy_oracle"),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    """Return a public name, or a module of Fisher geometry, importing it now."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _PUBLIC:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOME)}"
    )
