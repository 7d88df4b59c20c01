"""The panels of a table of measurements, and a metric paired with a target in each."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusability.analysis.catalogue import HEADLINE_TARGETS
from diffusability.analysis.pairing import IDENTITY, Cells, means_by_tokenizer
from diffusability.analysis.snapshots import at_last_step
from diffusability.study.planning.tables import BEST

_RUN = ["tokenizer", "tokenizer_seed", "seed", "guidance"]
GENERATION = "generation."
CONTROL = "control."  # what `generation.` is of samples of a diffusion model
CURVE = ".curve_"
ABOVE_CHANCE = 1.25  # a metric leaves chance if its median is above this multiple of it
Guidance = float | str | None
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Panel:
    """The generation results of one target, backbone and guidance scale.

    Attributes:
        target: generation metric.
        backbone: diffusion network; empty if the target is measured on the tokenizer itself.
        guidance: guidance scale; `BEST`: that of each tokenizer with its best mean target; None
            if not applicable.
    """

    target: str
    backbone: str
    guidance: Guidance

    @property
    def labels(self) -> dict[str, object]:
        """The panel as columns of a result table."""
        return {"target": self.target, "backbone": self.backbone, "guidance": self.guidance}


class Measured:
    """A checked table of measurements (``check_measurements``) with an index of metrics.

    Every function of the analysis accepts a table or a ``Measured``; sharing one ``Measured``
    avoids pairing the same metric and target again. The table must not be changed.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        """Index a table, each backbone at its last step."""
        self.table = table = at_last_step(table)
        self.tokenizers = table[IDENTITY].drop_duplicates("tokenizer").reset_index(drop=True)
        self.metrics = list(dict.fromkeys(table["metric"]))
        # in the order of the table; tokenizers of two are not comparable
        self.families = list(dict.fromkeys(table["family"]))
        self.known: dict[tuple[object, ...], Any] = {}  # results of functions of the table

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


Table = pd.DataFrame | Measured


