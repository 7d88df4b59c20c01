"""The answer of a study in one sentence: what predicts generation, or why it cannot tell."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from diffusability.analysis.catalogue import PERSPECTIVES, REPRESENTATIVES, name_metric
from diffusability.analysis.correlation import at_smallest_guidance, sign, turned
from diffusability.analysis.declared import declared_sentence
from diffusability.analysis.equal_reconstruction import compared
from diffusability.analysis.failed import failed
from diffusability.analysis.joint import FEWEST
from diffusability.analysis.panels import (
    Measured,
    Panel,
    higher_is_better,
    means_by_tokenizer,
    scales,
)

LEVEL = 0.05  # of the test after correction for every metric and backbone
CANNOT = "This study cannot tell which latent space a diffusion model learns well, because "

NO_MODELS = "This study has no diffusion models: it measures the latent spaces alone"


@dataclass(frozen=True)
class Turned:
    """A correlation, turned so that positive means: a better metric goes with better images.

    Attributes:
        short, perspective: names of the metric. metric: its full name. backbone, guidance, family:
            of the panel. r, low, high: with its interval over clusters; ends may be NaN.
        p: of the interval, corrected for every metric and backbone; may be NaN.
        partial: r, low, high given PSNR. without: smallest and largest r without any one tokenizer.
        directed: whether the metric declares a direction; without one, r is not turned.
        row: of the table of correlations.
    """

    short: str
    perspective: str
    metric: str
    backbone: str
    guidance: float
    family: str
    r: float
    low: float
    high: float
    p: float
    partial: tuple[float, float, float]
    without: tuple[float, float]
    directed: bool
    row: Mapping[Any, Any]

    @property
    def known(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low * self.high > 0

    @property
    def settled(self) -> bool:
        """Whether the sign stays after the correction and without any one tokenizer."""
        return self.known and self.p <= LEVEL and self.without[0] * self.without[1] > 0

    @property
    def interval(self) -> str:
        """The correlation and its interval in words."""
        if math.isnan(self.low):
            return f"r = {self.r:.2f}, no interval"
        return f"r = {self.r:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Answer:
    """What a study found.

    Attributes:
        sentence: the answer with its uncertainty, or why there is none. details: further sentences.
        decided: whether the study can tell.
        strongest: the correlation that the sentence is about, or the largest that is known.
        best, worst: tokenizers with the best and the worst target on the backbone of that
            correlation; empty without a target.
    """

    sentence: str
    details: tuple[str, ...] = ()
    decided: bool = False
    strongest: Turned | None = None
    best: str = ""
    worst: str = ""


def answer(tables: Mapping[str, pd.DataFrame], target: str) -> Answer:
    """Return the answer of a study from its tables.

    Args:
        tables: measurements and correlations, each backbone at its last step; tokenizers and
            noise_floor if known. Tokenizers that fell out do not count.
        target: the generation metric that is to be predicted; empty without diffusion models.

    Returns:
        The answer for the largest family, at the smallest guidance scale of every backbone. A
        perspective is named if the interval of its metric leaves out zero, p is at most ``LEVEL``
        after Holm's correction over metrics and Bonferroni's over backbones, and no single
        tokenizer carries it.
    """
    if not target:
        return Answer(f"{NO_MODELS}.")
    measurements = compared(tables)
    tables = {**tables, "measurements": measurements}
    family = largest_family(measurements)
    scores = target_means(measurements, target, family)
    if scores.empty:
        return Answer(f"{CANNOT}no generated images were measured.")
    found, reason = testable(tables, target, family)
    if not found:
        every = turned_correlations(tables["correlations"], target, family)
        drawn = strongest(every) if every else None
        if drawn is not None:
            scores = target_means(measurements, target, family, drawn.backbone)
        best, worst = _ends(scores)
        return Answer(CANNOT + reason + ".", strongest=drawn, best=best, worst=worst)
    first = strongest(found)
    scores = target_means(measurements, target, family, first.backbone)
    best, worst = _ends(scores)
    if first.settled:
        sentence = _decided(first, found, target, bool(higher_is_better(measurements, target)))
    else:
        sentence = CANNOT + _doubt(first, found) + "."
    tested = declared_sentence(tables["declared_tests"]) if "declared_tests" in tables else ""
    details = _details(first, found, scores, tables.get("noise_floor"), target)
    details = (f"{tested}.", *details) if tested else details
    return Answer(sentence, details, first.settled, first, best, worst)


def largest_family(measurements: pd.DataFrame) -> str:
    """Return the largest family; tokenizers of different families are not comparable."""
    members = measurements.drop_duplicates("tokenizer")["family"].value_counts(sort=False)
    return str(members.idxmax())


def _ends(scores: pd.Series) -> tuple[str, str]:
    """Return the tokenizers with the best and the worst score; empty if it is the same one."""
    best, worst = str(scores.index[0]), str(scores.index[-1])
    return best, worst if worst != best else ""


def target_means(
    measurements: pd.DataFrame, target: str, family: str, backbone: str = ""
) -> pd.Series:
    """Return the target of each tokenizer of a family, best first.

    It is the mean over trainings, at the smallest guidance scale of a backbone, by default the
    first.
    """
    rows = measurements[(measurements["metric"] == target) & measurements["value"].notna()]
    rows = rows[rows["family"] == family]
    if rows.empty:
        return pd.Series(dtype=float)
    rows = rows[rows["backbone"] == (backbone or rows["backbone"].iloc[0])]
    rows = rows[rows["guidance"].fillna(-1) == rows["guidance"].fillna(-1).min()]
    up = bool(higher_is_better(measurements, target))
    return means_by_tokenizer(rows)["value"].sort_values(ascending=not up)


def turned_correlations(correlations: pd.DataFrame, target: str, family: str) -> list[Turned]:
    """Return the correlations of every perspective's metric, at the smallest guidance scales."""
    rows = correlations[(correlations["target"] == target) & (correlations["family"] == family)]
    rows = at_smallest_guidance(rows[rows["pearson"].notna()])
    panels = max(1, rows["backbone"].nunique())
    titles = {short: title for title, shows in PERSPECTIVES.items() for short in shows}
    return [
        _turn(row, short, titles[short], panels)
        for short, pattern in REPRESENTATIVES.items()
        for row in rows.to_dict("records")
        if fnmatchcase(row["metric"], pattern)
    ]


