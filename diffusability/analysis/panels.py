"""The panels of a table of measurements, and a metric paired with a target in each."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
import pandas as pd

from diffusability.analysis.catalogue import HEADLINE_TARGETS
from diffusability.analysis.pairing import IDENTITY, Runs, pair
from diffusability.analysis.snapshots import at_last_step
from diffusability.study.tables import BEST

GENERATION = "generation."
CONTROL = "control."  # what `generation.` is of samples of a diffusion model
CURVE = ".curve_"
ABOVE_CHANCE = 1.25  # a metric leaves chance if its median is above this multiple of it
Guidance = float | str | None


@dataclass(frozen=True)
class Panel:
    """The generation results of one target, backbone and guidance scale.

    Attributes:
        target: generation metric.
        backbone: diffusion network; empty if the target is measured on the tokenizer itself.
        guidance: guidance scale; `BEST`: the best one of each tokenizer; None if not applicable.
    """

    target: str
    backbone: str
    guidance: Guidance

    @property
    def labels(self) -> dict[str, object]:
        """The panel as columns of a result table."""
        return {"target": self.target, "backbone": self.backbone, "guidance": self.guidance}


@dataclass(frozen=True)
class Cells:
    """A metric paired with a target, one row per tokenizer, and all that could not be paired.

    Attributes:
        rows: tokenizer, family, cluster, guidance, x, y, x_stderr, y_stderr, stderr_of (what
            y_stderr is over: ``tokenizer seeds``, ``diffusion seeds`` or ``measurement``),
            tokenizer_seeds, runs (diffusion runs behind y).
        runs: tokenizer, tokenizer_seed, seed, x, y: the runs behind those means.
        missing: tokenizer, family, cluster, excluded (the tokenizer has no row), reason.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame
    missing: pd.DataFrame
    _parts: dict[str, "Cells"] = field(default_factory=dict, repr=False, compare=False)

    def of_family(self, family: str) -> "Cells":
        """Return the part of one family."""
        if family not in self._parts:
            self._parts[family] = self._of_family(family)
        return self._parts[family]

    def _of_family(self, family: str) -> "Cells":
        rows = self.rows[self.rows["family"] == family].reset_index(drop=True)
        runs = self.runs[self.runs["tokenizer"].isin(rows["tokenizer"])].reset_index(drop=True)
        missing = self.missing[self.missing["family"] == family].reset_index(drop=True)
        return Cells(rows, runs, missing)

    def missing_note(self) -> str:
        """Return one sentence on the tokenizers and runs left out, or empty."""
        if self.missing.empty:
            return ""
        out = list(dict.fromkeys(self.missing.loc[self.missing["excluded"], "tokenizer"]))
        partial = self.missing.loc[~self.missing["excluded"], "tokenizer"]
        notes = []
        if out:
            shown = ", ".join(out[:5]) + (", ..." if len(out) > 5 else "")
            notes.append(f"{len(out)} of {len(out) + len(self.rows)} tokenizers left out: {shown}")
        if len(partial):
            names = list(dict.fromkeys(partial))
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            notes.append(f"{len(partial)} unpaired runs left out of the means of: {shown}")
        return "; ".join(notes)


