"""The answer of a study in one sentence: what predicts generation, or why it cannot tell."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from diffusability.analysis.catalogue import PERSPECTIVES, REPRESENTATIVES, name_metric
from diffusability.analysis.correlation import at_smallest_guidance, sign, turned
from diffusability.analysis.declared import declared_sentence
from diffusability.analysis.equal_reconstruction import compared
from diffusability.analysis.estimators import FEWEST, pearson
from diffusability.analysis.failed import failed, failed_tokenizers
from diffusability.analysis.frames import in_words, is_true, rows_where, with_interval
from diffusability.analysis.noise_floor import WANTED
from diffusability.analysis.pairing import means_by_tokenizer
from diffusability.analysis.panels import Measured, Panel, higher_is_better, paired, scales

LEVEL = 0.05  # of the test after correction for every metric and backbone
CANNOT = "This study cannot tell which latent space a diffusion model learns well, because "

NO_MODELS = "This study has no diffusion models: it measures the latent spaces alone"


@dataclass(frozen=True)
class Turned:
    """A correlation, turned so that positive means: a better metric goes with better images.

    Attributes:
        short, perspective: names of the metric. metric: its full name. panel, family: where it was
            computed. row: of the table of correlations.
        r, low, high: with its interval over clusters; ends may be NaN.
        p: of the interval, corrected for every metric and backbone; may be NaN.
    """

    short: str
    perspective: str
    metric: str
    panel: Panel
    family: str
    row: Mapping[Any, Any]
    r: float
    low: float
    high: float
    p: float

    @property
    def known(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low * self.high > 0

    @property
    def settled(self) -> bool:
        """Whether the sign stays after the correction, and without any tokenizer or cluster."""
        return self.known and self.p <= LEVEL and not self.carrier

    @property
    def carrier(self) -> str:
        """The tokenizer, else the cluster, without which r changes its sign; empty if none."""
        for what, end in (("tokenizer", ""), ("cluster", "_cluster")):
            if self.row[f"without{end}_low"] * self.row[f"without{end}_high"] < 0:
                return f"the {what} {self.row[f'influential{end}']}"
        return ""

    @property
    def opposite(self) -> bool:
        """Whether the sign is against the direction that the metric declares."""
        return not self.r > 0 and pd.notna(self.row["expected_sign"])

    @property
    def interval(self) -> str:
        """The correlation and its interval in words."""
        return f"r = {with_interval(self.r, self.low, self.high, ', 95 % interval')}"

    def sample(self, family: str) -> str:
        """Return the numbers of tokenizers and clusters in words, with the family unless empty."""
        of = f" of {family}" if family else ""
        return f"over {self.row['n']:.0f} tokenizers{of} in {self.row['clusters']:.0f} clusters"


@dataclass(frozen=True)
class Answer:
    """What a study found.

    Attributes:
        sentence: the answer with its uncertainty, or why there is none. details: further sentences.
        decided: whether the study can tell.
        strongest: the correlation that the sentence is about; see `strongest`.
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
    measured = Measured(measurements)
    family = largest_family(measurements)
    if target_means(measurements, target, family).empty:
        return Answer(f"{CANNOT}no generated images were measured.")
    found, reason = testable(measured, tables["correlations"], target, family)
    every = found or turned_correlations(tables["correlations"], target, family)
    first = strongest(every) if every else None
    scores = target_means(measurements, target, family, first.panel.backbone if first else "")
    best, worst = str(scores.index[0]), str(scores.index[-1]) if len(scores) > 1 else ""
    if first is None or not found:
        return Answer(f"{CANNOT}{reason}.", strongest=first, best=best, worst=worst)
    named = family if len(measured.families) > 1 else ""
    if first.settled:
        sentence = _decided(first, found, bool(higher_is_better(measurements, target)), named)
    else:
        sentence = f"{CANNOT}{_doubt(first, found, named)}."
    tested = declared_sentence(tables["declared_tests"]) if "declared_tests" in tables else ""
    details = (
        f"{tested}." if tested else "",
        _without_failed(first, measured),
        *_details(first, found),
        *_images(first, scores, tables.get("noise_floor")),
    )
    return Answer(sentence, tuple(filter(None, details)), first.settled, first, best, worst)


