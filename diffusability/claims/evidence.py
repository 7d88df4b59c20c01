"""The rows of a study's measurements that a claim speaks of."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from diffusability.analysis.estimators import FEWEST
from diffusability.analysis.failed import failed
from diffusability.analysis.pairing import UNITS
from diffusability.analysis.panels import (
    Measured,
    Panel,
    at_chance,
    best_guidance,
    expected_sign,
    higher_is_better,
    paired,
    panels,
    predictors,
    scales,
    together,
)
from diffusability.analysis.sampling import deviations, variance_relations
from diffusability.claims.claim import Selector, fits, named
from diffusability.claims.joint import RANGES, Row, Terms

# numbers of a tokenizer that are derived for claims alone
DEVIATION = "profile.deviation"  # mean |length ratio - 1| along its trajectories
EARLY = "profile.deviation_early"  # over the first two thirds of the way from noise: early, middle
LATE = "profile.deviation_late"  # over the last third
VARIANCE = "profile.variance"  # r of length ratio and irreducible variance along them
OPTIMUM = "guidance.best"
DISTANCE = ["generation.fd_*", "generation.fid"]
_DERIVED = (DEVIATION, EARLY, LATE, VARIANCE, OPTIMUM)
FEWEST_OF_FIT = 6  # tokenizers of a fit on two metrics
_SINGLE = ("sd", "mean", "share")  # statistics of one metric, without a target
_PARTS = {DEVIATION: (0.0, 1.0), EARLY: (0.0, 2 / 3), LATE: (2 / 3, 1.0)}  # of the way


class Evidence:
    """A study's measurements and sampling profiles, as claims see them."""

    def __init__(self, measurements: Measured, profiles: pd.DataFrame) -> None:
        """Number the tokenizers."""
        self.table, self.profiles = measurements, profiles
        self.place = {name: k for k, name in enumerate(measurements.tokenizers["tokenizer"])}
        self.clusters = measurements.tokenizers[UNITS].to_numpy(object)

    def terms(
        self, kind: str, plus: Sequence[Selector], minus: Sequence[Selector]
    ) -> tuple[Terms, list[str]]:
        """Return the rows that match the selectors of a claim, and why others are missing."""
        reasons: list[str] = []
        terms = [
            [list(self._rows(kind, selector, reasons)) for selector in side]
            for side in (plus, minus)
        ]
        if kind in RANGES:
            terms = [[_several(rows, RANGES[kind]) for rows in side] for side in terms]
        return Terms(*terms), list(dict.fromkeys(reasons))

    def _rows(self, kind: str, selector: Selector, reasons: list[str]) -> Iterator[Row]:
        """Yield the rows of one selector; append why candidates are left out."""
        families = [f for f in self.table.families if fits(f, selector.family)]
        names = [*predictors(self.table), *_DERIVED]
        metrics = [name for name in names if fits(name, selector.metric)]
        if not metrics:
            reasons.append(f"{', '.join(named(selector.metric))} was not measured")
            return
        candidates = list(self._candidates(kind, metrics, selector))
        if not candidates and kind != "shared":
            reasons.append("no such target, backbone or guidance scale")
        for panel, name in candidates:
            for family in families:
                found = self._row(kind, panel, name, family, selector)
                if isinstance(found, Row):
                    yield found
                else:
                    reasons.append(found)

    def _candidates(
        self, kind: str, metrics: Sequence[str], selector: Selector
    ) -> Iterator[tuple[Panel, str]]:
        """Yield each panel with the metric of one row; a metric itself may be the target."""
        match kind:
            case "sd":
                yield from ((Panel(name, "", None), name) for name in metrics)
            case "shared":
                yield from ((Panel(b, "", None), a) for a, b in combinations(metrics, 2))
            case _:
                for panel in self._panels(selector):
                    yield from ((panel, name) for name in metrics if name != panel.target)

    def _panels(self, selector: Selector) -> Iterator[Panel]:
        wanted = selector.target or DISTANCE
        single = wanted if isinstance(wanted, str) else ""
        if single in self.table.rows and not single.startswith("generation."):
            yield Panel(single, "", None)
            return
        # a study with one guidance scale has no panel for the best
        for panel in panels(self.table):
            matches = fits(panel.target, wanted) and fits(panel.backbone, selector.backbone)
            if matches and panel.guidance == selector.guidance:
                yield panel

    def _row(
        self, kind: str, panel: Panel, name: str, family: str, selector: Selector
    ) -> Row | str:
        """Return the row of a metric over the tokenizers of a family, or why there is none."""
        names = [name, *named(selector.given)]
        if reason := self._hindrance(kind, panel, names, family):
            return reason
        first, values = together([self._paired(panel, n, family) for n in names])
        x, given = values[:, :1], values[:, 1:]
        y = first["y"].to_numpy(float)[:, None]
        if selector.inside:
            low, high = selector.inside
            x = ((low <= x) & (x <= high)).astype(float)
        if kind in _SINGLE:
            y = y[:0]
        else:
            sign = self._sign(name, panel.target)
            assert sign is not None  # `_hindrance` refuses it
            x = x * sign
        row = Row(
            {**panel.labels, "family": family, "metric": name, "given": selector.given},
            first.index.map(self.place).to_numpy(np.int64),
            x,
            y,
            given if given.size else np.empty((0, 1)),
            selector.paper_value(name),
        )
        return _lack(kind, row) or row

    def _hindrance(self, kind: str, panel: Panel, names: Sequence[str], family: str) -> str:
        """Return why metrics cannot be judged by a panel, or empty."""
        if OPTIMUM in names and len(scales(self.table, panel.target).get(panel.backbone, ())) < 2:
            return "one guidance scale was sampled: none is best"
        if kind not in _SINGLE:
            if self._sign(names[0], panel.target) is None:
                return f"{names[0]} or {panel.target} has no declared direction"
            for metric in (*names, panel.target):
                if at_chance(self.table, metric, family):
                    return f"{metric} does not leave chance in {family}"
        if failed(self.table, panel, family):
            return f"generation failed ({panel.backbone}, {family})"
        return ""

    def _paired(self, panel: Panel, name: str, family: str) -> pd.DataFrame:
        """Return tokenizer, x and y of a metric, which may be derived."""
        if name not in _DERIVED:
            return paired(self.table, name, panel, family).rows
        rows = paired(self.table, panel.target, panel, family).rows
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


def _lack(kind: str, row: Row) -> str:
    """Return why a row has too little data, or empty."""
    n, metric, family = len(row.x), row.labels["metric"], row.labels["family"]
    if kind in _SINGLE:
        return f"{n} tokenizers of {family} have {metric}" if n < FEWEST else ""
    if kind == "fit" and n < FEWEST_OF_FIT:
        return f"{n} tokenizers of {family} are too few for a fit"
    if n < FEWEST:
        return f"{n} tokenizers have both values ({metric}, {family})"
    return f"the metric or the target is constant ({metric}, {family})" if row.constant else ""


def _several(rows: list[Row], fixed: str) -> list[Row]:
    """Return the rows of which another has the same metric, target and label ``fixed``."""
    keys = [(row.labels["metric"], row.labels[fixed], row.labels["target"]) for row in rows]
    return [row for row, key in zip(rows, keys, strict=True) if keys.count(key) > 1]
