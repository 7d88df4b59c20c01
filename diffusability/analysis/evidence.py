"""The rows of a study's measurements that a claim speaks of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from diffusability.analysis.claims import paper_value
from diffusability.analysis.joint import FEWEST, Row, Terms
from diffusability.analysis.panels import (
    Measured,
    Panel,
    at_chance,
    best_guidance,
    cells,
    expected_sign,
    higher_is_better,
    panels,
    predictors,
)
from diffusability.analysis.panels import (
    families as families_of,
)
from diffusability.analysis.sampling import deviations, variance_relations
from diffusability.analysis.selection import fits, named
from diffusability.study.tables import BEST

# numbers of a tokenizer that are derived for claims alone
DEVIATION = "profile.deviation"  # mean |length ratio - 1| along its trajectories
EARLY = "profile.deviation_early"  # over the first two thirds of the way from noise: early, middle
LATE = "profile.deviation_late"  # over the last third
VARIANCE = "profile.variance"  # r of length ratio and irreducible variance along them
OPTIMUM = "guidance.best"
DISTANCE = ("generation.fd_*", "!generation.fd_infinity_*", "generation.fid")
_DERIVED = (DEVIATION, EARLY, LATE, VARIANCE, OPTIMUM)
_PARTS = {DEVIATION: (0.0, 1.0), EARLY: (0.0, 2 / 3), LATE: (2 / 3, 1.0)}  # of the way


@dataclass(frozen=True)
class Evidence:
    """The rows of a claim, and why others are missing."""

    terms: Terms
    reasons: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every term has a row."""
        return all((*self.terms.plus, *self.terms.minus)) and bool(self.terms.plus)