def largest_family(measurements: pd.DataFrame) -> str:
    """Return the largest family; tokenizers of different families are not comparable."""
    members = measurements.drop_duplicates("tokenizer")["family"].value_counts(sort=False)
    return str(members.idxmax())


def target_means(
    measurements: pd.DataFrame, target: str, family: str, backbone: str = ""
) -> pd.Series:
    """Return the target of each tokenizer of a family, best first.

    It is the mean over trainings, at the smallest guidance scale of a backbone, by default the
    first.
    """
    rows = rows_where(measurements, metric=target, family=family)
    rows = rows[rows["value"].notna()]
    if rows.empty:
        return pd.Series(dtype=float)
    rows = rows_where(rows, backbone=backbone or rows["backbone"].iloc[0])
    guidance = rows["guidance"].fillna(-1)
    up = bool(higher_is_better(measurements, target))
    means = means_by_tokenizer(rows[guidance == guidance.min()])
    return means["value"].sort_values(ascending=not up)


def turned_correlations(correlations: pd.DataFrame, target: str, family: str) -> list[Turned]:
    """Return the correlations of every perspective's metric, at the smallest guidance scales."""
    rows = rows_where(correlations, target=target, family=family)
    rows = at_smallest_guidance(rows[rows["pearson"].notna()])
    panels = max(1, rows["backbone"].nunique())
    titles = {short: title for title, shows in PERSPECTIVES.items() for short in shows}
    return [
        _turn(row, short, titles[short], panels)
        for short, pattern in REPRESENTATIVES.items()
        for row in rows.to_dict("records")
        if fnmatchcase(row["metric"], pattern)
    ]


def _turn(row: Mapping[Any, Any], short: str, title: str, panels: int) -> Turned:
    guidance = None if pd.isna(row["guidance"]) else float(row["guidance"])
    panel = Panel(str(row["target"]), str(row["backbone"]), guidance)
    p = float(np.minimum(1.0, row["pearson_p_holm"] * panels))
    return Turned(short, title, row["metric"], panel, row["family"], row, *turned(row), p=p)


def testable(
    measured: Measured, correlations: pd.DataFrame, target: str, family: str
) -> tuple[list[Turned], str]:
    """Return the correlations that can say something, or the reason why none can."""
    size = int((measured.tokenizers["family"] == family).sum())
    few = f"it has {size} tokenizers of one family, and a correlation needs {FEWEST}"
    backbones = list(scales(measured, target))
    dead = "most of its diffusion models failed: their images are no better than a control's"
    gone = backbones and all(failed(measured, Panel(target, b, None), family) for b in backbones)
    if gone or size < FEWEST:
        return [], "; and ".join([few] * (size < FEWEST) + [dead] * bool(gone))
    every = turned_correlations(correlations, target, family)
    if not every:
        return [], "no metric was measured together with generated images"
    alive = [c for c in every if not failed(measured, c.panel, family)]
    if not alive:
        return [], dead
    told = [c for c in alive if not is_true(c.row["at_chance"])]
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


def _decided(first: Turned, found: list[Turned], up: bool, family: str) -> str:
    """Return the answer; ``family`` is empty where the study has only one."""
    way = "higher" if (first.row["pearson"] > 0) == up else "lower"
    settled = len({c.short for c in found if c.settled})
    others = "the only one" if settled == 1 else f"the strongest of {settled}"
    against = ", against what the metric declares" if first.opposite else ""
    return (
        f"Of {len({c.short for c in found})} perspectives, {first.perspective} is {others} whose "
        f"correlation with image quality is settled: the {way} the {first.short} of a tokenizer, "
        f"the better its images by {name_metric(first.panel.target)}{against}. {first.interval} "
        f"{first.sample(family)} (p = {first.p:.2g} after correction for every metric and "
        "backbone)."
    )


