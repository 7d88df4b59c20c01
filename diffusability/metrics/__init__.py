"""Metrics of latent spaces and of generated images: pure functions on tensors.

Every `measure_*` function can be imported from here, and so can the modules that define them.
Modules are imported lazily, when one of their names is first used.
"""

from typing import Any

from diffusability.lazy import lazy_import, public_names

_PUBLIC = {
    "alignment": ("measure_alignment",),
    "class_accuracy": ("measure_class_accuracy",),
    "continuity": ("measure_interpolation_frechet",),
    "distortion": ("measure_distortion",),
    "equivariance": ("measure_equivariance",),
    "fdr6": ("measure_fdr6",),
    "feature_moments": ("FeatureMoments", "merge_moments"),
    "fisher": ("measure_fisher",),
    "frechet": ("frechet_distance", "measure_frechet"),
    "geometry": ("measure_spectra", "measure_stretch"),
    "inception_score": ("measure_inception_score",),
    "kernel_distance": ("measure_kernel_distance",),
    "learned_fisher": ("measure_learned_fisher",),
    "measurement": ("Measurement",),
    "precision_recall": ("measure_precision_recall",),
    "reconstruction": (
        "measure_lpips",
        "measure_posterior",
        "measure_reconstruction",
        "measure_reconstruction_frechet",
    ),
    "semantics": ("measure_semantics",),
    "smoothness": ("measure_smoothness",),
    "spatial": ("measure_spatial",),
    "fisher_curves": ("PixelCurves",),
    "sample_fisher": ("pixel_curves",),
    "trajectory": ("TrajectoryMoments", "TrajectoryRecorder"),
    "uniformity": ("measure_uniformity",),
    "velocity": ("measure_velocity",),
}
__all__ = public_names(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import and return a public name or a module of this package."""
    return lazy_import(__name__, _PUBLIC, name)
