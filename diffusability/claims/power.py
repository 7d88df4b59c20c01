"""The chance of a study to reproduce a claim, from its layout alone, by simulation.

Data sets of the study's layout are drawn in which the paper's value is true; the power is the share
of them in which the verdict is "reproduced": the whole interval of the statistic lies inside
its region, and so does that of what it may be without noise of seeds.
"""

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from diffusability.analysis.estimators import FEWEST, Array
from diffusability.analysis.intervals import MIN_CLUSTERS, Labels, methods_of
from diffusability.claims.claim import Claim, Selector, fits, named
from diffusability.claims.joint import Kind, Row, Terms, evaluate
from diffusability.claims.seed_noise import noise_free
from diffusability.study.study import Study

DRAWS = 400  # data sets: the error of a power is at most 0.025
RESEMBLANCE = 0.5  # share of variance that tokenizers of one cluster have in common
AGREEMENT = 0.9  # r of the generation quality on two backbones
RELIABILITY = 0.8  # of a target, where nothing is known of it yet
ENOUGH = 0.5  # below it, a study hardly tests a claim
# why the power of a statistic is not computed
NOT_COMPUTED = {
    "range": "the paper gives no range over backbones, and r per backbone for one family only",
    "range_over_families": "the paper gives r per family for one backbone only",
    "sd": "the paper shows the spread in a figure, without a number",
    "mean": "how much the number differs between tokenizers is not known before a run",
}
NO_VALUE = "the paper gives no value to compute it at"
ASSUMED = "at an assumed value: the paper gives words only"


def power(
    claim: Claim,
    terms: Terms,
    clusters: Labels,
    reliability: float = RELIABILITY,
    confidence: float = 0.95,
    least: float | None = None,
) -> float:
    """Return the probability that a study of this layout reproduces a claim.

    Args:
        terms: rows of the claim; only index, labels and paper's value are used.
        clusters: (N,) label of every tokenizer, or (N, 2) with its encoder (``intervals.units``).
        reliability: of the targets; noise of seeds weakens every correlation by its root.
        confidence: of the interval.
        least: lower end of the reliability, which the verdict allows for; None if it is known.

    Returns:
        In [0, 1]; NaN if it is not computed (``power_reason``).
    """
    if power_reason(claim, terms):
        return math.nan
    kind: Kind = claim.statistic  # type: ignore[assignment]
    made = simulate(kind, terms, clusters, reliability, DRAWS, zlib.crc32(claim.id.encode()))
    found = evaluate(kind, made, clusters, confidence, claim.least)
    ends = found.low, found.high
    with np.errstate(invalid="ignore"):
        reproduced = claim.region.holds(*ends)
        free = noise_free(claim, made, clusters, ends, reliability if least is None else least)
        if free is not None:
            reproduced &= claim.region.holds(*free)
        return float(reproduced.mean())


def power_reason(claim: Claim, terms: Terms) -> str:
    """Return why the power of a claim is not computed; empty if it is."""
    if claim.statistic in NOT_COMPUTED:
        return NOT_COMPUTED[claim.statistic]
    return NO_VALUE if any(math.isnan(row.paper) for row in terms.rows) else ""


class _Draws:
    """Normal variables by name, (n, P) over the tokenizers of a row, the same in its family.

    Tokenizers of one cluster have a part of their variance in common.
    """

    def __init__(self, clusters: Labels, draws: int, seed: int) -> None:
        """Draw P = ``draws`` data sets."""
        self._clusters, self._draws = methods_of(clusters).astype(str), draws
        self._rng = np.random.default_rng(seed)
        self._made: dict[tuple[object, ...], Array] = {}

    def __call__(self, row: Row, *name: object) -> Array:
        """Return a variable, drawn when it is first asked for."""
        key = (row.labels.get("family"), row.index.tobytes(), *name)
        if key not in self._made:
            codes = np.unique(self._clusters[row.index], return_inverse=True)[1]
            shared = self._rng.standard_normal((codes.max() + 1, self._draws))[codes]
            own = self._rng.standard_normal((len(codes), self._draws))
            self._made[key] = _mixed(shared, own, math.sqrt(RESEMBLANCE))
        return self._made[key]


