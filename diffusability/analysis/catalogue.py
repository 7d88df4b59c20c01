"""The metrics that tables and figures lead with, by perspective, and their names in figures."""

from diffusability.fisher.deviation import DEVIATIONS
from diffusability.study.metrics import METRIC_GROUPS

# title of a metric group: short name and metric (a shell pattern); the first represents its group
PERSPECTIVES = {group.title: dict(group.shows) for group in METRIC_GROUPS.values() if group.shows}
SHOWN = {short: name for metrics in PERSPECTIVES.values() for short, name in metrics.items()}
# a group of rank `further` is shown beside the others, but represented by none of its metrics
REPRESENTATIVES = METRIC_GROUPS.representatives("headline", "proxy")
# generation metrics that every predictor is related to; the others with the shown metrics only
HEADLINE_TARGETS = (
    "generation.fd_*",
    "generation.fid",
    "generation.inception_score_*",
    "generation.fdr6",
)
# the metric of each perspective that headline tables show, by short name
HEADLINE_METRICS = METRIC_GROUPS.representatives("headline")
# one metric per perspective, as the papers highlight them; what a study lacks is left out
HEADLINE_FISHER = REPRESENTATIVES["FIR"]
LATENT_PROXIES = tuple(name for name in REPRESENTATIVES.values() if name != HEADLINE_FISHER)
HEADLINE = (*LATENT_PROXIES, HEADLINE_FISHER)
# what the claims compare as well, and the linear probe that LNC approximates
COMPARED = (*HEADLINE, *METRIC_GROUPS.shown("further"))
PROBE = "semantics.probe"
RECONSTRUCTION = "reconstruction.psnr"  # held fixed in partial correlations
TRAJECTORY = {
    "straightness": "trajectory.straightness",
    "efficiency": "trajectory.efficiency",
    "angle between steps": "trajectory.angle",
}
# what is related to every generation metric
SHOWN_METRICS = (*SHOWN.values(), *TRAJECTORY.values(), PROBE, "reconstruction.*")
# of fits and as trained models learned them, class-conditional and without classes
FISHER_PROXIES = tuple(
    f"fisher.{source}{name}{condition}"
    for source in ("", "learned_")
    for name in ("fi", "fir", "mmse_rate", *DEVIATIONS)
    for condition in ("", "_unconditional")
)
_WORDS = (
    ("generation.fd_", "Fréchet distance"),
    ("generation.fid", "FID"),
    ("generation.sfid", "sFID"),
    ("generation.inception_score_", "Inception score"),
    ("generation.fdr6", "FDr6"),
    ("generation.fdr_", "FDr"),
    ("reconstruction.fd_", "reconstruction Fréchet distance"),
    ("reconstruction.f[di]", "reconstruction Fréchet distance"),
    ("reconstruction.fid", "reconstruction FID"),
    ("reconstruction.psnr", "PSNR"),
    ("reconstruction.ssim", "SSIM"),
    ("reconstruction.lpips", "LPIPS"),
)


def name_metric(metric: str) -> str:
    """Return what a figure calls a metric; the extractor behind a distance stays in the name."""
    for prefix, words in _WORDS:
        if metric.startswith(prefix):
            extractor = metric.removeprefix(prefix).strip("_*")
            return f"{words} ({extractor})" if extractor else words
    return metric.replace("*", "…")