def testable(
    tables: Mapping[str, pd.DataFrame], target: str, family: str
) -> tuple[list[Turned], str]:
    """Return the correlations that can say something, or the reason why none can."""
    measured = Measured.of(tables["measurements"])
    size = int((measured.tokenizers["family"] == family).sum())
    few = f"it has {size} tokenizers of one family, and a correlation needs {FEWEST}"
    backbones = list(scales(measured, target))
    dead = "most of its diffusion models failed: their images say nothing about latent spaces"
    gone = backbones and all(failed(measured, Panel(target, b, None), family) for b in backbones)
    if gone or size < FEWEST:
        return [], "; and ".join([few] * (size < FEWEST) + [dead] * bool(gone))
    every = turned_correlations(tables["correlations"], target, family)
    if not every:
        return [], "no metric was measured together with generated images"
    alive = [
        c for c in every if not failed(measured, Panel(target, c.backbone, c.guidance), family)
    ]
    if not alive:
        return [], dead
    told = [c for c in alive if not _true(c.row["at_chance"])]
    if not told:
        return [], "no metric leaves chance"
    if all(math.isnan(c.low) for c in told):
        note = str(told[0].row["note"]).partition(";")[0]
        clusters = int(told[0].row["clusters"])
        return [], note or f"{clusters} clusters of tokenizers are too few for an interval"
    return told, ""


def strongest(found: list[Turned]) -> Turned:
    """Return the correlation to speak of: settled first, then of known sign, then the largest."""
    return max(found, key=lambda c: (c.settled, c.known, abs(c.r)))


