"""Which latent space will a diffusion model learn well, and why."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["measure", "score"]


def __getattr__(name: str) -> Any:
    """Import `score` or `measure` when it is first used: they need torch."""
    if name in __all__:
        return getattr(import_module("diffusability.scoring.latents"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
