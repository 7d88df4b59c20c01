"""Data of figures: the tables of one study, and the selection shown in one panel."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import pandas as pd

from diffusability.analysis.answer import largest_family
from diffusability.analysis.equal_reconstruction import compared
from diffusability.analysis.frames import rows_where
from diffusability.analysis.headline import guidance_words
from diffusability.analysis.measurements import read_tables, target_metric
from diffusability.analysis.panels import Measured, Panel, scales
from diffusability.analysis.snapshots import at_last_step
from diffusability.study.planning.plan import Plan

DRAWN = ("profiles", "spectra")  # collected tables of tokenizers, beside the measurements


@dataclass(frozen=True)
class Results:
    """The tables of a study, with the numbers of its tokenizers.

    Attributes:
        tables: by name; ``measurements`` is checked (``check_measurements``), the others are from
            ``analyse``. Tables that a study lacks are absent.
        numbers: position of each tokenizer in the study file, from 1 (the ID of Table 1).
        target: the Fréchet distance of generated images, lower is better; empty without models.
    """

    tables: Mapping[str, pd.DataFrame]
    numbers: Mapping[str, int]
    target: str

    @cached_property
    def last(self) -> Mapping[str, pd.DataFrame]:
        """The tables, each backbone at its last step, without tokenizers that fell out.

        Where all fell out, points of all are drawn; the tables then have no statistic for them.
        """
        tables = {name: at_last_step(table) for name, table in self.tables.items()}
        equal = compared(tables)
        out = set(tables["measurements"]["tokenizer"]) - set(equal["tokenizer"])
        drawn = {name: tables[name] for name in DRAWN if name in tables}
        drawn = {name: table[~table["tokenizer"].isin(out)] for name, table in drawn.items()}
        return tables | drawn | {"measurements": equal}

    @property
    def of_every_tokenizer(self) -> "Results":
        """The same results with the tokenizers that fell out among the others."""
        return replace(self, tables={k: v for k, v in self.tables.items() if k != "tokenizers"})

    @property
    def measurements(self) -> pd.DataFrame:
        """The tidy table, each backbone at its last step."""
        return self.last["measurements"]

    @cached_property
    def indexed(self) -> Measured:
        """``measurements`` for the functions of the analysis that pair metrics."""
        return Measured(self.measurements)

    @property
    def families(self) -> list[str]:
        """The tokenizer families, in the order of the table."""
        return self.indexed.families

    def measured(self, pattern: str) -> str | None:
        """Return the first metric that matches a shell pattern, or None."""
        names = dict.fromkeys(self.measurements["metric"])
        return next((name for name in names if fnmatchcase(name, pattern)), None)

    def row(self, table: str, **wanted: object) -> dict[str, Any] | None:
        """Return the first row of a table with the given column values, or None.

        None matches a missing cell. Without a `step`, the last one is meant.
        """
        frame = (self.tables if "step" in wanted else self.last).get(table)
        if frame is None:
            return None
        frame = rows_where(frame, **wanted)
        return None if frame.empty else {str(k): v for k, v in frame.iloc[0].items()}

    def statistic(self, table: str, name: str, **wanted: object) -> dict[str, Any] | None:
        """Return a row like ``row``, with one statistic as ``value`` and its intervals."""
        found = self.row(table, **wanted)
        if found is not None:
            found |= {"value": found[name]}
            found |= {end: found.get(f"{name}_{end}", math.nan) for end in ("low", "high")}
        return found


def read_results(plan: Plan, names: Sequence[str] | None = None) -> Results:
    """Return the written tables of a study.

    Args:
        plan: of the study. names: of the tables, by default all that the study has.

    Raises:
        ArtifactError: a table is missing, or contains measurements of another state of the study.
        MeasurementError: a file is not the table with its name.
    """
    numbers = {name: number for number, name in enumerate(plan.study.tokenizers, start=1)}
    return Results(read_tables(plan, names), numbers, target_metric(plan.study))


@dataclass(frozen=True)
class Scope(Panel):
    """The generation results of one panel and tokenizer family."""

    family: str

    @property
    def words(self) -> str:
        """The guidance scale in words."""
        return guidance_words(self.guidance)

    @property
    def where(self) -> str:
        """Backbone, guidance and family, for titles."""
        return f"{self.backbone}, {self.words}, {self.family}"

    def at(self, **changes: object) -> "Scope":
        """Return the scope with another backbone, guidance scale or family."""
        return replace(self, **changes)  # type: ignore[arg-type]


def backbones(results: Results, target: str) -> list[str]:
    """Return the backbones that have a target, in the order of the table."""
    return list(scales(results.indexed, target))


def guidance_scales(results: Results, target: str, backbone: str) -> list[float]:
    """Return the guidance scales of a target and backbone, ascending."""
    return scales(results.indexed, target).get(backbone, [])


def reference_scope(results: Results, target: str) -> Scope | None:
    """Return the default scope of figures, or None if the target was not measured.

    The first backbone, at its smallest guidance scale, and the largest family.
    """
    there = backbones(results, target)
    if not there:
        return None
    lowest = guidance_scales(results, target, there[0])
    family = largest_family(results.measurements)
    return Scope(target, there[0], lowest[0] if lowest else None, family)


def backbone_scopes(results: Results, target: str) -> Iterator[Scope]:
    """Yield the reference scope for every backbone, each at its smallest guidance scale."""
    reference = reference_scope(results, target)
    for backbone in backbones(results, target) if reference else []:
        lowest = guidance_scales(results, target, backbone)
        yield reference.at(backbone=backbone, guidance=lowest[0] if lowest else None)  # type: ignore[union-attr]