class Measured:
    """A checked table of measurements with an index of metrics and cached pairings.

    Every function of the analysis accepts a table or a ``Measured``; sharing one ``Measured``
    avoids pairing the same metric and target again. The table must not be changed.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        """Index a table from ``check_measurements``, each backbone at its last step."""
        table = at_last_step(table)
        self.table = table
        self.tokenizers = table[IDENTITY].drop_duplicates("tokenizer").reset_index(drop=True)
        self.metrics = list(dict.fromkeys(table["metric"]))
        self.families = list(dict.fromkeys(table["family"]))
        self._runs: dict[str, dict[str, Runs]] = {}
        self._cells: dict[tuple[str, str, str, Guidance], Cells] = {}
        self._best: dict[tuple[str, str], tuple[dict[str, float], str]] = {}
        self._chance: dict[tuple[str, str], bool] = {}
        self._scales: dict[str, dict[str, list[float]]] = {}

    @classmethod
    def of(cls, table: "Table") -> "Measured":
        """Return the table, indexed if it is not yet."""
        return table if isinstance(table, cls) else cls(table)  # type: ignore[arg-type]

    @cached_property
    def rows(self) -> dict[str, pd.DataFrame]:
        """The rows of each metric, in the order of the table."""
        return {str(name): part for name, part in self.table.groupby("metric", sort=False)}

    @cached_property
    def directions(self) -> dict[str, bool]:
        """Whether higher is better, for the metrics that declare it."""
        known = self.table.dropna(subset="higher_is_better").drop_duplicates("metric")
        return dict(zip(known["metric"], known["higher_is_better"].astype(bool), strict=True))

    def runs(self, metric: str) -> dict[str, Runs]:
        """Return the runs of a metric by backbone (empty: of the tokenizer itself)."""
        if metric not in self._runs and metric in self.rows:
            optimum = {name: k for k, name in enumerate(self.tokenizers["tokenizer"])}
            parts = self.rows[metric].groupby("backbone", sort=False)
            self._runs[metric] = {str(name): Runs.of(part, optimum) for name, part in parts}
        return self._runs.get(metric, {})

    def scales(self, target: str) -> dict[str, list[float]]:
        """Return the guidance scales of a target by backbone, computed once."""
        if target not in self._scales:
            parts = self.rows[target].groupby("backbone", sort=False)["guidance"]
            self._scales[target] = {
                str(n): sorted(map(float, p.dropna().unique())) for n, p in parts
            }
        return self._scales[target]

    def best_guidance(self, target: str, backbone: str) -> tuple[dict[str, float], str]:
        """Return ``best_guidance`` of the table, computed once."""
        key = (target, backbone)
        if key not in self._best:
            self._best[key] = _best_guidance(self, target, backbone)
        return self._best[key]

    def at_chance(self, metric: str, family: str) -> bool:
        """Return ``at_chance`` of the table, computed once."""
        key = (metric, family)
        if key not in self._chance:
            self._chance[key] = _at_chance(self, metric, family)
        return self._chance[key]

    def cells(self, metric: str, target: str, backbone: str, guidance: Guidance) -> Cells:
        """Return ``cells`` of the table, computed once."""
        key = (metric, target, backbone, guidance)
        if key not in self._cells:
            self._cells[key] = _cells(self, metric, target, backbone, guidance)
        return self._cells[key]


Table = pd.DataFrame | Measured


def targets(table: Table) -> list[str]:
    """Return the generation metrics of a table, in its order."""
    return [m for m in Measured.of(table).metrics if m.startswith(GENERATION)]


def headline_targets(table: Table) -> list[str]:
    """Return the generation metrics paired with every predictor (``HEADLINE_TARGETS``)."""
    return matching(targets(table), HEADLINE_TARGETS)


def matching(names: Sequence[str], patterns: Iterable[str]) -> list[str]:
    """Return the names that match shell patterns, in the patterns' order."""
    found = [name for pattern in patterns for name in names if fnmatchcase(name, pattern)]
    return list(dict.fromkeys(found))


def predictors(table: Table) -> list[str]:
    """Return the predictors: all metrics except those of generated images, and curves."""
    names = Measured.of(table).metrics
    return [m for m in names if not m.startswith((GENERATION, CONTROL)) and CURVE not in m]


def families(table: Table) -> list[str]:
    """Return every family in the order of the table; tokenizers of two are not comparable."""
    return Measured.of(table).families


def panels(table: Table, of: Sequence[str] | None = None) -> Iterator[Panel]:
    """Yield every target, backbone and guidance scale, then each tokenizer's best scale.

    The best scale is a separate panel only if there are several scales.

    Args:
        table: a checked tidy table. of: targets, by default every generation metric.
    """
    table = Measured.of(table)
    for target in targets(table) if of is None else of:
        for backbone, scales in table.scales(target).items():
            for guidance in scales:
                yield Panel(target, backbone, guidance)
            if len(scales) > 1:
                yield Panel(target, backbone, BEST)


def at_chance(table: Table, metric: str, family: str) -> bool:
    """Return whether a metric does not leave chance over the tokenizers of a family.

    The metric states its chance among its options. It leaves chance if its median over tokenizers
    exceeds ``ABOVE_CHANCE`` times that; a metric without a stated chance is never at chance.
    """
    return Measured.of(table).at_chance(metric, family)


def _at_chance(table: Measured, metric: str, family: str) -> bool:
    rows = table.rows.get(metric)
    if rows is None:
        return False
    rows = rows[(rows["family"] == family) & rows["value"].notna()]
    known = [json.loads(text or "{}").get("chance") for text in rows["options"]]
    chance = [float(value) for value in known if value]
    if not chance:
        return False
    median = rows.groupby("tokenizer")["value"].mean().median()
    return bool(median <= ABOVE_CHANCE * float(np.mean(chance)))


