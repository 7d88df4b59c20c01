"""The metrics that figures show, by perspective, and what figures call them."""

# perspective: short name and metric (a shell pattern); the first represents its perspective
PERSPECTIVES = {
    "velocity ambiguity": {"VIV": "velocity.viv"},
    "semantic separability": {"LNC": "semantics.lnc5"},
    "spatial structure": {"SRSS": "spatial.srss", "LDS": "spatial.lds", "CDS": "spatial.cds"},
    "spectral smoothness": {"SEC": "smoothness.sec25"},
    "manifold continuity": {"iFD": "continuity.if*"},
    "distribution uniformity": {
        "entropy": "uniformity.normalised_entropy",
        "density CV": "uniformity.density_cv",
        "Gini": "uniformity.gini",
    },
    "affine equivariance": {
        "scale error": "equivariance.scale_error",
        "rotate error": "equivariance.rotate_error",
    },
    "Fisher geometry": {
        "FIR": "fisher.fir",
        "MMSE rate": "fisher.mmse_rate",
        "FIR deviation": "fisher.fir_deviation_per_dimension",
        "learned FIR": "fisher.learned_fir",
    },
}
SHOWN = {short: name for metrics in PERSPECTIVES.values() for short, name in metrics.items()}
# affine equivariance is shown beside the others, but represented by none of its two metrics
REPRESENTATIVES = {
    short: metrics[short]
    for perspective, metrics in PERSPECTIVES.items()
    for short in list(metrics)[:1]
    if perspective != "affine equivariance"
}
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
