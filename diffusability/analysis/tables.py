"""What a table of measurements holds: its panels, and a metric beside a target in each."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike

import numpy as np
import pandas as pd

from diffusability.analysis.schema import check_measurements
from diffusability.errors import MeasurementError

GENERATION = "generation."
CURVE = ".curve_"
ALL_FAMILIES = "all"
IDENTITY = ["tokenizer", "family", "cluster"]
_ROWS = [
    *IDENTITY,
    "cfg",
    "x",
    "y",
    "x_stderr",
    "y_stderr",
    "stderr_of",
    "tokenizer_seeds",
    "runs",
]
_RUN = ("tokenizer_seed", "cfg", "value_x", "value_y", "stderr_x", "stderr_y")


@dataclass(frozen=True)
class Panel:
    """One group of generation results that are compared with each other.

    Attributes:
        target: generation metric.
        backbone: diffusion network; empty where the target is measured on the tokenizer itself.
        cfg: guidance scale; None means every tokenizer at its own best scale.
    """

    target: str
    backbone: str
    cfg: float | None

    @property
    def labels(self) -> dict[str, object]:
        """The panel as columns of a result table; an empty ``cfg`` is the best scale of each."""
        cfg = np.nan if self.cfg is None else self.cfg
        return {"target": self.target, "backbone": self.backbone, "cfg": cfg}


@dataclass(frozen=True)
class Cells:
    """A metric beside a target, one row a tokenizer, and everything that could not be paired.

    Attributes:
        rows: tokenizer, family, cluster, cfg, x, y, x_stderr, y_stderr, stderr_of (where y_stderr
            comes from: ``tokenizer seeds``, ``diffusion seeds`` or ``measurement``),
            tokenizer_seeds, runs (diffusion runs behind y).
        runs: tokenizer, tokenizer_seed, seed, x, y: the runs behind those means.
        missing: tokenizer, family, cluster, excluded (the tokenizer has no row), reason.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame
    missing: pd.DataFrame

    def of_family(self, family: str) -> "Cells":
        """Return the part of one family, or all of it for ``ALL_FAMILIES``."""
        if family == ALL_FAMILIES:
            return self
        rows = self.rows[self.rows["family"] == family].reset_index(drop=True)
        runs = self.runs[self.runs["tokenizer"].isin(rows["tokenizer"])].reset_index(drop=True)
        missing = self.missing[self.missing["family"] == family].reset_index(drop=True)
        return Cells(rows, runs, missing)

    def missing_note(self) -> str:
        """Return one sentence on the tokenizers and runs left out, empty when none is."""
        out = list(dict.fromkeys(self.missing.loc[self.missing["excluded"], "tokenizer"]))
        partial = self.missing.loc[~self.missing["excluded"], "tokenizer"]
        notes = []
        if out:
            shown = ", ".join(out[:5]) + (", ..." if len(out) > 5 else "")
            notes.append(f"{len(out)} of {len(out) + len(self.rows)} tokenizers left out: {shown}")
        if len(partial):
            names = ", ".join(dict.fromkeys(partial))
            notes.append(f"{len(partial)} unpaired runs left out of the means of: {names}")
        return "; ".join(notes)


def read_measurements(path: str | PathLike[str]) -> pd.DataFrame:
    """Read the tidy table of one study from CSV and check it.

    Args:
        path: CSV file with the columns of ``COLUMNS``, in any order.

    Returns:
        The table with checked columns and types (see ``check_measurements``).

    Raises:
        MeasurementError: the file is absent or is not the table of one study.
    """
    try:
        # text first: an empty cell of a number is missing, but a tokenizer may be called "nan"
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise MeasurementError(f"{path}: cannot be read as a table: {error}") from error
    return check_measurements(frame, str(path))


def targets(table: pd.DataFrame) -> list[str]:
    """Return the generation metrics of a table, in its order."""
    return [m for m in dict.fromkeys(table["metric"]) if m.startswith(GENERATION)]


def predictors(table: pd.DataFrame) -> list[str]:
    """Return what generation may be predicted from: every other metric that is not a curve."""
    names = dict.fromkeys(table["metric"])
    return [m for m in names if not m.startswith(GENERATION) and CURVE not in m]


def families(table: pd.DataFrame) -> list[str]:
    """Return ``ALL_FAMILIES`` and then each family, in the order of the table."""
    return [ALL_FAMILIES, *dict.fromkeys(table["family"])]


def panels(table: pd.DataFrame) -> Iterator[Panel]:
    """Yield every target, backbone and guidance scale, then each tokenizer's best scale.

    The best scale is a panel of its own only where there are several scales to choose from.
    """
    for target in targets(table):
        of_target = table[table["metric"] == target]
        for backbone in dict.fromkeys(of_target["backbone"]):
            cfg = of_target.loc[of_target["backbone"] == backbone, "cfg"].dropna()
            scales = sorted(cfg.unique())
            for scale in scales:
                yield Panel(target, backbone, float(scale))
            if len(scales) > 1:
                yield Panel(target, backbone, None)