def stated_levels(table: Table, metric: str) -> dict[str, float]:
    """Return `chance` and `ceiling` of a metric, those of them that it states among its options.

    Means over the rows of the metric.
    """
    rows = Measured.of(table).rows.get(metric)
    options = [] if rows is None else [json.loads(text or "{}") for text in rows["options"]]
    stated = {name: [o[name] for o in options if name in o] for name in ("chance", "ceiling")}
    return {name: float(np.mean(values)) for name, values in stated.items() if values}


def higher_is_better(table: Table, metric: str) -> bool | None:
    """Return the declared direction of a metric, None if it has none or is missing."""
    return Measured.of(table).directions.get(metric)


def expected_sign(table: Table, metric: str, target: str) -> int | None:
    """Return the sign that a correlation has if the metric's declared direction is right."""
    table = Measured.of(table)
    x, y = higher_is_better(table, metric), higher_is_better(table, target)
    if x is None or y is None:
        return None
    return 1 if x == y else -1


def cells(table: Table, metric: str, target: str, backbone: str, guidance: Guidance) -> Cells:
    """Pair a metric with a target over every tokenizer of a table.

    Runs are matched before they are averaged: only tokenizer seeds that have both numbers count,
    and a metric of the diffusion model itself (``trajectory.*``, ``fisher.learned_*``) is matched
    run by run. Means are taken over the diffusion seeds of a trained tokenizer, then over its
    tokenizer seeds, so a tokenizer seed with many runs does not outweigh the others.

    Args:
        table: a checked tidy table (``check_measurements``).
        metric: the number on the x axis.
        target: the number on the y axis, usually ``generation.*``.
        backbone: diffusion network of the target; empty if the target is a tokenizer's metric.
        guidance: guidance scale; `BEST` takes each tokenizer at the scale with its best mean
            target; None if not applicable.

    Returns:
        Paired rows, the runs behind them, and what could not be paired with the reason. Standard
        errors come from repeated seeds if there are any, else from the measurement.
    """
    return Measured.of(table).cells(metric, target, backbone, guidance)


def _cells(table: Measured, metric: str, target: str, backbone: str, guidance: Guidance) -> Cells:
    y, problem = _target_runs(table, target, backbone, guidance)
    x, by_run = _metric_runs(table, metric, backbone)
    if by_run:
        x = x.at_scales_of(y)
    rows, runs, missing = pair(table.tokenizers, (metric, x), (target, y), by_run, problem)
    return Cells(rows, runs, missing)


def best_guidance(table: Table, target: str, backbone: str) -> tuple[dict[str, float], str]:
    """Return the guidance scale with the best mean target of every tokenizer.

    Returns:
        Scale by tokenizer (ties go to the smaller scale), and the reason if there is none.
    """
    return Measured.of(table).best_guidance(target, backbone)


def _best_guidance(table: Measured, target: str, backbone: str) -> tuple[dict[str, float], str]:
    better = higher_is_better(table, target)
    if better is None:
        return {}, f"{target} has no direction, so no guidance scale is best"
    rows = table.rows[target]
    chosen = rows[(rows["backbone"] == backbone) & rows["value"].notna()]
    trained = chosen.groupby(["tokenizer", "guidance", "tokenizer_seed"], sort=True)["value"].mean()
    means = trained.groupby(level=["tokenizer", "guidance"]).mean()
    by_tokenizer = means.groupby(level="tokenizer")
    optima = by_tokenizer.idxmax() if better else by_tokenizer.idxmin()
    return {str(tokenizer): float(scale) for tokenizer, scale in optima}, ""


def _target_runs(
    table: Measured, target: str, backbone: str, guidance: Guidance
) -> tuple[Runs, str]:
    """Return the target's runs, and the reason if there cannot be any (else empty)."""
    runs = table.runs(target).get(backbone, Runs.empty())
    if not backbone:
        return runs, ""
    if guidance is None:
        return runs.where(np.isnan(runs.guidance)), ""
    if guidance != BEST:
        return runs.where(runs.guidance == guidance), ""
    best, problem = table.best_guidance(target, backbone)
    scale = table.tokenizers["tokenizer"].map(best).to_numpy(float)
    return runs.where(runs.guidance == scale[runs.tokenizer]), problem


def _metric_runs(table: Measured, metric: str, backbone: str) -> tuple[Runs, bool]:
    """Return the metric's runs, and whether it is measured once per diffusion run."""
    by_backbone = table.runs(metric)
    by_run = any(by_backbone)
    return by_backbone.get(backbone if by_run else "", Runs.empty()), by_run
