"""Every figure by its name; `FIGURE_NAMES` of a study's targets lists the same."""

from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from diffusability.errors import StudyError
from diffusability.figures.backbones import draw_backbones
from diffusability.figures.best_guidance import draw_best_guidance
from diffusability.figures.correlations import draw_correlations
from diffusability.figures.families import draw_families
from diffusability.figures.fisher_curves import draw_fisher_curves
from diffusability.figures.fisher_latents import draw_fisher_encoders, draw_fisher_levels
from diffusability.figures.guidance import draw_guidance
from diffusability.figures.length_ratio import draw_length_ratio
from diffusability.figures.neighbours_probe import draw_neighbours_probe
from diffusability.figures.noise_floor import draw_noise_floor
from diffusability.figures.pairs import draw_pairs
from diffusability.figures.perspectives import (
    draw_perspectives,
    draw_perspectives_fdr6,
    draw_perspectives_inception_score,
)
from diffusability.figures.reconstruction import draw_reconstruction
from diffusability.figures.results import Results
from diffusability.figures.spectra import draw_spectra
from diffusability.figures.trajectories import draw_trajectories
from diffusability.study.problems import nearest

Draw = Callable[[Results], Figure]
DRAW: Mapping[str, Draw] = {
    "perspectives": draw_perspectives,
    "correlations": draw_correlations,
    "backbones": draw_backbones,
    "families": draw_families,
    "best_guidance": draw_best_guidance,
    "pairs": draw_pairs,
    "trajectories": draw_trajectories,
    "length_ratio": draw_length_ratio,
    "guidance": draw_guidance,
    "neighbours_probe": draw_neighbours_probe,
    "reconstruction": draw_reconstruction,
    "noise_floor": draw_noise_floor,
    "perspectives_inception_score": draw_perspectives_inception_score,
    "perspectives_fdr6": draw_perspectives_fdr6,
    "fisher_curves": draw_fisher_curves,
    "fisher_encoders": draw_fisher_encoders,
    "fisher_levels": draw_fisher_levels,
    "spectra": draw_spectra,
}


def figure_named(name: str) -> Draw:
    """Return the function that draws a figure.

    Raises:
        StudyError: no figure has this name.
    """
    if name not in DRAW:
        raise StudyError(f"no figure is called `{name}`: {nearest(name, DRAW)}")
    return DRAW[name]
