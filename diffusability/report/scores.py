"""The score table of a report: one row per tokenizer, ranked within its family."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

import pandas as pd

from diffusability.analysis.answer import target_means
from diffusability.analysis.catalogue import name_metric, represented
from diffusability.analysis.equal_reconstruction import unequal
from diffusability.analysis.failed import failed_tokenizers
from diffusability.analysis.frames import rows_where
from diffusability.analysis.pairing import means_by_tokenizer
from diffusability.analysis.panels import Measured, Panel, higher_is_better, stated_levels
from diffusability.report.flags import direction, reading, to_read
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.metrics.metric_group import LEFT_OUT, is_left_out
from diffusability.study.preflight.class_sizes import lacking
from diffusability.study.study import Study

LeftOut = Mapping[str, Mapping[str, str]]
NOT_MEASURED = "the study does not measure it"
UNNAMED = ("1", "feature^2")  # units that say nothing to a reader


@dataclass(frozen=True)
class Places:
    """Where scored latent spaces lie among known ones, as the page of a score shows it.

    Attributes:
        about: sentences on what the known ones are.
        table: one row per metric, as words.
        picture: address of an image, or `data:` with it; empty: none.
        lists: sentences by their heading; headings without sentences are left out.
        first: sentences that the page begins with, on what diffusion models are expected to make
            of the spaces.
    """

    about: str
    table: pd.DataFrame
    picture: str = ""
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    first: Sequence[str] = ()


@dataclass(frozen=True)
class Cell:
    """A cell: text, number to sort by, rank in the family from 0 (worst) to 1, whether best.

    The rank is the share of the others of its family that are not better by more than noise; best
    are all that none beats so. Where noise hides every difference, all have rank 1/2.
    """

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
    failed: Collection[str] = ()  # tokenizers whose diffusion models failed
    gaps: Mapping[str, float] = field(default_factory=dict)  # see `_gaps`
    chance: float | None = None  # the value of latents that say nothing of a class

    @property
    def about(self) -> str:
        """Unit, direction and chance."""
        unit = "" if self.unit in UNNAMED else self.unit
        words = f"{direction(self.better)} is better" * (self.better is not None)
        chance = "" if self.chance is None else f"chance {self.chance:.2g}"
        return ", ".join(filter(None, (unit, words, chance)))

    def cell(self, tokenizer: str, family: list[str]) -> Cell:
        """Return the cell of a tokenizer, ranked among those of its family that have a value."""
        value = self.values.get(tokenizer, math.nan)
        if math.isnan(value):
            return Cell("")
        error = self.errors.get(tokenizer, math.nan)
        text = f"{value:.3g}" + ("" if math.isnan(error) else f" ± {error:.1g}")
        text += " †" * (tokenizer in self.failed)
        others = [v for name in family if not math.isnan(v := self.values.get(name, math.nan))]
        if self.better is None or len(others) < 2:
            return Cell(text, repr(value))
        sign, gap = 1 if self.better else -1, self.gaps.get(tokenizer, 0.0)
        if not max(others) - min(others) > gap:
            return Cell(text, repr(value), 0.5)
        lost = sum(sign * (v - value) > gap for v in others)
        return Cell(text, repr(value), 1 - lost / (len(others) - 1), not lost)


def score_columns(tables: Mapping[str, pd.DataFrame], target: str) -> list[Column]:
    """Return the target by backbone and guidance, reconstruction, and each perspective's metric."""
    measurements = tables["measurements"]
    indexed = Measured(measurements)
    units = measurements.drop_duplicates("metric").set_index("metric")["unit"]
    columns = []
    own = measurements[(measurements["metric"] == target) & measurements["value"].notna()]
    for _, part in own.groupby(["backbone", "guidance"], sort=False, dropna=False):
        backbone, guidance = part["backbone"].iloc[0], part["guidance"].iloc[0]
        scale = None if pd.isna(guidance) else float(guidance)
        words = "" if scale is None else f", guidance {scale:g}"
        panel, means = Panel(target, str(backbone), scale), means_by_tokenizer(part)
        failed = [failed_tokenizers(indexed, panel, family) for family in indexed.families]
        columns.append(
            Column(
                f"{name_metric(target)}, {backbone}{words}",
                str(units.get(target, "1")),
                higher_is_better(indexed, target),
                _numbers(means["value"]),
                _numbers(means["stderr"]),
                [name for own in failed for name in own],
                _gaps(tables, panel),
            )
        )
    judged = tables["tokenizers"].set_index("tokenizer")
    for name, column, unit, up in (("PSNR", "psnr", "dB", True), ("rFD", "rfd", "", False)):
        columns.append(Column(name, unit, up, _numbers(judged[column])))
    for metric, short in represented(measurements["metric"]).items():
        values = measurements[measurements["metric"] == metric].groupby("tokenizer")["value"].mean()
        better = higher_is_better(indexed, metric)
        chance = stated_levels(indexed, metric).get("chance")
        unit = str(units.get(metric, "1"))
        columns.append(Column(short, unit, better, _numbers(values), chance=chance))
    return [c for c in columns if any(not math.isnan(v) for v in c.values.values())]


def _gaps(tables: Mapping[str, pd.DataFrame], panel: Panel) -> dict[str, float]:
    """Return by how much two trainings of one tokenizer may differ, by tokenizer, if known."""
    floor, measurements = tables.get("noise_floor"), tables["measurements"]
    if floor is None or floor.empty:
        return {}
    own = rows_where(floor, **panel.labels).set_index("family")["resolvable_gap"].dropna()
    families = measurements.drop_duplicates("tokenizer").set_index("tokenizer")["family"]
    return {str(name): own[family] for name, family in families.items() if family in own.index}