class Study:
    """A study's measurements and sampling profiles, as claims see them."""

    def __init__(self, measurements: Measured, profiles: pd.DataFrame) -> None:
        """Number the tokenizers."""
        self.table, self.profiles = measurements, profiles
        self.place = {name: k for k, name in enumerate(measurements.tokenizers["tokenizer"])}
        self.clusters = measurements.tokenizers["cluster"].to_numpy(object)

    def evidence(
        self, kind: str, plus: tuple[Mapping[str, Any], ...], minus: tuple[Mapping[str, Any], ...]
    ) -> Evidence:
        """Return the rows that match the selectors of a claim."""
        reasons: list[str] = []
        terms = [
            [list(self._rows(kind, selector, reasons)) for selector in side]
            for side in (plus, minus)
        ]
        if kind == "range":
            terms = [[_several(rows) for rows in side] for side in terms]
        return Evidence(Terms(*terms), tuple(dict.fromkeys(reasons)))

    def _rows(self, kind: str, selector: Mapping[str, Any], reasons: list[str]) -> Iterator[Row]:
        """Yield the rows of one selector; append why candidates are left out."""
        families = [f for f in families_of(self.table) if fits(f, selector.get("family"))]
        names = [*predictors(self.table), *_DERIVED]
        metrics = [name for name in names if fits(name, selector["metric"])]
        if not metrics:
            reasons.append(f"{', '.join(named(selector['metric']))} was not measured")
            return
        if kind == "sd":
            for name in metrics:
                for family in families:
                    part = cells(self.table, name, name, "", None).of_family(family)
                    yield from self._single(name, family, part.rows, "x", reasons)
            return
        if kind == "shared":
            pairs = [(Panel(b, "", None), a) for a, b in combinations(metrics, 2)]
        else:
            pairs = [(panel, name) for panel in self._panels(selector) for name in metrics]
            if not pairs and metrics:
                reasons.append("no such target, backbone or guidance scale")
        for panel, name in pairs if kind != "fit" else [(p, "") for p, _ in pairs[:: len(metrics)]]:
            for family in families:
                if kind == "fit":
                    yield from self._fit(panel, metrics, family, selector, reasons)
                elif kind in ("mean", "share"):
                    yield from self._number(panel, name, family, selector, reasons)
                else:
                    yield from self._pair(panel, name, family, selector, reasons)

    def _panels(self, selector: Mapping[str, Any]) -> Iterator[Panel]:
        wanted = selector.get("target", DISTANCE)
        single = wanted if isinstance(wanted, str) else ""
        if single in self.table.rows and not single.startswith("generation."):
            yield Panel(single, "", None)
            return
        # a study with one guidance scale has no panel for the best
        for panel in panels(self.table):
            matches = fits(panel.target, wanted) and fits(panel.backbone, selector.get("backbone"))
            if matches and panel.guidance == selector.get("guidance", 1):
                yield panel

    def _pair(
        self, panel: Panel, name: str, family: str, selector: Mapping[str, Any], reasons: list[str]
    ) -> Iterator[Row]:
        if name == panel.target or self._without_optimum(panel, name, reasons):
            return
        sign = self._sign(name, panel.target)
        if sign is None:
            reasons.append(f"{name} or {panel.target} has no declared direction")
            return
        for metric in (name, panel.target):
            if at_chance(self.table, metric, family):
                reasons.append(f"{metric} does not leave chance in {family}")
                return
        if failed(self.table, panel, family):
            reasons.append(f"generation failed ({panel.backbone}, {family})")
            return
        rows = self._paired(panel, name, family)
        given = np.empty((0, 1))
        if "given" in selector:
            held = self._paired(panel, selector["given"], family).set_index("tokenizer")["x"]
            rows = rows[rows["tokenizer"].isin(held.index)]
            given = rows["tokenizer"].map(held).to_numpy(float)[:, None]
        x, y = (rows[side].to_numpy(float)[:, None] for side in "xy")
        labels = {**panel.labels, "family": family, "metric": name}
        row = Row(labels, self._index(rows), sign * x, y, given, paper_value(selector, name))
        yield from _usable(row, reasons)

    def _paired(self, panel: Panel, name: str, family: str) -> pd.DataFrame:
        """Return tokenizer, x and y of a metric, which may be derived."""
        where = (panel.target, panel.backbone, panel.guidance)
        if name not in _DERIVED:
            return cells(self.table, name, *where).of_family(family).rows
        rows = cells(self.table, panel.target, *where).of_family(family).rows
        own = rows["tokenizer"].map(self._derived(panel, name)).astype(float)
        return rows.assign(x=own)[own.notna()]

    def _derived(self, panel: Panel, name: str) -> Mapping[str, float]:
        if name == OPTIMUM:
            return best_guidance(self.table, panel.target, panel.backbone)[0]
        if name in _PARTS:
            return deviations(self.profiles, panel.backbone, panel.guidance, _PARTS[name])
        return variance_relations(self.table, self.profiles, panel.backbone, panel.guidance)

    def _sign(self, name: str, target: str) -> int | None:
        if name in _DERIVED:  # a smaller deviation and a smaller optimum are said to be better
            better = higher_is_better(self.table, target)
            return None if better is None else (-1 if better else 1)
        return expected_sign(self.table, name, target)

    def _number(
        self, panel: Panel, name: str, family: str, selector: Mapping[str, Any], reasons: list[str]
    ) -> Iterator[Row]:
        if self._without_optimum(panel, name, reasons):
            return
        if failed(self.table, panel, family):
            reasons.append(f"generation failed ({panel.backbone}, {family})")
            return
        rows = self._paired(panel, name, family)
        if "inside" in selector:
            rows = rows.assign(x=rows["x"].between(*selector["inside"]).astype(float))
        for row in self._single(name, family, rows, "x", reasons, panel):
            yield replace(row, paper=paper_value(selector, name))

    def _without_optimum(self, panel: Panel, name: str, reasons: list[str]) -> bool:
        """Return whether a best guidance scale is asked for where only one was sampled."""
        rows = self.table.rows.get(panel.target)
        if name != OPTIMUM or rows is None:
            return False
        scales = rows.loc[rows["backbone"] == panel.backbone, "guidance"].nunique()
        if scales < 2:
            reasons.append("one guidance scale was sampled: none is best")
        return bool(scales < 2)

    def _single(
        self,
        name: str,
        family: str,
        rows: pd.DataFrame,
        column: str,
        reasons: list[str],
        panel: Panel | None = None,
    ) -> Iterator[Row]:
        labels = {**(panel.labels if panel else {}), "family": family, "metric": name}
        x = rows[column].to_numpy(float)[:, None]
        row = Row(labels, self._index(rows), x)
        if len(x) < FEWEST:
            reasons.append(f"{len(x)} tokenizers of {family} have {name}")
        else:
            yield row

    def _fit(
        self,
        panel: Panel,
        metrics: list[str],
        family: str,
        selector: Mapping[str, Any],
        reasons: list[str],
    ) -> Iterator[Row]:
        parts = [self._paired(panel, name, family).set_index("tokenizer") for name in metrics]
        shared = parts[0].index[np.all([parts[0].index.isin(p.index) for p in parts], axis=0)]
        first = parts[0].loc[shared].reset_index()
        x = np.column_stack([part.loc[shared, "x"] for part in parts])
        if len(x) < len(metrics) + 4:
            reasons.append(f"{len(x)} tokenizers of {family} are too few for a fit")
        elif any(at_chance(self.table, name, family) for name in metrics):
            reasons.append(f"a metric does not leave chance in {family}")
        elif failed(self.table, panel, family):
            reasons.append(f"generation failed ({panel.backbone}, {family})")
        else:
            labels = {**panel.labels, "family": family, "metric": " + ".join(metrics)}
            y = first["y"].to_numpy(float)[:, None]
            paper = paper_value(selector, metrics[0])
            yield from _usable(Row(labels, self._index(first), x, y, paper=paper), reasons)

    def _index(self, rows: pd.DataFrame) -> np.ndarray:
        return rows["tokenizer"].map(self.place).to_numpy(np.int64)


def failed(table: Measured, panel: Panel, family: str) -> bool:
    """Return whether generation failed for most tokenizers of a panel and family.

    The column ``failed`` of the measurements marks runs whose images are no better than a control
    without learning, or whose classes are at chance.
    """
    rows = table.rows.get(panel.target)
    if rows is None or not panel.backbone or "failed" not in rows:
        return False
    own = rows[(rows["backbone"] == panel.backbone) & (rows["family"] == family)]
    if panel.guidance not in (None, BEST):
        own = own[own["guidance"] == panel.guidance]
    marks = own["failed"].fillna(False).astype(bool)
    return bool(len(own)) and bool(marks.groupby(own["tokenizer"]).mean().gt(0.5).mean() > 0.5)


def _usable(row: Row, reasons: list[str]) -> Iterator[Row]:
    where = ", ".join(str(row.labels[name]) for name in ("metric", "family"))
    if len(row.x) < FEWEST:
        reasons.append(f"{len(row.x)} tokenizers have both values ({where})")
    elif row.constant:
        reasons.append(f"the metric or the target is constant ({where})")
    else:
        yield row


def _several(rows: list[Row]) -> list[Row]:
    """Return the rows of metrics and families with more than one backbone."""
    keys = [(row.labels["metric"], row.labels["family"], row.labels["target"]) for row in rows]
    return [row for row, key in zip(rows, keys, strict=True) if keys.count(key) > 1]