def simulate(
    kind: Kind, terms: Terms, clusters: Labels, reliability: float, draws: int, seed: int
) -> Terms:
    """Return the rows with normal data in which each has the paper's value, weakened by noise.

    Every family has a quality; targets on different backbones are that quality with noise, and
    metrics have the wanted r with it. Metrics are independent given the quality. Where another
    metric is given, both are independent, and targets are their sum with noise.
    """
    normal = _Draws(clusters, draws, seed)

    def made(row: Row) -> Row:
        backbone, metric, target = (row.labels.get(n) for n in ("backbone", "metric", "target"))
        if kind == "share":  # the same on every backbone
            return replace(row, x=(normal(row, metric) < stats.norm.ppf(row.paper)).astype(float))
        quality = normal(row, "quality")
        if kind == "shared":  # r of two metrics is the product of what they have of the quality
            loading = math.sqrt(abs(row.paper))
            x, y = (_mixed(quality, normal(row, name), loading) for name in (metric, target))
            return replace(row, x=x, y=y)
        kept = reliability if backbone else 1.0
        agreement = AGREEMENT if backbone else 1.0
        noise = normal(row, target, backbone, row.labels.get("guidance"))
        if kind in ("partial", "fit"):
            x, given = normal(row, metric), normal(row, row.labels["given"])
            noise = _mixed(quality, noise, math.sqrt(agreement))
            if kind == "fit":
                y = _mixed((x + given) / math.sqrt(2), noise, math.sqrt(row.paper * kept))
            else:
                y = _mixed(x + given, noise, row.paper * math.sqrt(kept))
            return replace(row, x=x, given=given, y=y)
        wanted = row.paper * math.sqrt(kept)
        loading = min(wanted / math.sqrt(agreement), 0.999)
        x = _mixed(quality, normal(row, metric, wanted), loading)
        return replace(row, x=x, y=_mixed(quality, noise, math.sqrt(agreement)))

    return terms.map(made)


def _mixed(signal: Array, noise: Array, loading: float) -> Array:
    return loading * signal + math.sqrt(1 - loading**2) * noise


def planned_terms(claim: Claim, study: Study) -> Terms:
    """Return the rows, without data, that a study will have for a claim, before it has run."""
    families: dict[str, list[int]] = {}
    for index, name in enumerate(study.selected_tokenizers):
        families.setdefault(study.tokenizers[name].family, []).append(index)
    guided = any(len(study.sampling.scales(name)) > 1 for name in study.selected_backbones)
    # metric groups, the first part of a metric's name; of one guidance scale none is best
    measured = (*study.selected_metrics, "trajectory", "profile", *["guidance"] * guided)

    def rows(selector: Selector) -> list[Row]:
        if selector.guidance == "best" and not guided:
            return []
        target = selector.target
        single = isinstance(target, str) and not target.startswith("generation.")
        if single or claim.statistic in ("sd", "shared"):
            backbones = [""]
        else:
            backbones = [b for b in study.selected_backbones if fits(b, selector.backbone)]
        wanted = named(selector.metric)
        if selector.given and selector.given.partition(".")[0] not in measured:
            wanted = []
        names = [n for n in wanted if n.partition(".")[0] in measured]
        pairs: list[tuple[object, str]] = [(target, name) for name in names]
        if claim.statistic == "shared":
            pairs = [*combinations(names, 2)]
        return [
            Row(
                {
                    **{"target": target, "backbone": backbone, "family": family},
                    **{"guidance": selector.guidance, "metric": name, "given": selector.given},
                },
                np.array(index),
                np.empty((0, 1)),
                paper=selector.paper_value(name),
            )
            for family, index in families.items()
            if len(index) >= FEWEST and fits(family, selector.family)
            for backbone in backbones
            for target, name in pairs
        ]

    return Terms(*([rows(selector) for selector in side] for side in (claim.plus, claim.minus)))