def _turn(row: Mapping[Any, Any], short: str, title: str, panels: int) -> Turned:
    r, low, high = turned(row)
    smallest, largest = sorted(sign(row) * float(row[f"without_{end}"]) for end in ("low", "high"))
    return Turned(
        short=short,
        perspective=title,
        metric=str(row["metric"]),
        backbone=str(row["backbone"]),
        guidance=float(row["guidance"]),
        family=str(row["family"]),
        r=r,
        low=low,
        high=high,
        p=float(np.minimum(1.0, float(row["pearson_p_holm"]) * panels)),
        partial=turned(row, "pearson_partial"),
        without=(smallest, largest),
        directed=bool(pd.notna(row["expected_sign"])),
        row=row,
    )


def _decided(first: Turned, found: list[Turned], target: str, up: bool) -> str:
    way = "higher" if (float(first.row["pearson"]) > 0) == up else "lower"
    against = "" if first.r > 0 or not first.directed else ", against what the metric declares"
    return (
        f"Of {len({c.short for c in found})} perspectives, {first.perspective} predicts generated "
        f"images best: the {way} the {first.short} of a tokenizer, the better its "
        f"images by {name_metric(target)}{against}. {first.interval} over "
        f"{first.row['n']:.0f} tokenizers in {first.row['clusters']:.0f} clusters "
        f"(p = {first.p:.2g} after correction for every metric and backbone)."
    )


def _doubt(first: Turned, found: list[Turned]) -> str:
    """Return why the strongest correlation does not decide."""
    where = (
        f"{first.short} on {first.backbone}, {first.interval} over {first.row['n']:.0f} "
        f"tokenizers in {first.row['clusters']:.0f} clusters"
    )
    if not first.known:
        metrics = len({c.short for c in found})
        return (
            f"the intervals of all its {metrics} perspectives contain zero: each may go with "
            f"better or with worse images. Largest: {where}"
        )
    if not first.without[0] * first.without[1] > 0:
        return (
            f"its strongest correlation depends on one tokenizer, {first.row['influential']}: "
            f"{where}"
        )
    return (
        f"its strongest correlation may be chance among the many tested: {where}, "
        f"p = {first.p:.2g} after correction for every metric and backbone"
    )


def _details(
    first: Turned,
    found: list[Turned],
    scores: pd.Series,
    floor: pd.DataFrame | None,
    target: str,
) -> tuple[str, ...]:
    own = [c for c in found if c.metric == first.metric]
    agree = [c for c in own if c.known and c.r * first.r > 0]
    sentences = []
    if len(own) > 1:
        sentences.append(
            f"{first.short} points the same way, beyond chance, on {len(agree)} of {len(own)} "
            "backbones."
        )
    r, low, high = first.partial
    if not math.isnan(low):
        sentences.append(
            f"{first.short} among tokenizers that reconstruct equally well (given PSNR): "
            f"r = {r:.2f} [{low:.2f}, {high:.2f}]."
        )
    name = name_metric(target)
    where = f" of {first.backbone}" if len(own) > 1 else ""
    sentence = f"Best images{where}: {scores.index[0]} ({name} {scores.iloc[0]:.3g})"
    gap = _resolvable_gap(floor, first, target)
    if len(scores) > 1:
        apart = abs(scores.iloc[1] - scores.iloc[0])
        sentence += f", then {scores.index[1]} ({scores.iloc[1]:.3g})"
        if gap is not None:
            sentence += ", " + ("more" if apart > gap else "not more") + " than seeds differ by"
    return (*sentences, sentence + ".")


def _resolvable_gap(floor: pd.DataFrame | None, first: Turned, target: str) -> float | None:
    if floor is None or "resolvable_gap" not in floor:
        return None
    rows = floor[
        (floor["target"] == target)
        & (floor["family"] == first.family)
        & (floor["backbone"] == first.backbone)
        & (floor["guidance"] == first.guidance)
    ]
    gap = float(rows["resolvable_gap"].iloc[0]) if len(rows) else math.nan
    return None if math.isnan(gap) else gap


def _true(value: object) -> bool:
    return bool(pd.notna(value) and value)  # type: ignore[call-overload]
