"""A made-up study of Gaussian latent spaces, whose Fisher curves are known in closed form."""

import json
from collections.abc import Iterator, Sequence
from itertools import product

import pandas as pd

from diffusability.analysis.measurements import check_measurements

LEVELS = (0.1, 1.0, 10.0)
# tokenizer: family, cluster and eigenvalues of its latents
SPACES = {
    "pixels": ("pixels-f1d1", "pixels", (1.0,) * 8),
    "gpe": ("vector-f2d1", "gpe", (1.0,) * 4),
    "vae": ("vector-f2d1", "baseline", (1.9, 1.9, 0.1, 0.1)),
    "level-fine": ("hierarchical-f1d1", "baseline", (1.0,) * 6),
    "level-coarse": ("hierarchical-f2d1", "baseline", (1.0,) * 2),
    "mixed": ("permuted-pixels-f1d1", "permuted-pixels", (1.0,) * 8),
    "pca": ("pca-f2d1", "pca", (1.5,) * 4),
}
BACKBONES = ("dit-xs", "unet-xs")
# tokenizer: Frechet distance under the first backbone, and what the second adds
DISTANCES = {"pixels": (1.0, 0.0), "gpe": (3.0, -1.0), "vae": (2.0, 1.0)}
ENCODERS = {
    "gpe": {"geometry.stretch_q99_q01": 1.2, "reconstruction.mse": 0.01},
    "vae": {"geometry.stretch_q99_q01": 3.0, "reconstruction.mse": 0.04},
    "pixels": {"geometry.grid_slope": -2.0, "reconstruction.mse": 0.0},
    "mixed": {"geometry.grid_slope": -0.1},
    "level-fine": {"geometry.grid_slope": -1.0},
}
EXTREMES = {"geometry.stretch_min": 0.8, "geometry.stretch_max": 1.2, "geometry.stretch_ratio": 1.5}


def totals(eigenvalues: Sequence[float], v: float) -> dict[str, float]:
    """Return FI, FIR and MMSE rate of a Gaussian."""
    return {
        "fi": sum(1 / (x + v) for x in eigenvalues),
        "fir": sum(1 / (x + v) ** 2 for x in eigenvalues),
        "mmse_rate": sum((x / (x + v)) ** 2 for x in eigenvalues),
    }


def latent_measurements(
    *,
    error: float = 0.001,
    seeds: Sequence[float] = (0.0, 0.0),
    encoders: int = 2,
    flagged: Sequence[float] = (),
) -> pd.DataFrame:
    """Return a checked tidy table of the made-up study.

    Args:
        error: relative standard error of every number.
        seeds: relative offset of the learned curves of each diffusion seed.
        encoders: trainings of every encoder, with the same numbers.
        flagged: noise variances at which learned curves contradict themselves.
    """
    rows: list[dict[str, object]] = []
    for name, (family, cluster, eigenvalues) in SPACES.items():
        for encoder in range(encoders):
            base: dict[str, object] = {
                **{"study": "made", "dataset": "digits", "tokenizer": name, "family": family},
                **{"cluster": cluster, "tokenizer_seed": encoder, "backbone": "", "seed": ""},
                **{"guidance": "", "n": 100, "unit": "1", "higher_is_better": "", "flags": ""},
                **{"options": "{}", "fingerprint": f"{name}-{encoder}"},
            }
            rows += [base | cell for cell in _curves(eigenvalues, "", error)]
            rows += _encoder(base, name, error)
            if encoder == 0:
                rows += _models(base, name, error, seeds, flagged)
    return check_measurements(pd.DataFrame(rows))


def _encoder(base: dict[str, object], name: str, error: float) -> Iterator[dict[str, object]]:
    for metric, value in ENCODERS.get(name, {}).items():
        yield base | {"metric": metric, "value": value, "stderr": error * abs(value)}
    for metric, value in EXTREMES.items() if name in ("gpe", "vae") else ():
        yield base | {"metric": metric, "value": value, "stderr": ""}


def _models(
    base: dict[str, object],
    name: str,
    error: float,
    seeds: Sequence[float],
    flagged: Sequence[float],
) -> Iterator[dict[str, object]]:
    for (place, backbone), (seed, offset) in product(enumerate(BACKBONES), enumerate(seeds)):
        run = base | {"backbone": backbone, "seed": seed}
        for cell in _curves(SPACES[name][2], "learned_", error, 1 + offset):
            v = json.loads(str(cell["options"]))["v"]
            yield run | cell | {"flags": "model-error" if v in flagged else ""}
        if name in DISTANCES:
            first, more = DISTANCES[name]
            value = first + place * more + offset
            cell = {"metric": "generation.fd_judge", "value": value, "stderr": error}
            yield run | cell | {"guidance": 1.0, "higher_is_better": False}


def _curves(
    eigenvalues: Sequence[float], source: str, error: float, factor: float = 1.0
) -> Iterator[dict[str, object]]:
    fit = "" if source else "_zscored"
    for v in LEVELS:
        for (name, total), power in zip(totals(eigenvalues, v).items(), (1, 2, 0), strict=True):
            total, unit = total * factor, v**power / len(eigenvalues)
            options = {"v": v, "dim": len(eigenvalues), "total": total}
            options |= {"total_stderr": error * total}
            yield {
                "metric": f"fisher.curve_{source}{name}_unconditional{fit}_v{v:g}",
                "value": total * unit,
                "stderr": error * total * unit,
                "options": json.dumps(options),
            }


def made_spectra() -> pd.DataFrame:
    """Return spectra: falling images, a zigzag vector, flat permuted ones."""
    powers = {"pixels": (4.0, 2.0, 1.0), "mixed": (1.0, 1.0, 1.0), "gpe": (1.0, 2.0, 0.5)}
    rows = []
    for name, falling in powers.items():
        family, cluster, _ = SPACES[name]
        for order in ("grid", "line"):
            for permuted, power in ((0, falling), (1, (1.0, 1.0, 1.0))):
                for k, value in enumerate(power):
                    labels = {"tokenizer": name, "family": family, "cluster": cluster}
                    cell = {"order": order, "permuted": permuted, "frequency": (k + 1) / 6}
                    numbers = {"power": value, "stderr": 0.01 * value, "tokenizer_seed": 0}
                    rows.append(labels | cell | numbers)
    return pd.DataFrame(rows)
