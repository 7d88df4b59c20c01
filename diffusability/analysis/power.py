"""The chance of a study to reproduce a claim, from its layout alone, by simulation.

Data sets of the study's layout are drawn in which the paper's value is true; the power is the share
of them in which the whole interval of the claim's statistic lies inside its region.
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

from diffusability.analysis.claims import Claim, Selector, fits, named
from diffusability.analysis.estimators import Array
from diffusability.analysis.intervals import MIN_CLUSTERS, Labels, methods_of
from diffusability.analysis.joint import FEWEST, Row, Terms, evaluate
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
) -> float:
    """Return the probability that a study of this layout reproduces a claim.

    Args:
        terms: rows of the claim; only index, labels and paper's value are used.
        clusters: (N,) label of every tokenizer, or (N, 2) with its encoder (``intervals.units``).
        reliability: of the targets; noise of seeds weakens every correlation by its root.
        confidence: of the interval.

    Returns:
        In [0, 1]; NaN if it is not computed (``power_reason``).
    """
    if power_reason(claim, terms):
        return math.nan
    seed = zlib.crc32(claim.id.encode())
    if claim.statistic == "fit":  # one data set after the other
        draws = range(seed, seed + DRAWS // 4)
        made = [_simulated_fits(terms, clusters, reliability, draw) for draw in draws]
    elif claim.statistic == "share":
        made = [_simulated_shares(terms, clusters, DRAWS, seed)]
    else:
        noise = 1.0 if claim.statistic == "shared" else reliability
        made = [simulate(terms, clusters, noise, DRAWS, seed)]
    found = [
        evaluate(claim.statistic, data, clusters, confidence, claim.least)  # type: ignore[arg-type]
        for data in made
    ]
    low, high = (
        np.concatenate([getattr(interval, end) for interval in found]) for end in ("low", "high")
    )
    with np.errstate(invalid="ignore"):
        return float(((low >= claim.region.low) & (high <= claim.region.high)).mean())


def power_reason(claim: Claim, terms: Terms) -> str:
    """Return why the power of a claim is not computed; empty if it is."""
    if claim.statistic in NOT_COMPUTED:
        return NOT_COMPUTED[claim.statistic]
    return NO_VALUE if any(math.isnan(row.paper) for row in terms.rows) else ""


def _simulated_fits(terms: Terms, clusters: Labels, reliability: float, seed: int) -> Terms:
    """Return one data set in which two independent metrics explain the paper's R² together."""
    rng = np.random.default_rng(seed)
    groups = _codes(clusters)
    families: dict[bytes, tuple[Array, Array]] = {}

    def made(row: Row) -> Row:
        codes, family = groups[row.index], row.index.tobytes()
        if family not in families:
            families[family] = _normal(codes, 2, rng), _normal(codes, 1, rng)
        x, common = families[family]
        noise = _mixed(common, _normal(codes, 1, rng), math.sqrt(AGREEMENT))
        signal = x.sum(axis=1, keepdims=True) / math.sqrt(2)
        return replace(row, x=x, y=_mixed(signal, noise, math.sqrt(row.paper * reliability)))

    return terms.map(made)


def _simulated_shares(terms: Terms, clusters: Labels, draws: int, seed: int) -> Terms:
    """Return the rows with a share of tokenizers as large as the paper's in expectation."""
    rng = np.random.default_rng(seed)
    groups = _codes(clusters)
    hidden = _normal(groups, draws, rng)  # the same on every backbone

    def made(row: Row) -> Row:
        return replace(row, x=(hidden[row.index] < stats.norm.ppf(row.paper)).astype(float))

    return terms.map(made)


def _codes(clusters: Labels) -> np.ndarray:
    """Return the number of each tokenizer's cluster, from 0."""
    return np.unique(methods_of(clusters).astype(str), return_inverse=True)[1]


