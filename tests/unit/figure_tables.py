"""Made-up results of a study of any size, for the tests of the figures."""

import json
from collections.abc import Iterator
from itertools import combinations, count

import numpy as np
import pandas as pd

from diffusability.analysis.frames import table_frame
from diffusability.analysis.measurements import check_measurements
from diffusability.analysis.panels import Measured, expected_sign, panels, predictors
from diffusability.figures.results import Results
from diffusability.figures.style import CLUSTERS

TARGET = "generation.fd_judge"
# metric: slope on the hidden quality, spread, centre, direction
METRICS = {
    "velocity.viv": (0.2, 0.1, 0.8, False),
    "semantics.lnc5": (-0.03, 0.02, 0.1, True),
    "semantics.probe": (-0.09, 0.02, 0.4, True),
    "spatial.srss": (-0.1, 0.05, 0.6, True),
    "spatial.lds": (-0.1, 0.1, 0.5, True),
    "spatial.cds": (-0.01, 0.02, 0.08, True),
    "spatial.rmsc": (0.0, 0.1, 1.0, None),
    "smoothness.sec25": (0.1, 0.1, 0.2, False),
    "continuity.ifd_judge": (3.0, 4.0, 40.0, False),
    "uniformity.normalised_entropy": (-0.0005, 0.0005, 0.997, True),
    "uniformity.density_cv": (0.02, 0.03, 0.2, False),
    "uniformity.gini": (0.01, 0.02, 0.1, False),
    "equivariance.scale_error": (0.02, 0.05, 0.3, False),
    "equivariance.rotate_error": (0.0, 0.05, 0.3, False),
    "fisher.fir": (0.03, 0.02, 0.5, False),
    "fisher.mmse_rate": (0.01, 0.02, 0.2, False),
    "fisher.fir_deviation_per_dimension": (0.02, 0.02, 0.3, False),
    "reconstruction.psnr": (0.0, 0.4, 28.5, True),
    "reconstruction.ssim": (0.0, 0.01, 0.81, True),
    "reconstruction.fd_judge": (0.02, 0.05, 0.5, False),
}
NOISE = (0.01, 0.1, 1.0)
CELL = ["tokenizer", "family", "cluster", "backbone", "guidance"]
MADE = ("correlations", "regressions", "noise_floor", "guidance")
MADE += ("intercorrelations", "comparability")
FURTHER = ("trajectory.straightness", "trajectory.efficiency", "trajectory.angle")
FURTHER += ("fisher.learned_fir",)


