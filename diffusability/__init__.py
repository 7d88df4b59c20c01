"""Which latent space will a diffusion model learn well, and why."""

from typing import Any

from diffusability.lazy import load_code

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
    return load_code(_PUBLIC[name])