def _once(
    function: Callable[Concatenate[Measured, Arguments], Result],
) -> Callable[Concatenate[Table, Arguments], Result]:
    """Index the table that a function takes first, and keep the result with it."""

    @wraps(function)
    def kept(table: Table, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        table = Measured.of(table)
        key = (function.__name__, args, *kwargs.items())
        if key not in table.known:
            table.known[key] = function(table, *args, **kwargs)
        found: Result = table.known[key]
        return found

    return kept


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


def panels(table: Table, of: Sequence[str] | None = None) -> Iterator[Panel]:
    """Yield every target, backbone and guidance scale, then each tokenizer's best scale.

    The best scale is a separate panel only if there are several scales. By default the targets are
    all generation metrics.
    """
    table = Measured.of(table)
    for target in targets(table) if of is None else of:
        for backbone, known in scales(table, target).items():
            for guidance in known:
                yield Panel(target, backbone, guidance)
            if len(known) > 1:
                yield Panel(target, backbone, BEST)


@_once
def scales(table: Measured, target: str) -> dict[str, list[float]]:
    """Return the guidance scales of a target by backbone, ascending."""
    rows = table.rows.get(target, table.table.iloc[:0])
    parts = rows.groupby("backbone", sort=False)["guidance"]
    return {str(name): sorted(map(float, part.dropna().unique())) for name, part in parts}


@_once
def at_chance(table: Measured, metric: str, family: str) -> bool:
    """Return whether a metric does not leave chance over the tokenizers of a family.

    It leaves chance if its median over tokenizers exceeds ``ABOVE_CHANCE`` times the chance that it
    states; a metric without a stated chance is never at chance.
    """
    chance = stated_levels(table, metric).get("chance")
    if chance is None:
        return False
    rows = table.rows[metric]
    median = rows[rows["family"] == family].groupby("tokenizer")["value"].mean().median()
    return bool(median <= ABOVE_CHANCE * chance)


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


@_once
def cells(table: Measured, metric: str, target: str, backbone: str, guidance: Guidance) -> Cells:
    """Pair a metric (x) with the target (y) of a panel over every tokenizer of a table."""
    y, problem = _runs(table, target, backbone), ""
    if backbone and guidance is None:
        y = y[y["guidance"].isna()]
    elif backbone and guidance == BEST:
        best, problem = best_guidance(table, target, backbone)
        y = y[y["guidance"] == y["tokenizer"].map(best)]
    elif backbone:
        y = y[y["guidance"] == guidance]
    by_run = metric in table.rows and bool((table.rows[metric]["backbone"] != "").any())
    x, keys = _runs(table, metric, backbone if by_run else ""), _RUN if by_run else _RUN[:2]
    if by_run:
        of_target = y.groupby("tokenizer")["guidance"].first()
        scale = x["tokenizer"].map(of_target).astype(float)
        # a trained model's metric without a scale (``fisher.learned_*``) holds at every one
        x = x.assign(guidance=scale) if x["guidance"].isna().all() else x[x["guidance"] == scale]
    sides = y.rename(columns={"value": "y", "stderr": "y_stderr"}).merge(
        x[[*keys, "value", "stderr"]].rename(columns={"value": "x", "stderr": "x_stderr"}),
        how="outer",
        on=keys,
    )
    whole = sides["x"].notna() & sides["y"].notna()
    runs = sides[whole]
    means = runs.groupby("tokenizer")[["guidance"]].first()
    means = means.join(means_by_tokenizer(runs, {"x": "x_stderr", "y": "y_stderr"}))
    rows = table.tokenizers.merge(means, left_on="tokenizer", right_index=True)
    lost = table.tokenizers[~table.tokenizers["tokenizer"].isin(rows["tokenizer"])]
    there = {name: set(side["tokenizer"]) for name, side in ((metric, x), (target, y))}
    parts = (
        rows,
        runs[["tokenizer", "tokenizer_seed", "seed", "x", "y"]],
        lost.assign(reason=[problem or _absence(name, there) for name in lost["tokenizer"]]),
        rows[["tokenizer"]].merge(sides.loc[~whole, ["tokenizer"]]),
    )
    return Cells(*(part.reset_index(drop=True) for part in parts))


def _absence(tokenizer: str, there: Mapping[str, set[str]]) -> str:
    """Return why a tokenizer has no pair, from the tokenizers of each metric."""
    absent = [name for name, tokenizers in there.items() if tokenizer not in tokenizers]
    return f"no value of {' and '.join(absent)}" if absent else "no seed has both values"


@_once
def paired(table: Measured, metric: str, panel: Panel, family: str) -> Cells:
    """Return ``cells`` of a metric and the target of a panel, for one family."""
    found = cells(table, metric, panel.target, panel.backbone, panel.guidance)
    return found.of_family(family)


def paired_together(
    table: Table, metrics: Sequence[str], panel: Panel, family: str
) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return the n tokenizers of a family that have the target and all m metrics (``together``)."""
    return together([paired(table, name, panel, family).rows for name in metrics])


def together(parts: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return the rows of the first part whose n tokenizers all m parts have, and (n, m) x.

    Parts are rows of ``Cells``; the index of the result is the tokenizer.
    """
    indexed = [part.set_index("tokenizer") for part in parts]
    rows = indexed[0]
    for part in indexed:
        rows = rows[rows.index.isin(part.index)]
    return rows, np.column_stack([part["x"].reindex(rows.index) for part in indexed])


@_once
def _runs(table: Measured, metric: str, backbone: str) -> pd.DataFrame:
    """Return the runs of a metric that have a value; without a backbone, of the tokenizers."""
    rows = table.rows.get(metric, table.table.iloc[:0])
    rows = rows[(rows["backbone"] == backbone) & rows["value"].notna()]
    return rows[[*_RUN, "value", "stderr"]].astype(dict.fromkeys(_RUN[1:], float))


@_once
def best_guidance(table: Measured, target: str, backbone: str) -> tuple[dict[str, float], str]:
    """Return the guidance scale with the best mean target of every tokenizer.

    Returns:
        Scale by tokenizer (ties go to the smaller scale), and the reason if there is none.
    """
    better = higher_is_better(table, target)
    if better is None:
        return {}, f"{target} has no direction, so no guidance scale is best"
    rows = table.rows[target]
    means = means_by_tokenizer(rows[rows["backbone"] == backbone], by=["tokenizer", "guidance"])
    by_tokenizer = means["value"].sort_index().groupby("tokenizer")
    optima = by_tokenizer.idxmax() if better else by_tokenizer.idxmin()
    return {str(tokenizer): float(scale) for tokenizer, scale in optima}, ""
