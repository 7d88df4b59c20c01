"""Every figure of a study, declared once.

To add a figure: declare it here, write the function, and put its caption into
`report/figures/<name>.rst`. Rules, drawing and the report follow from the declaration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusability.errors import StudyError
from diffusability.study.problems import nearest
from diffusability.study.tables import import_function

FIGURE_FORMATS = ("svg", "pdf", "png")


@dataclass(frozen=True)
class FigureSource:
    """How one figure is made.

    Attributes:
        code: `module:function` that draws it from the results of a study.
        reads: the tables that it is drawn from.
    """

    code: str
    reads: tuple[str, ...]

    def function(self) -> Callable[..., Any]:
        """Import and return the function that draws the figure."""
        return import_function(self.code)


def _figure(code: str, *tables: str) -> FigureSource:
    return FigureSource(f"diffusability.figures.{code}", ("measurements", "tokenizers", *tables))


# in the order of the report
FIGURES: Mapping[str, FigureSource] = {
    "correlations": _figure("correlations:draw_correlations", "correlations"),
    "strongest": _figure("strongest:draw_strongest", "correlations"),
    "perspectives": _figure("perspectives:draw_perspectives", "correlations"),
    "backbones": _figure("perspectives:draw_backbones", "correlations"),
    "families": _figure("perspectives:draw_families", "correlations"),
    "best_guidance": _figure("guidance:draw_best_guidance", "correlations"),
    "pairs": _figure("pairs:draw_pairs", "regressions"),
    "intercorrelations": _figure("pairs:draw_intercorrelations", "intercorrelations"),
    "trajectories": _figure("trajectories:draw_trajectories", "correlations"),
    "length_ratio": _figure("trajectories:draw_length_ratio", "profiles"),
    "guidance": _figure("guidance:draw_guidance", "guidance"),
    "training_steps": _figure("training_steps:draw_training_steps", "correlations"),
    "neighbours_probe": _figure("pairs:draw_neighbours_probe", "intercorrelations"),
    "reconstruction": _figure("noise_floor:draw_reconstruction", "comparability"),
    "noise_floor": _figure("noise_floor:draw_noise_floor", "noise_floor"),
    "perspectives_inception_score": _figure(
        "perspectives:draw_perspectives_inception_score", "correlations"
    ),
    "perspectives_fdr6": _figure("perspectives:draw_perspectives_fdr6", "correlations"),
    "fisher_curves": _figure("fisher_curves:draw_fisher_curves"),
    "fisher_encoders": _figure("fisher_latents:draw_fisher_encoders"),
    "fisher_levels": _figure("fisher_latents:draw_fisher_levels"),
    "spectra": _figure("spectra:draw_spectra", "spectra"),
}
FIGURE_NAMES = tuple(FIGURES)


def figure_named(name: str) -> FigureSource:
    """Return the declaration of a figure.

    Raises:
        StudyError: no figure has this name.
    """
    if name not in FIGURES:
        raise StudyError(f"no figure is called `{name}`: {nearest(name, FIGURES)}")
    return FIGURES[name]
