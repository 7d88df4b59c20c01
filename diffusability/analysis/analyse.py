"""Every table of the analysis, from the tidy table alone."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import pandas as pd
from joblib import Parallel, delayed

from diffusability.analysis.comparability import comparability
from diffusability.analysis.comparison import compare_backbones, compare_metrics
from diffusability.analysis.correlation import correlate, intercorrelate
from diffusability.analysis.guidance import guidance_optima
from diffusability.analysis.headline import HEADLINE_FISHER
from diffusability.analysis.latent_findings import latent_findings
from diffusability.analysis.latent_spaces import latent_spaces
from diffusability.analysis.noise_floor import noise_floor
from diffusability.analysis.options import Analysis, AnalysisOptions
from diffusability.analysis.profiles import relate_profiles
from diffusability.analysis.proxies import FISHER_PROXIES, compare_proxies
from diffusability.analysis.regression import regress
from diffusability.analysis.selection import choose_metrics
from diffusability.analysis.spectra import no_spectra
from diffusability.analysis.tables import Measured, Table, predictors
from diffusability.study.metrics import METRIC_GROUPS

# one metric per group, as the paper highlights them; what a study lacks is left out
HEADLINE = tuple(METRIC_GROUPS.representatives("headline", "proxy").values())
LATENT_PROXIES = tuple(metric for metric in HEADLINE if metric != HEADLINE_FISHER)
# what the claims relate besides: groups without a representative, the probe that LNC stands for
FURTHER = METRIC_GROUPS.shown("further")
PROBE = "semantics.probe"


def present(table: Table, patterns: Sequence[str]) -> list[str]:
    """Return the predictors of a table that match shell patterns, in the patterns' order."""
    names = predictors(table)
    return [name for pattern in patterns for name in names if fnmatchcase(name, pattern)]


def analyse(
    table: Table,
    profiles: pd.DataFrame,
    analysis: Analysis | None = None,
    spectra: pd.DataFrame | None = None,
) -> dict[str, pd.DataFrame]:
    """Return every table of the analysis by its name.

    Args:
        table: a checked tidy table (``check_measurements``).
        profiles: length ratios along trajectories (``collect_profiles``); may be empty.
        analysis: resamples, confidence and seed.
        spectra: of the latents (``collect_spectra``); none were measured if left out.

    Returns:
        ``correlations``, ``intercorrelations``, ``comparisons``, ``proxies``, ``regressions``,
        ``selection``, ``noise_floor``, ``comparability``, ``guidance``, ``profile_relations``,
        ``latent_spaces``, ``latent_findings``: the input of ``check_claims``.
    """
    analysis = analysis or AnalysisOptions()
    spectra = no_spectra() if spectra is None else spectra
    # the correlations take half of the time: they are made beside all the rest
    halves = (
        delayed(_correlated)(table, analysis),
        delayed(_rest)(table, profiles, spectra, analysis),
    )
    first, second = Parallel(n_jobs=len(halves))(halves)
    return {**first, **second}


def _correlated(table: Table, analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Return the correlations, and what compares the proxies of both papers by them."""
    table = Measured.of(table)
    correlations = correlate(table, analysis)
    of_latents, of_fisher = (present(table, names) for names in (LATENT_PROXIES, FISHER_PROXIES))
    return {
        "correlations": correlations,
        "proxies": compare_proxies(table, of_latents, of_fisher, correlations, analysis),
    }


def _rest(
    table: Table, profiles: pd.DataFrame, spectra: pd.DataFrame, analysis: Analysis
) -> dict[str, pd.DataFrame]:
    """Return every other table."""
    table = Measured.of(table)
    headline = present(table, HEADLINE)
    compared = headline + present(table, FURTHER)
    related = headline + present(table, (PROBE,))
    comparisons = [
        compare_metrics(table, compared, analysis),
        compare_backbones(table, headline, analysis),
    ]
    there = [frame for frame in comparisons if len(frame)]
    return {
        "intercorrelations": intercorrelate(table, related, analysis),
        "comparisons": pd.concat(there, ignore_index=True) if there else comparisons[0],
        "regressions": regress(table, headline, analysis),
        "selection": choose_metrics(table),
        "noise_floor": noise_floor(table, analysis.confidence),
        "comparability": comparability(table, analysis.confidence),
        "guidance": guidance_optima(table, analysis),
        "profile_relations": relate_profiles(table, profiles, analysis),
        "latent_spaces": latent_spaces(table.table),
        "latent_findings": latent_findings(table.table, spectra),
    }
