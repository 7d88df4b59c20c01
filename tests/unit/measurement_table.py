"""Made-up tidy tables whose truth is known, for the tests of the analysis."""

import numpy as np
import pandas as pd

from diffusability.analysis.analyse import analyse
from diffusability.analysis.frames import table_frame
from diffusability.analysis.measurements import check_measurements
from diffusability.study.planning.tables import ANALYSIS_TABLES

METRICS = {
    "velocity.viv": (1.0, 0.2, False),
    "velocity.tau": (1.0, 0.6, False),
    "semantics.lnc5": (-1.0, 0.6, True),
    "spatial.srss": (-1.0, 0.6, True),
    "smoothness.sec25": (1.0, 1.0, False),
    "spatial.rmsc": (0.0, 1.0, None),
    "reconstruction.psnr": (0.0, 0.3, True),
}
CLUSTERS = ("baseline", "mcos+mdms", "eq", "lcr", "lmr", "repa")


def measurement_table(
    tokenizers=24,
    *,
    seeds=3,
    retrained=3,
    scales=(1.0,),
    backbones=("sit-b", "lightningdit-b"),
    families=("conv-f2d4",),
    noise=0.2,
    seed=0,
    edit=None,
):
    """Return a checked table: a hidden quality q moves metrics and both generation targets.

    ``fd_judge`` = 80 + 20 (q + noise), lower is better, and best at guidance 1.5 + q/10.
    """
    rng, rows = np.random.default_rng(seed), []

    def add(base, metric, value, up, **more):
        rows.append({**base, "metric": metric, "value": value, "higher_is_better": up, **more})

    for i in range(tokenizers):
        quality = rng.normal()
        for ts in range(3 if i < retrained else 1):
            own = quality + 0.1 * rng.normal()
            base = {
                "study": "made",
                "dataset": "up",
                "tokenizer": f"t{i:02d}",
                "family": families[i % len(families)],
                "cluster": CLUSTERS[i % len(CLUSTERS)],
                "tokenizer_seed": ts,
                **{
                    "backbone": "",
                    "seed": "",
                    "guidance": "",
                    "stderr": 0.05,
                    "n": 100,
                    "unit": "1",
                },
                **{"flags": "", "options": "{}", "fingerprint": f"{i}-{ts}"},
            }
            for metric, (slope, spread, up) in METRICS.items():
                add(base, metric, slope * own + spread * rng.normal(), up)
            for backbone in backbones:
                for s in range(seeds if ts == 0 else 1):
                    y = own + noise * rng.normal()
                    run = {**base, "backbone": backbone, "seed": s}
                    for guidance in scales:
                        bend = 5 * (guidance - 1.5 - own / 10) ** 2
                        add(
                            {**run, "guidance": guidance},
                            "generation.fd_judge",
                            80 + 20 * y + bend,
                            False,
                        )
                        add({**run, "guidance": guidance}, "trajectory.straightness", -y, True)
    frame = pd.DataFrame(rows)
    return check_measurements(frame if edit is None else edit(frame))


def profiles_of(table, steps=8):
    """Return profiles in which ratio - 1 is sin(2 pi time) times a tenth of the hidden quality."""
    runs = table[table["metric"] == "generation.fd_judge"]
    rows = []
    keys = ["tokenizer", "family", "cluster", "backbone", "guidance"]
    for key, part in runs.groupby(keys, sort=False):
        size = 0.1 * abs(part["value"].mean() - 40) / 20
        for segment in range(steps):
            time = (segment + 0.5) / steps
            ratio = 1 + size * np.sin(2 * np.pi * time)
            base = dict(zip(keys, key, strict=True))
            cell = {"segment": segment, "time": time, "value": ratio, "stderr": 0.01}
            rows.append({**base, **cell, "n": 100, "runs": len(part), "note": ""})
    return table_frame("profiles", rows)


def analysed(table, options, *names, profiles=None):
    """Return tables of the analysis of a made-up study without spectra; by default all."""
    collected = {
        "measurements": table,
        "profiles": profiles_of(table) if profiles is None else profiles,
        "spectra": table_frame("spectra", []),
    }
    return analyse(collected, options, names or ANALYSIS_TABLES)
