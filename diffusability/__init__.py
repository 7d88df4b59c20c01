"""Which latent space will a diffusion model learn well, and why."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_PUBLIC = {  # imported when they are first used: they need torch
    "measure": "diffusability.scoring.latents:measure",
    "score": "diffusability.scoring.latents:score",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import and return a public name."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute)