def power_table(study: Study, claims: Sequence[Claim], confidence: float = 0.95) -> pd.DataFrame:
    """Return which claims a study can test, before it has run.

    One row per claim that is not on findings: ``power`` at the paper's value, for a reliability of
    ``RELIABILITY``, which is known of families with repeated seeds; ``rows``, ``tokenizers`` and
    ``clusters`` behind it; ``note`` says why there is no power.
    """
    names = study.selected_tokenizers
    chosen = [study.tokenizers[name] for name in names]
    crossed = [(study.tokenizers[name].cluster, study.aligned_with(name)) for name in names]
    labels = np.array(crossed, dtype=object)
    largest = max(Counter(tokenizer.family for tokenizer in chosen).values())
    absent = "no such metric, family, backbone or guidance scale"
    if largest < FEWEST:
        absent = f"no family has {FEWEST} tokenizers"
    rows, repeated = [], _repeated(study)
    for claim in claims:
        if claim.table:
            continue
        row: dict[str, object] = {"claim": claim.id, "power": math.nan, "note": absent}
        terms = planned_terms(claim, study)
        if terms.complete:
            used = np.unique(np.concatenate([part.index for part in terms.rows]))
            clusters = len(set(methods_of(labels)[used]))
            row |= {"rows": len(terms.rows), "tokenizers": len(used), "clusters": clusters}
            if clusters < MIN_CLUSTERS:
                row["note"] = f"fewer than {MIN_CLUSTERS} clusters: no interval"
            else:
                known = {part.labels["family"] for part in terms.rows} <= repeated
                least = RELIABILITY if known else 0.0
                row["power"] = power(claim, terms, labels, RELIABILITY, confidence, least)
                row["note"] = power_reason(claim, terms) or (ASSUMED if claim.assumed else "")
        rows.append(row)
    columns = ["claim", "power", "rows", "tokenizers", "clusters", "note"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("power", ascending=False, kind="stable", ignore_index=True)


def _repeated(study: Study) -> set[str]:
    """Return the families of which a tokenizer has diffusion models of two seeds."""
    return {
        study.tokenizers[name].family
        for name in study.selected_tokenizers
        if len({seed for _, seed in study.seeds_of(name)}) > 1
    }


def power_text(study: Study, claims: Sequence[Claim], confidence: float = 0.95) -> str:
    """Return the power of a study as text, with one sentence that sums it up."""
    table = power_table(study, claims, confidence)
    known = table["power"].notna()
    shown = table[known]
    shown = shown.assign(power=shown["power"].map("{:.2f}".format))
    counts = ["rows", "tokenizers", "clusters"]
    shown = shown.astype(dict.fromkeys(counts, "Int64"))
    lines = [shown.to_string(index=False), ""] if len(shown) else []
    for note, part in table[~known].groupby("note", sort=False):
        lines += [f"{note}: {', '.join(part['claim'])}", ""]
    if not known.any():
        return "\n".join([*lines, f"This study tests none of the {len(table)} claims."])
    good = int((table["power"] >= ENOUGH).sum())
    lacking = sorted(
        {study.tokenizers[n].family for n in study.selected_tokenizers} - _repeated(study)
    )
    known_by = "known exactly"
    if lacking:
        known_by += f" but for {', '.join(lacking)}, where no seed of a diffusion model is repeated"
    return "\n".join(
        [
            *lines,
            f"If the paper's value is true, this study reproduces {good} of {len(table)} claims "
            f"with a chance of {ENOUGH} or more, {int(known.sum()) - good} with less.",
            f"Assumed: reliability {RELIABILITY}, {known_by}, and tokenizers of one cluster that "
            f"share {RESEMBLANCE:.0%} of their variance.",
        ]
    )