def _doubt(first: Turned, found: list[Turned], family: str) -> str:
    """Return why the correlation to speak of does not decide; see `_decided`."""
    among = f" among the tokenizers of {family}" if family else ""
    expected = ", against the expected direction" if first.opposite else ""
    where = (
        f"{first.perspective} ({first.short}) on {first.panel.backbone}, {first.interval}"
        f"{expected}, {first.sample(family)}"
    )
    if not first.known:
        metrics = len({c.short for c in found})
        return (
            f"no perspective's correlation with the {name_metric(first.panel.target)} of generated "
            f"images{among} can be told from zero. Largest of {metrics}: {where}"
        )
    if first.carrier:
        return f"the clearest correlation{among} changes its sign without {first.carrier}: {where}"
    return (
        f"the clearest correlation{among} may be chance among the many tested: {where}, "
        f"p = {first.p:.2g} after correction for every metric and backbone"
    )


def _without_failed(first: Turned, measurements: Measured) -> str:
    """Return what is left of a correlation without tokenizers whose diffusion models failed."""
    out = failed_tokenizers(measurements, first.panel, first.family)
    rows = paired(measurements, first.metric, first.panel, first.family).rows
    kept = rows[~rows["tokenizer"].isin(out)]
    if len(kept) == len(rows):
        return ""
    models = f"the diffusion models of {in_words(out)} failed"
    if len(kept) < FEWEST:
        return f"Without {models}, {len(kept)} tokenizers are left: no correlation."
    r = sign(first.row) * float(pearson(kept["x"].to_numpy(), kept["y"].to_numpy())[0])
    return f"{models[0].upper()}{models[1:]}; without them, r = {r:.2f} over the other {len(kept)}."


def _details(first: Turned, found: list[Turned]) -> Iterator[str]:
    """Yield sentences on the other backbones, and on reconstruction."""
    own = [c for c in found if c.metric == first.metric]
    if len(own) > 1:
        agree = [c for c in own if c.known and c.r * first.r > 0]
        yield (
            f"Without correction, the interval of {first.short} excludes zero with this sign on "
            f"{len(agree)} of {len(own)} backbones."
        )
    r, low, high = turned(first.row, "pearson_partial")
    if not math.isnan(low):
        yield f"Partial correlation of {first.short} given PSNR: {with_interval(r, low, high)}."


def _images(first: Turned, scores: pd.Series, floor: pd.DataFrame | None) -> Iterator[str]:
    """Yield sentences on how far tokenizers differ beyond seeds, and on the best images."""
    where = {**first.panel.labels, "family": first.family}
    rows = floor if floor is None or floor.empty else rows_where(floor, **where)
    noise = {} if rows is None or rows.empty else rows.iloc[0].to_dict()
    reliability, low, high = (noise.get(n, math.nan) for n in ("reliability", "low", "high"))
    name = name_metric(first.panel.target)
    if pd.notna(reliability) and pd.notna(noise["variance_diffusion_seeds"]):
        seeds = noise.get("seeds_needed", math.nan)
        more = f"; {WANTED:g} would take {seeds:.0f} diffusion models per tokenizer"
        yield (
            f"Reliability of the {name}, the share of its variance that is not between diffusion "
            f"models of one tokenizer: {with_interval(reliability, low, high)}"
            f"{more if reliability < WANTED and pd.notna(seeds) else ''}."
        )
    elif noise:
        yield f"Reliability of the {name} is unknown: {noise['note']}."
    gap = noise.get("resolvable_gap", math.nan)
    sentence = (
        f"Best images of {first.panel.backbone}: {scores.index[0]} ({name} {scores.iloc[0]:.3g})"
    )
    if len(scores) > 1 and pd.notna(gap):
        near = int((scores.iloc[1:] - scores.iloc[0]).abs().le(gap).sum())
        retrained = pd.notna(noise["variance_tokenizer_seeds"])
        what = "trainings" if retrained else "diffusion models"
        sentence += (
            f"; {near} of the {len(scores) - 1} others differ from it by less than {gap:.3g}, "
            f"as two {what} of one tokenizer may"
        )
    elif len(scores) > 1:
        sentence += f", then {scores.index[1]} ({scores.iloc[1]:.3g})"
    yield sentence + "."