def higher_is_better(table: pd.DataFrame, metric: str) -> bool | None:
    """Return the declared direction of a metric, None where it has none or is not there."""
    known = table.loc[table["metric"] == metric, "higher_is_better"].dropna()
    return None if known.empty else bool(known.iloc[0])


def expected_sign(table: pd.DataFrame, metric: str, target: str) -> int | None:
    """Return the sign that a correlation has if the metric's declared direction is right."""
    x, y = higher_is_better(table, metric), higher_is_better(table, target)
    if x is None or y is None:
        return None
    return 1 if x == y else -1


def cells(table: pd.DataFrame, metric: str, target: str, backbone: str, cfg: float | None) -> Cells:
    """Pair a metric with a target over every tokenizer of a table.

    Runs are matched before they are averaged: only tokenizer seeds that have both numbers count,
    and a metric of the diffusion model itself (``trajectory.*``) is matched run by run. Means are
    taken over the diffusion seeds of a trained tokenizer, then over its tokenizer seeds, so that
    a tokenizer seed with many runs does not outweigh the others.

    Args:
        table: a checked tidy table (``check_measurements``).
        metric: the number on the x axis.
        target: the number on the y axis, usually ``generation.*``.
        backbone: diffusion network of the target; empty if the target is a tokenizer's metric.
        cfg: guidance scale; None takes each tokenizer at the scale with its best mean target
            (ignored for an empty backbone).

    Returns:
        Paired rows, the runs behind them, and what could not be paired with the reason. Standard
        errors come from repeated seeds where there are any, else from the measurement.
    """
    tokenizers = table[IDENTITY].drop_duplicates("tokenizer").reset_index(drop=True)
    y, problem = _target_runs(table, target, backbone, cfg)
    x, by_run = _metric_runs(table, metric, backbone)
    keys = ["tokenizer", "tokenizer_seed", *(["seed", "cfg"] if by_run else [])]
    right = _same_scale(x, y) if by_run else x.drop(columns=["seed", "cfg"])
    both = y.merge(right, on=keys, how="outer", suffixes=("_y", "_x"), indicator=True)
    paired = both[both["_merge"] == "both"]
    groups = paired.groupby("tokenizer", sort=False).indices
    columns = {name: paired[name].to_numpy(float) for name in _RUN}
    rows = [
        {**identity, **_summary({k: v[groups[identity["tokenizer"]]] for k, v in columns.items()})}
        for identity in tokenizers.to_dict("records")
        if identity["tokenizer"] in groups
    ]
    lost = _excluded(tokenizers, both, {metric: x, target: y}, problem)
    lost += _unpaired(tokenizers, both, metric, target)
    missing = pd.DataFrame(lost, columns=[*IDENTITY, "excluded", "reason"])
    return Cells(
        pd.DataFrame(rows, columns=_ROWS),
        _in_order(paired, tokenizers),
        missing.astype({"excluded": bool}),
    )


def best_guidance(table: pd.DataFrame, target: str, backbone: str) -> tuple[dict[str, float], str]:
    """Return the guidance scale with the best mean target of every tokenizer.

    Returns:
        Scale by tokenizer (ties go to the smaller scale), and the reason why there is none.
    """
    better = higher_is_better(table, target)
    if better is None:
        return {}, f"{target} has no direction, so no guidance scale is best"
    chosen = _plain(table[(table["metric"] == target) & (table["backbone"] == backbone)])
    trained = chosen.groupby(["tokenizer", "cfg", "tokenizer_seed"], sort=True)["value"].mean()
    means = trained.groupby(level=["tokenizer", "cfg"]).mean()
    by_tokenizer = means.groupby(level="tokenizer")
    places = by_tokenizer.idxmax() if better else by_tokenizer.idxmin()
    return {str(tokenizer): float(scale) for tokenizer, scale in places}, ""


