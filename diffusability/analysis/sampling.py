"""Sampling: step lengths along trajectories (Fig. 10) and best guidance scale (Fig. 25)."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from diffusability.analysis.estimators import Array, pearson
from diffusability.analysis.frames import join_notes, table_frame
from diffusability.analysis.intervals import exact_share
from diffusability.analysis.measurements import control_of, step_of
from diffusability.analysis.pairing import means_by_tokenizer
from diffusability.analysis.panels import (
    CURVE,
    Guidance,
    Measured,
    Table,
    best_guidance,
    scales,
    targets,
)
from diffusability.analysis.snapshots import at_last_step
from diffusability.artifacts.card import verified
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.study import DEFAULTS, AnalysisSpec

FILE = "samples.json"
VARIANCE = f"velocity{CURVE}"
INSIDE = (1.5, 2.0)  # guidance scales
NO_ERROR = "a single trajectory: no standard error"


def collect_profiles(plan: Plan) -> pd.DataFrame:
    """Return the length ratio of every sampling step, means over trainings of a tokenizer.

    The columns: report/captions/tables/profiles.rst. Backbones of process edm are omitted: their
    steps are not uniform in this time.

    Raises:
        ArtifactError: samples are missing, altered, or not of this plan.
    """
    samples = [a for a in plan.of_stage("samples") if _in_equal_steps(plan, a)]
    if not samples:
        return table_frame("profiles", [])
    runs = pd.concat([_profile(plan, artifact) for artifact in samples], ignore_index=True)
    keys = ["tokenizer", "backbone", "step", "guidance", "segment"]
    cells = runs.groupby(keys, sort=False)
    table = cells[["family", "cluster", "time", "n"]].first()
    table[["value", "stderr"]] = means_by_tokenizer(runs, by=keys)
    table["runs"] = cells.size()
    table["note"] = table["stderr"].isna().map({True: NO_ERROR, False: ""})
    return table_frame("profiles", table.reset_index())


def _in_equal_steps(plan: Plan, samples: Artifact) -> bool:
    """Return whether samples are of a model, in steps that are uniform in time."""
    if control_of(samples) is not None or plan.study.sampling.shift != 1:
        return False
    return plan.study.backbones[samples.labels["backbone"]].process != "edm"


def _profile(plan: Plan, samples: Artifact) -> pd.DataFrame:
    """Return one row per step of one run."""
    path, labels = Path(samples.path), samples.labels
    verified(path, samples.stage, samples.fingerprint, only=(FILE,))
    run = json.loads((path / FILE).read_text())
    tokenizer, steps = plan.study.tokenizers[labels["tokenizer"]], len(run["length_ratio"])
    errors = run["length_ratio_stderr"]
    return pd.DataFrame(
        {
            **{"tokenizer": labels["tokenizer"], "tokenizer_seed": labels["tokenizer_seed"]},
            **{"family": tokenizer.family, "cluster": tokenizer.cluster},
            **{"backbone": labels["backbone"], "step": step_of(plan, samples)},
            **{"guidance": float(labels["guidance"]), "segment": np.arange(steps)},
            **{"time": (np.arange(steps) + 0.5) / steps, "value": run["length_ratio"]},
            **{"stderr": math.nan if errors is None else errors, "n": run["images"]},
        }
    )


def deviations(
    profiles: pd.DataFrame,
    backbone: str,
    guidance: Guidance,
    times: tuple[float, float] = (0.0, 1.0),
) -> dict[str, float]:
    """Return mean |length ratio - 1| of each tokenizer between two times; 0 is straight.

    Times are from 0 (noise) to 1 (data); a segment belongs to the time of its middle.
    """
    own = _of_panel(profiles, backbone, guidance)
    chosen = own[own["time"].between(*times)].groupby("tokenizer")["value"]
    return {str(name): float((part - 1).abs().mean()) for name, part in chosen}


def variance_relations(
    table: Measured, profiles: pd.DataFrame, backbone: str, guidance: Guidance
) -> dict[str, float]:
    """Return r along the trajectory between length ratio and irreducible variance, by tokenizer.

    The variance I(t) is that of ``velocity.curve_*``, interpolated in time.
    """
    curves = _variance_curves(table)
    chosen = _of_panel(profiles, backbone, guidance).groupby("tokenizer")
    found = {str(name): _along(part, curves) for name, part in chosen}
    return {name: r for name, r in found.items() if not math.isnan(r)}


def _of_panel(profiles: pd.DataFrame, backbone: str, guidance: Guidance) -> pd.DataFrame:
    last = at_last_step(profiles)
    return last[(last["backbone"] == backbone) & (last["guidance"] == guidance)]


def _variance_curves(table: Measured) -> dict[str, tuple[Array, Array]]:
    """Return times and irreducible variance by tokenizer, means over its seeds."""
    names = [name for name in table.metrics if name.startswith(VARIANCE)]
    times = {
        name: json.loads(table.rows[name]["options"].iloc[0] or "{}").get("t") for name in names
    }
    names = sorted((name for name in names if times[name] is not None), key=times.__getitem__)
    if not names:
        return {}
    curves = pd.concat([table.rows[name] for name in names])
    means = curves.pivot_table(index="tokenizer", columns="metric", values="value")[names]
    grid = np.array([times[name] for name in names], dtype=float)
    return {str(name): (grid, row.to_numpy(float)) for name, row in means.iterrows()}


def _along(profile: pd.DataFrame, curves: Mapping[str, tuple[Array, Array]]) -> float:
    """Return r along one trajectory, NaN if the variance is unknown or constant."""
    known = curves.get(str(profile["tokenizer"].iloc[0]))
    if known is None or len(profile) < 3 or not np.isfinite(known[1]).all():
        return math.nan
    variance = np.interp(profile["time"].to_numpy(float), *known)
    return float(pearson(profile["value"].to_numpy(float), variance)[0])


def guidance_optima(table: Table, analysis: AnalysisSpec = DEFAULTS) -> pd.DataFrame:
    """Return the share of tokenizers whose best guidance scale is in ``INSIDE``, ends included.

    The columns: report/captions/tables/guidance.rst.
    """
    table, rows = Measured.of(table), []
    scanned = {(t, b): found for t in targets(table) for b, found in scales(table, t).items()}
    for (target, backbone), sampled in scanned.items():
        best, problem = best_guidance(table, target, backbone)
        if not problem and len(sampled) < 2:
            problem = f"{len(sampled)} guidance scale was sampled: there is no best"
        partly = _partly_scanned(table.rows[target], backbone, len(sampled))
        own = table.tokenizers.assign(best=table.tokenizers["tokenizer"].map(best).astype(float))
        for family in table.families:
            part = own[(own["family"] == family) & own["best"].notna()]
            row: dict[str, object] = {"target": target, "backbone": backbone, "family": family}
            row |= {"statistic": "share_inside", "guidance_scales": len(sampled)}
            row |= {"n": len(part), "clusters": part["cluster"].nunique()}
            if problem or part.empty:
                rows.append(row | {"note": join_notes(problem, partly)})
                continue
            edge = int(part["best"].isin([sampled[0], sampled[-1]]).sum())
            note = f"{edge} of {len(part)} are best at an end of the scan" if edge else ""
            share = np.array([part["best"].between(*INSIDE).mean()])
            ends = exact_share(share, part["cluster"].nunique(), analysis.confidence)
            row |= {"value": share[0], "low": ends.low[0], "high": ends.high[0]}
            rows.append(row | {"note": join_notes(note, partly)})
    return table_frame("guidance", rows)


def _partly_scanned(rows: pd.DataFrame, backbone: str, scales: int) -> str:
    """Return a note on tokenizers that were not sampled at every scale."""
    there = rows[(rows["backbone"] == backbone) & rows["value"].notna()]
    counts = there.groupby("tokenizer", sort=False)["guidance"].nunique()
    partly = [str(name) for name in counts.index[counts < scales]]
    return f"not sampled at every scale: {', '.join(partly)}" if partly else ""
