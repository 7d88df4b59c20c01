"""Fisher information along a diffusion: exact oracles, estimators and toy experiments.

The public names below can be imported from here; modules are imported lazily, when one of their
names is first used.
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
    """Import and return a public name or a module of this package."""
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _PUBLIC:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOME)}"
    )