def nested_mean(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean of the group means, in the unit of the values."""
    return float(_group_means(values, groups).mean())


def _group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.array([values[groups == group].mean() for group in np.unique(groups)])


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    columns = ["tokenizer", "tokenizer_seed", "seed", "cfg", "value", "stderr"]
    return rows.loc[rows["value"].notna(), columns]


def _target_runs(
    table: pd.DataFrame, target: str, backbone: str, cfg: float | None
) -> tuple[pd.DataFrame, str]:
    """Return the target's runs, and why there can be none (empty where there can)."""
    rows = table[(table["metric"] == target) & (table["backbone"] == backbone)]
    if not backbone:
        return _plain(rows), ""
    if cfg is not None:
        return _plain(rows[rows["cfg"] == cfg]), ""
    best, problem = best_guidance(table, target, backbone)
    return _plain(rows[rows["cfg"] == rows["tokenizer"].map(best).astype(float)]), problem


def _metric_runs(table: pd.DataFrame, metric: str, backbone: str) -> tuple[pd.DataFrame, bool]:
    """Return the metric's runs, and whether it is measured once a diffusion run."""
    rows = table[table["metric"] == metric]
    by_run = bool((rows["backbone"] != "").any())
    if by_run:
        rows = rows[rows["backbone"] == backbone]
    return _plain(rows), by_run


def _same_scale(x: pd.DataFrame, y: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of x at the guidance scales that the target has for their tokenizer."""
    return x.merge(y[["tokenizer", "cfg"]].drop_duplicates(), on=["tokenizer", "cfg"])


def _excluded(
    tokenizers: pd.DataFrame, both: pd.DataFrame, sides: dict[str, pd.DataFrame], problem: str
) -> list[dict[str, object]]:
    """Return a row for every tokenizer that has no pair at all."""
    there = set(both.loc[both["_merge"] == "both", "tokenizer"])
    known = {name: set(runs["tokenizer"]) for name, runs in sides.items()}
    lost: list[dict[str, object]] = []
    for identity in tokenizers.to_dict("records"):
        if identity["tokenizer"] in there:
            continue
        absent = [name for name, has in known.items() if identity["tokenizer"] not in has]
        reason = f"no value of {' and '.join(absent)}" if absent else "no seed has both numbers"
        lost.append({**_text(identity), "excluded": True, "reason": problem or reason})
    return lost


def _unpaired(
    tokenizers: pd.DataFrame, both: pd.DataFrame, metric: str, target: str
) -> list[dict[str, object]]:
    """Return a row for every run left out of the means of a tokenizer that has a pair."""
    single = both[both["_merge"] != "both"]
    if single.empty:
        return []
    identities = {identity["tokenizer"]: identity for identity in tokenizers.to_dict("records")}
    there = set(both.loc[both["_merge"] == "both", "tokenizer"])
    lost: list[dict[str, object]] = []
    for run in single.to_dict("records"):
        if run["tokenizer"] not in there:
            continue
        absent = metric if run["_merge"] == "left_only" else target
        reason = f"tokenizer seed {run['tokenizer_seed']}: no value of {absent}"
        lost.append({**_text(identities[run["tokenizer"]]), "excluded": False, "reason": reason})
    return lost


def _text(identity: Mapping[Hashable, object]) -> dict[str, object]:
    return {str(key): value for key, value in identity.items()}


def _in_order(paired: pd.DataFrame, tokenizers: pd.DataFrame) -> pd.DataFrame:
    """Return the runs as tokenizer, tokenizer_seed, seed, x, y, in the order of the table."""
    place = {name: position for position, name in enumerate(tokenizers["tokenizer"])}
    runs = paired.rename(columns={"value_x": "x", "value_y": "y"})
    runs = runs.assign(place=runs["tokenizer"].map(place))
    runs = runs.sort_values(["place", "tokenizer_seed", "seed"])
    return runs[["tokenizer", "tokenizer_seed", "seed", "x", "y"]].reset_index(drop=True)


def _summary(run: dict[str, np.ndarray]) -> dict[str, object]:
    """Return the row of one tokenizer from the columns of its runs."""
    seeds = run["tokenizer_seed"]
    y_stderr, source = _stderr(run["value_y"], run["stderr_y"], seeds)
    x_stderr, _ = _stderr(run["value_x"], run["stderr_x"], seeds)
    return {
        "cfg": run["cfg"][0],
        "x": nested_mean(run["value_x"], seeds),
        "y": nested_mean(run["value_y"], seeds),
        "x_stderr": x_stderr,
        "y_stderr": y_stderr,
        "stderr_of": source,
        "tokenizer_seeds": len(np.unique(seeds)),
        "runs": len(seeds),
    }


def _stderr(values: np.ndarray, stderr: np.ndarray, groups: np.ndarray) -> tuple[float, str]:
    """Return the standard error of the nested mean and where it comes from."""
    means = _group_means(values, groups)
    if len(means) > 1:
        return float(means.std(ddof=1) / len(means) ** 0.5), "tokenizer seeds"
    # a tokenizer's metric is repeated over the diffusion seeds: no spread, hence no estimate
    if np.ptp(values) > 0:
        return float(values.std(ddof=1) / len(values) ** 0.5), "diffusion seeds"
    known = float(stderr[0])
    return known, "" if np.isnan(known) else "measurement"
