"""Encoders, and what is generated behind each, in one table (Tables 1 to 3 of the Fisher paper)."""

import math

import pandas as pd

from diffusability.analysis.roles import with_roles

# column: metric of the tokenizer
ENCODERS = {
    "stretch_min": "geometry.stretch_min",
    "stretch_max": "geometry.stretch_max",
    "stretch_ratio": "geometry.stretch_ratio",
    **{f"stretch_{q}": f"geometry.stretch_{q}" for q in ("q01", "q05", "q50", "q95", "q99")},
    "stretch_q99_q01": "geometry.stretch_q99_q01",
    "mse": "reconstruction.mse",
    "psnr": "reconstruction.psnr",
}
DISTANCE = r"generation\.(fid|fd_(?!infinity_).*)"  # the Frechet distance, by its extractor
COLUMNS = (
    *("tokenizer", "cluster", "role", "runs"),
    *(name for column in ENCODERS for name in (column, f"{column}_stderr")),
    *("backbone", "cfg", "distance_metric", "distance", "distance_stderr", "distance_runs"),
)


def latent_spaces(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return how each encoder treats distances and images, and the quality of what is generated.

    Args:
        measurements: the tidy table.

    Returns:
        One row a tokenizer, backbone and guidance scale, columns ``COLUMNS``: means over seeds of
        a (``stretch_min``), b (``stretch_max``), b / a (``stretch_ratio``; LOWER is nearer to a
        similarity) and quantiles of |E(x) - E(x')| / |x - x'|; the reconstruction's mean squared
        error of values in [-1, 1] (LOWER is better) and PSNR in dB (HIGHER is better); the Frechet
        distance of generated images (LOWER is better). Standard errors are over seeds where there
        are several, else of the measurement; NaN where there is none.
    """
    table = with_roles(measurements)
    target = table["metric"].str.fullmatch(DISTANCE)
    found = table.loc[target & table["value"].notna(), "metric"]
    generated = table[table["metric"] == (found.iloc[0] if len(found) else "")]
    rows = []
    for name, own in table.groupby("tokenizer", sort=False):
        first = own.iloc[0]
        base: dict[str, object] = {"tokenizer": name, "cluster": first["cluster"]}
        base |= {"role": first["role"], "runs": own["tokenizer_seed"].nunique()}
        for column, metric in ENCODERS.items():
            base[column], base[f"{column}_stderr"], _ = _mean(own[own["metric"] == metric])
        models = generated[generated["tokenizer"] == name]
        for (backbone, cfg), part in models.groupby(["backbone", "cfg"], sort=False):
            value, error, runs = _mean(part)
            cell = {"backbone": backbone, "cfg": cfg, "distance_metric": part["metric"].iloc[0]}
            numbers = {"distance": value, "distance_stderr": error, "distance_runs": runs}
            rows.append(base | cell | numbers)
        if models.empty:
            rows.append(base)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _mean(rows: pd.DataFrame) -> tuple[float, float, int]:
    """Return mean over runs, its standard error and the number of runs."""
    known = rows[rows["value"].notna()]
    values = known["value"].to_numpy(float)
    if not len(values):
        return math.nan, math.nan, 0
    error = float(known["stderr"].iloc[0])
    if len(values) > 1:
        error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), error, len(values)
