"""The score table of a report: one row per tokenizer, ranked within its family."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from diffusability.analysis.answer import target_means
from diffusability.analysis.catalogue import HEADLINE_METRICS, name_metric
from diffusability.analysis.equal_reconstruction import unequal
from diffusability.analysis.panels import higher_is_better

ARROWS = {True: "higher is better", False: "lower is better", None: ""}


@dataclass(frozen=True)
class Cell:
    """A cell: text, number to sort by, rank in the family from 0 (worst) to 1, whether best."""

    text: str
    order: str = ""
    rank: float = math.nan
    best: bool = False

    @property
    def ranked(self) -> bool:
        """Whether the cell has a rank."""
        return not math.isnan(self.rank)


@dataclass(frozen=True)
class Column:
    """A column of numbers: value and standard error of each tokenizer, and the better direction."""

    name: str
    unit: str
    better: bool | None
    values: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """Unit and direction."""
        return ", ".join(filter(None, ("" if self.unit == "1" else self.unit, ARROWS[self.better])))

    def cell(self, tokenizer: str, family: list[str]) -> Cell:
        """Return the cell of a tokenizer, ranked among those of its family that have a value."""
        value = self.values.get(tokenizer, math.nan)
        if math.isnan(value):
            return Cell("")
        error = self.errors.get(tokenizer, math.nan)
        text = f"{value:.3g}" + ("" if math.isnan(error) else f" ± {error:.1g}")
        others = [v for name in family if not math.isnan(v := self.values.get(name, math.nan))]
        if self.better is None or len(others) < 2:
            return Cell(text, repr(value))
        below = sum(v < value if self.better else v > value for v in others)
        best = value == (max(others) if self.better else min(others))
        return Cell(text, repr(value), below / (len(others) - 1), best)


def score_columns(tables: Mapping[str, pd.DataFrame], target: str) -> list[Column]:
    """Return the target by backbone and guidance, reconstruction, and the headline metrics."""
    measurements = tables["measurements"]
    units = measurements.drop_duplicates("metric").set_index("metric")["unit"]
    columns = []
    own = measurements[(measurements["metric"] == target) & measurements["value"].notna()]
    for (backbone, guidance), part in own.groupby(
        ["backbone", "guidance"], sort=False, dropna=False
    ):
        scale = "" if guidance != guidance else f", guidance {guidance:g}"
        better = higher_is_better(measurements, target)
        by_name = part.groupby("tokenizer")
        columns.append(
            Column(
                f"{name_metric(target)}, {backbone}{scale}",
                str(units.get(target, "1")),
                better,
                _numbers(by_name["value"].mean()),
                _numbers(by_name.apply(_error)),
            )
        )
    judged = tables["tokenizers"].set_index("tokenizer")
    for name, column, unit, better in (("PSNR", "psnr", "dB", True), ("rFD", "rfd", "", False)):
        columns.append(Column(name, unit, better, _numbers(judged[column])))
    for short, metric in HEADLINE_METRICS.items():
        values = measurements[measurements["metric"] == metric].groupby("tokenizer")["value"].mean()
        better = higher_is_better(measurements, metric)
        columns.append(Column(short, str(units.get(metric, "1")), better, _numbers(values)))
    return [c for c in columns if any(not math.isnan(v) for v in c.values.values())]


def score_table(tables: Mapping[str, pd.DataFrame], target: str) -> dict[str, object]:
    """Return columns and rows of the score table, family by family, the best target first."""
    measurements = tables["measurements"]
    known = measurements.drop_duplicates("tokenizer").set_index("tokenizer")
    columns, out = score_columns(tables, target), unequal(tables["tokenizers"])
    rows = []
    for family in dict.fromkeys(known["family"]):
        members = [str(name) for name in known.index[known["family"] == family]]
        ranked = [str(name) for name in target_means(measurements, target, str(family)).index]
        ranked += [name for name in members if name not in ranked]
        for name in ranked:
            rows.append(
                {
                    "tokenizer": name,
                    "family": family,
                    "cluster": known.loc[name, "cluster"],
                    "left_out": name in out,
                    "cells": [column.cell(name, members) for column in columns],
                }
            )
    return {"columns": columns, "rows": rows}


def _numbers(values: pd.Series) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


def _error(cell: pd.DataFrame) -> float:
    """Return the standard error over seeds if there are several, else that of the measurement."""
    if len(cell) > 1:
        return float(cell["value"].std(ddof=1) / len(cell) ** 0.5)
    return float(cell["stderr"].iloc[0])