def figure_table(
    tokenizers: int,
    *,
    backbones: tuple[str, ...] = ("sit-b",),
    scales: tuple[float, ...] = (1.0,),
    families: tuple[str, ...] = ("conv-f16d32",),
    seeds: int = 1,
    retrained: int = 0,
    targets: bool = False,
    without: tuple[str, ...] = (),
) -> pd.DataFrame:
    """Return a checked tidy table whose hidden quality moves every metric.

    Args:
        tokenizers: how many. backbones, scales, families, seeds: of the study.
        retrained: so many tokenizers have a second seed.
        targets: with Inception score and FDr6. without: metrics left out.
    """
    rng = np.random.default_rng(0)
    clusters = list(CLUSTERS)
    rows: list[dict[str, object]] = []

    def add(base: dict[str, object], metric: str, value: float, up: bool | None) -> None:
        row = {**base, "metric": metric, "value": value, "higher_is_better": up}
        if metric not in without:
            rows.append(row | {"stderr": 0.02 * abs(value) if metric != TARGET else 0.3})

    for i in range(tokenizers):
        quality = rng.normal()
        for ts in range(2 if i < retrained else 1):
            base: dict[str, object] = {
                **{"study": "made", "dataset": "up", "tokenizer": f"tokenizer-{i + 1}"},
                "family": families[i * len(families) // tokenizers],
                "cluster": clusters[i % len(clusters)],
                **{"tokenizer_seed": ts, "backbone": "", "seed": "", "guidance": "", "n": 100},
                **{"unit": "1", "flags": "", "options": "{}", "fingerprint": f"{i}-{ts}"},
            }
            own = quality + 0.1 * rng.normal()
            for metric, (slope, spread, centre, up) in METRICS.items():
                add(base, metric, centre + slope * own + spread * rng.normal(), up)
            for t in range(11):
                value = 0.5 * (1 + 0.1 * own) * np.sin(np.pi * t / 10) + 0.1
                time = {"options": json.dumps({"t": t / 10})}
                add({**base, **time}, f"velocity.curve_t{10 * t:02d}", value, False)
            for v in NOISE:
                level = {"options": json.dumps({"v": v})}
                share = v / (1 + v + 0.05 * own)
                add({**base, **level}, f"fisher.curve_fi_v{v:g}", share, None)
                add({**base, **level}, f"fisher.curve_fir_v{v:g}", share**2, False)
            for b, backbone in enumerate(backbones):
                for seed in range(seeds if ts == 0 else 1):
                    y = own + 0.2 * rng.normal()
                    model = {**base, "backbone": backbone, "seed": seed}
                    add(model, "fisher.learned_fir", 0.5 + 0.03 * y, False)
                    for v in NOISE:
                        level = {"options": json.dumps({"v": v})}
                        name = f"fisher.curve_learned_fir_v{v:g}"
                        add({**model, **level}, name, (b + 1) * v / (1 + v + 0.05 * own), False)
                    for guidance in scales:
                        run = {**base, "backbone": backbone, "seed": seed, "guidance": guidance}
                        bend = 12 * (guidance - 1.7 - y / 10) ** 2
                        add(run, TARGET, 20 + 4 * y + 3 * b + bend, False)
                        add(run, FURTHER[0], 0.999 - 0.0005 * y, True)
                        add(run, FURTHER[1], 0.9 - 0.02 * y, True)
                        add(run, FURTHER[2], 3 + 0.2 * y, False)
                        if targets:
                            add(run, "generation.inception_score_judge", 60 - 10 * y, True)
                            add(run, "generation.fdr6", 9 + 2 * y, False)
    return check_measurements(pd.DataFrame(rows))


def results_of(table: pd.DataFrame, tables: dict[str, pd.DataFrame] | None = None) -> Results:
    """Return a table with tables of its analysis, by default made-up ones."""
    numbers = {name: k for k, name in enumerate(dict.fromkeys(table["tokenizer"]), start=1)}
    others = made_tables(table) if tables is None else tables
    return Results({"measurements": table, **others}, numbers, TARGET)


def made_tables(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return tables in the form of ``analyse`` with numbers that all differ: nothing computed."""
    wheel = count()

    def numbers() -> dict[str, object]:
        value = (-1) ** next(wheel) * (0.2 + 0.6 * (0.618034 * next(wheel) % 1))
        ends = {"low": value - 0.11, "high": value + 0.07}
        return {"value": value, **ends, "n": next(wheel), "note": ""}

    indexed = Measured(table)
    names = [name for name in predictors(table) if name in METRICS or name in FURTHER]
    pairs = list(combinations([name for name in names if name in METRICS], 2))
    groups = indexed.families
    tables: dict[str, list[dict[str, object]]] = {name: [] for name in MADE}
    for panel in panels(table):
        for family in groups:
            where = {**panel.labels, "family": family}
            for metric in names:
                sign = expected_sign(indexed, metric, panel.target) or np.nan
                row = {**where, "metric": metric, "expected_sign": sign}
                tables["correlations"].append({**row, **named("pearson", numbers())})
            for first, second in pairs:
                row = {**where, "metric_1": first, "metric_2": second}
                tables["regressions"].append({**row, **named("q2", numbers())})
            row = {**where, "run_sd": 1.5, "reliability": 0.9, **numbers()}
            tables["noise_floor"].append(row)
            row = {**where, "statistic": "share_inside"}
            tables["guidance"].append({**row, **numbers()})
    for family in groups:
        for first, second in pairs:
            sign = expected_sign(indexed, first, second) or np.nan
            row = {"target": second, "family": family, "metric": first, "expected_sign": sign}
            tables["intercorrelations"].append({**row, **named("pearson", numbers())})
        for metric in METRICS:
            if metric.startswith("reconstruction."):
                tables["comparability"].append({"family": family, "metric": metric, **numbers()})
    tables["profiles"] = list(_profiles(table))
    return {name: table_frame(name, rows) for name, rows in tables.items()}


def named(statistic: str, numbers: dict[str, object]) -> dict[str, object]:
    """Return made-up numbers under the name of a statistic."""
    row = {f"{statistic}_{end}": numbers.pop(end) for end in tuple(numbers) if "_" in end}
    row |= {f"{statistic}_{end}": numbers.pop(end) for end in ("low", "high")}
    return {statistic: numbers.pop("value"), **row, **numbers}


def _profiles(table: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield ten segments of every tokenizer, backbone and scale, no two ratios the same."""
    runs = table[table["metric"] == TARGET]
    for k, run in enumerate(runs.drop_duplicates(CELL)[CELL].to_dict("records")):
        for segment in range(10):
            time = (segment + 0.5) / 10
            ratio = 1 + 0.2 * np.cos(2 * np.pi * time) + 0.01 * (k + time)
            yield run | {"segment": segment, "time": time, "value": ratio}