def _normal(codes: np.ndarray, draws: int, rng: np.random.Generator) -> Array:
    """Return (n, draws) normal values of which a cluster shares a part."""
    shared = rng.standard_normal((codes.max() + 1, draws))[codes]
    own = rng.standard_normal((len(codes), draws))
    return math.sqrt(RESEMBLANCE) * shared + math.sqrt(1 - RESEMBLANCE) * own


def simulate(terms: Terms, clusters: Labels, reliability: float, draws: int, seed: int) -> Terms:
    """Return the rows with normal data in which each has the paper's r, weakened by noise.

    Every family has a quality; targets on different backbones are that quality with noise, and
    metrics have the wanted r with it. Metrics are independent given the quality. All have a part
    that tokenizers of one cluster share.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(clusters, dtype=object)
    qualities: dict[object, tuple[Array, dict[object, Array], dict[object, Array]]] = {}

    def normal(index: np.ndarray) -> Array:
        return _normal(_codes(labels[index]), draws, rng)

    def made(row: Row) -> Row:
        wanted = row.paper * math.sqrt(reliability if row.labels.get("backbone") else 1.0)
        family = (row.labels.get("family"), row.index.tobytes())
        if len(row.given):
            x, given, rest = (normal(row.index) for _ in range(3))
            return replace(row, x=x, given=given, y=_mixed(x + given, rest, wanted))
        if family not in qualities:
            qualities[family] = normal(row.index), {}, {}
        quality, targets, metrics = qualities[family]
        agreement = AGREEMENT if row.labels.get("backbone") else 1.0
        panel = tuple(row.labels.get(name) for name in ("target", "backbone", "guidance"))
        if panel not in targets:
            targets[panel] = _mixed(quality, normal(row.index), math.sqrt(agreement))
        metric = row.labels.get("metric"), wanted
        if metric not in metrics:
            loading = min(wanted / math.sqrt(agreement), 0.999)
            metrics[metric] = _mixed(quality, normal(row.index), loading)
        return replace(row, x=metrics[metric], y=targets[panel])

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
        names = [n for n in named(selector.metric) if n.partition(".")[0] in measured]
        pairs: list[tuple[object, str]] = [(target, name) for name in names]
        if claim.statistic == "shared":
            pairs = [*combinations(names, 2)]
        if claim.statistic == "fit":
            pairs = pairs[: len(names) == len(named(selector.metric))]
        return [
            Row(
                {
                    **{"target": target, "backbone": backbone, "family": family},
                    **{"guidance": selector.guidance, "metric": name},
                },
                np.array(index),
                np.empty((0, 1)),
                given=np.ones((1, 1)) if selector.given else np.empty((0, 1)),
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
    ``RELIABILITY``; ``rows``, ``tokenizers`` and ``clusters`` behind it; ``note`` says why there is
    no power.
    """
    names = study.selected_tokenizers
    chosen = [study.tokenizers[name] for name in names]
    crossed = [(study.tokenizers[name].cluster, study.aligned_with(name)) for name in names]
    labels = np.array(crossed, dtype=object)
    largest = max(Counter(tokenizer.family for tokenizer in chosen).values())
    absent = "no such metric, family, backbone or guidance scale"
    if largest < FEWEST:
        absent = f"no family has {FEWEST} tokenizers"
    rows = []
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
                row["power"] = power(claim, terms, labels, confidence=confidence)
                row["note"] = power_reason(claim, terms) or (ASSUMED if claim.assumed else "")
        rows.append(row)
    columns = ["claim", "power", "rows", "tokenizers", "clusters", "note"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("power", ascending=False, kind="stable", ignore_index=True)


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
    return "\n".join(
        [
            *lines,
            f"If the paper's value is true, this study reproduces {good} of {len(table)} claims "
            f"with a chance of {ENOUGH} or more, {int(known.sum()) - good} with less.",
            f"Assumed: reliability {RELIABILITY}, and tokenizers of one cluster that share "
            f"{RESEMBLANCE:.0%} of their variance.",
        ]
    )
