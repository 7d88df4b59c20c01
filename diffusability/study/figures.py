"""Every figure of a study, declared once.

To add a figure: declare it here, write the function, and put its caption into
`report/captions/figures/<name>.rst`. Rules, drawing and the report follow from the declaration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
        models: whether it shows generated images; left out where there are none.
        groups: metric groups that it shows; left out where one is not measured.
        tokenizers: least number of them.
        clusters: of tokenizers of which there must be at least one.
    """

    code: str
    reads: tuple[str, ...]
    models: bool = True
    groups: tuple[str, ...] = ()
    tokenizers: int = 1
    clusters: tuple[str, ...] = ()

    def function(self) -> Callable[..., Any]:
        """Import and return the function that draws the figure."""
        return import_function(self.code)


def _figure(code: str, *tables: str) -> FigureSource:
    return FigureSource(f"diffusability.figures.{code}", ("measurements", "tokenizers", *tables))


def _of_latents(code: str, *tables: str, **needs: Any) -> FigureSource:
    """A figure that needs no diffusion models."""
    return replace(_figure(code, *tables), models=False, **needs)


# in the order of the report
FIGURES: Mapping[str, FigureSource] = {
    "correlations": _figure("correlations:draw_correlations", "correlations"),
    "strongest": _figure("strongest:draw_strongest", "correlations"),
    "scheme": _of_latents("scheme:draw_scheme"),
    "all_metrics": _figure("correlations:draw_all_metrics", "correlations"),
    "perspectives": _figure("perspectives:draw_perspectives", "correlations"),
    "generalization": _figure("perspectives:draw_generalization", "correlations"),
    "best_guidance": _figure("guidance:draw_best_guidance", "correlations"),
    "pairs": _figure("pairs:draw_pairs", "regressions"),
    "intercorrelations": _of_latents(
        "pairs:draw_intercorrelations", "intercorrelations", tokenizers=3
    ),
    "trajectories": _figure("trajectories:draw_trajectories", "correlations"),
    "length_ratio": _figure("trajectories:draw_length_ratio", "profiles"),
    "guidance": _figure("guidance:draw_guidance", "guidance"),
    "training_steps": _figure("training_steps:draw_training_steps", "correlations"),
    "neighbours_probe": _of_latents(
        "pairs:draw_neighbours_probe", "intercorrelations", groups=("semantics",), tokenizers=3
    ),
    "reconstruction": _of_latents(
        "noise_floor:draw_reconstruction", "comparability", groups=("reconstruction",), tokenizers=2
    ),
    "noise_floor": _figure("noise_floor:draw_noise_floor", "noise_floor"),
    "inception_score": _figure("perspectives:draw_inception_score", "correlations"),
    "fdr6": _figure("perspectives:draw_fdr6", "correlations"),
    "fisher_curves": _of_latents("fisher_curves:draw_fisher_curves", groups=("fisher",)),
    "fisher_encoders": _of_latents(
        "fisher_latents:draw_fisher_encoders", groups=("fisher",), clusters=("pixels", "gpe")
    ),
    "fisher_levels": _of_latents(
        "fisher_latents:draw_fisher_levels", groups=("fisher",), clusters=("pixels",)
    ),
    "distortion": _of_latents("distortion:draw_distortion", groups=("distortion",)),
    "spectra": _of_latents("spectra:draw_spectra", "spectra", groups=("geometry",)),
}


def figure_named(name: str) -> FigureSource:
    """Return the declaration of a figure.

    Raises:
        StudyError: no figure has this name.
    """
    if name not in FIGURES:
        raise StudyError(f"no figure is called `{name}`: {nearest(name, FIGURES)}")
    return FIGURES[name]