def score_table(tables: Mapping[str, pd.DataFrame], target: str) -> dict[str, object]:
    """Return columns and rows of the score table, family by family, the best target first.

    Tokenizers that fell out have no rank.
    """
    measurements = tables["measurements"]
    known = measurements.drop_duplicates("tokenizer").set_index("tokenizer")
    columns, out = score_columns(tables, target), unequal(tables["tokenizers"])
    rows = []
    for family in dict.fromkeys(known["family"]):
        members = [str(name) for name in known.index[known["family"] == family]]
        ranked = [name for name in members if name not in out]
        order = [str(name) for name in target_means(measurements, target, str(family)).index]
        order += [name for name in members if name not in order]
        for name in order:
            rows.append(
                {
                    "tokenizer": name,
                    "family": family,
                    "cluster": known.loc[name, "cluster"],
                    "left_out": name in out,
                    "cells": [c.cell(name, ranked if name in ranked else []) for c in columns],
                }
            )
    return {"columns": columns, "rows": rows, "failed": any(c.failed for c in columns)}


def perspective_rows(
    measurements: pd.DataFrame, left_out: LeftOut = MappingProxyType({})
) -> pd.DataFrame:
    """Return one row per shown metric of the latents, with a column per tokenizer.

    Args:
        measurements: of the study. left_out: see `left_out_rows`.
    """
    own = measurements[_of_latents(measurements) & measurements["value"].notna()]
    indexed, rows = Measured(measurements), []
    names = dict.fromkeys([*map(str, measurements["tokenizer"].unique()), *left_out])
    for title, short, pattern in _shown():
        metric = next((name for name in own["metric"] if fnmatchcase(name, pattern)), None)
        if metric is None:
            continue
        measured = own[own["metric"] == metric]
        said = measured.assign(flags=measured["flags"].fillna(""))
        how = [
            reading(metric, json.loads(row["options"] or "{}"), row["flags"].split("; "))
            for row in said.to_dict("records")
        ]
        for words, part in said.groupby(pd.Series(how, said.index), sort=True):
            name = ", ".join(filter(None, (short, str(words))))
            means = means_by_tokenizer(part)
            column = Column(
                name,
                str(part["unit"].iloc[0]),
                higher_is_better(indexed, metric),
                _numbers(means["value"]),
                _numbers(means["stderr"]),
            )
            cells = {
                tokenizer: column.cell(tokenizer, []).text
                or LEFT_OUT * is_left_out(metric, left_out.get(tokenizer))
                for tokenizer in names
            }
            unit = "" if column.unit in UNNAMED else f" ({column.unit})"
            better = direction(column.better, stated_levels(indexed, metric).get("chance"))
            row = {"metric": name + unit, **cells, "better": better, "perspective": title}
            flags = dict.fromkeys(flag for text in part["flags"] for flag in text.split("; "))
            rows.append({**row, "read with care": "; ".join(to_read(flags))})
    table = pd.DataFrame(rows)
    if not table.empty and not table["read with care"].any():
        return table.drop(columns="read with care")
    return table


def left_out_rows(
    study: Study,
    measurements: pd.DataFrame,
    by_class: Mapping[str, Sequence[int]],
    left_out: LeftOut = MappingProxyType({}),
) -> pd.DataFrame:
    """Return what was not measured of which tokenizers, and why.

    Args:
        study: what was asked for. measurements: of it.
        by_class: images of every class, under "train" and "val".
        left_out: of a score: why metric groups and metrics have no value, by tokenizer, also of
            tokenizers of which the study measures nothing. Where it is given, groups that the study
            does not declare are left out without a word: the score says which of them it means.
    """
    names = dict.fromkeys([*study.selected_tokenizers, *left_out])
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for name in names:
        for what, reason in {**study.left_out(name), **left_out.get(name, {})}.items():
            reasons.setdefault((_words(what), reason), {})[name] = None
    empty = measurements[measurements["value"].isna() & _of_latents(measurements)]
    for _, short, pattern in _shown():
        for _, cell in empty[[fnmatchcase(m, pattern) for m in empty["metric"]]].iterrows():
            reason = str(cell["flags"]).removeprefix("not applicable: ")
            reasons.setdefault((short, reason), {})[str(cell["tokenizer"])] = None
    if not study.has_models and not left_out:
        too_few = dict(lacking(study, by_class, study.metrics.groups))
        for name, declared in METRIC_GROUPS.items():
            if declared.shows and name not in study.selected_metrics:
                reasons[declared.title, too_few.get(name, NOT_MEASURED)] = names
    rows = [
        (what, why, "all" if of.keys() == names.keys() else ", ".join(of))
        for (what, why), of in reasons.items()
    ]
    return pd.DataFrame(rows, columns=["metric", "reason", "tokenizers"])


def _words(what: str) -> str:
    """Return what the page calls a metric group or a metric."""
    if what in METRIC_GROUPS:
        return METRIC_GROUPS[what].title or what
    return next((short for _, short, pattern in _shown() if fnmatchcase(what, pattern)), what)


def _of_latents(measurements: pd.DataFrame) -> pd.Series:
    """Return which measurements are of no diffusion model."""
    return measurements["backbone"].fillna("").eq("")


def _shown() -> Iterator[tuple[str, str, str]]:
    """Yield perspective, short name and pattern of every metric that figures show, then PSNR."""
    for group in METRIC_GROUPS.values():
        for short, pattern in group.shows.items():
            yield group.title, short, pattern
    yield "reconstruction", "PSNR", "reconstruction.psnr"
    yield "reconstruction", "SSIM", "reconstruction.ssim"


def _numbers(values: pd.Series) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}
