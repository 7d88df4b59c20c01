"""The metrics that figures show, by perspective, and what figures call them."""

from diffusability.study.metrics import METRIC_GROUPS

# title of a metric group: short name and metric (a shell pattern); the first represents its group
PERSPECTIVES = {group.title: dict(group.shows) for group in METRIC_GROUPS.values() if group.shows}
SHOWN = {short: name for metrics in PERSPECTIVES.values() for short, name in metrics.items()}
# a group of rank `further` is shown beside the others, but represented by none of its metrics
REPRESENTATIVES = METRIC_GROUPS.representatives("headline", "proxy")
TRAJECTORY = {
    "straightness": "trajectory.straightness",
    "efficiency": "trajectory.efficiency",
    "angle between steps": "trajectory.angle",
}
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
