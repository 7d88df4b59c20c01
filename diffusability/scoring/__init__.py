"""`diffusability score`: measure latent spaces of one's own, without training a diffusion model.

In Python, `score` measures latents from every perspective. The metrics one at a time have one
signature, `velocity(latents, labels=None, masks=None, *, seed=0, **options)`, and return
`Measurements`: `velocity`, `semantics`, `spatial`, `smoothness`, `uniformity` and `fisher`.
"""

from typing import Any

from diffusability.lazy import lazy_import, public_names

_PUBLIC = {
    "functions": ("velocity", "semantics", "spatial", "smoothness", "uniformity", "fisher"),
    "latents": ("measure", "score"),
    "measured": ("Measurements",),
    "table": ("Score",),
}
__all__ = public_names(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import and return a public name or a module of this package."""
    return lazy_import(__name__, _PUBLIC, name)
