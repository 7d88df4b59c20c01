"""What a statistic may be without the noise of diffusion seeds, which weakens correlations.

Noise of the target weakens a correlation by up to the root of the target's reliability. A verdict
has to hold for all values that noise could have weakened to the measured ones.
"""

import math
from collections.abc import Sequence

import numpy as np

from diffusability.analysis.estimators import Array, pearson
from diffusability.analysis.intervals import Labels
from diffusability.claims.claim import Claim
from diffusability.claims.joint import CORRELATIONS, RANGES, Terms, evaluate, in_ranges

Ends = tuple[Array, Array]  # of P intervals, each (P,)
_NOISY = (*CORRELATIONS, "slope", "offset", *RANGES, "fit")
_PLACE = ("target", "backbone", "guidance")  # what has one noise


def noise_free(
    claim: Claim, terms: Terms, clusters: Labels, ends: Ends, least: float
) -> Ends | None:
    """Return the values that a claim's statistic may have without noise of seeds.

    Args:
        claim: of the statistic. terms: its rows. clusters: of the study's tokenizers.
        ends: the measured intervals. least: lower end of the reliability of all targets.

    Returns:
        Wider intervals; None for statistics of latent spaces alone, which have no such noise.
    """
    if claim.statistic not in _NOISY:
        return None
    if claim.statistic in RANGES:
        return _range_without_noise(claim, terms, ends, least)
    low, high = ends
    if claim.statistic == "fit":  # R² is weakened by the reliability, r by its root
        return without_noise(ends, least**2)
    if claim.statistic == "offset":  # of r from the paper's: it is r that noise weakens
        paper = float(np.mean([row.paper for row in terms.rows]))
        free = np.clip(without_noise((low + paper, high + paper), least), -1, 1) - paper
        return np.minimum(free[0], low), np.maximum(free[1], high)
    if claim.statistic not in CORRELATIONS or claim.least:
        return without_noise(ends, least)
    places = [
        {tuple(row.labels[name] for name in _PLACE) for row in term}
        for term in (*terms.plus, *terms.minus)
    ]
    if all(place == places[0] for place in places):
        return without_noise(ends, least)
    sides = [
        [evaluate(claim.statistic, Terms([t]), clusters).value for t in side]  # type: ignore[arg-type]
        for side in (terms.plus, terms.minus)
    ]
    return without_noise(ends, least, *sides)


def without_noise(
    ends: Ends,
    reliability: float,
    added: Sequence[Array] = (),
    subtracted: Sequence[Array] = (),
) -> Ends:
    """Return the values that a statistic of correlations may have without noise of seeds.

    Targets of one panel have the same noise, so their whole interval is stretched away from zero;
    terms on different panels (``added`` minus ``subtracted``) may be weakened by different factors.

    Args:
        ends: the intervals. reliability: lower end of that of all targets, in [0, 1].
        added, subtracted: (P,) values of the terms, if they are on different panels.
    """
    root = math.sqrt(min(max(reliability, 0.0), 1.0))
    low, high = (np.asarray(end, dtype=float) for end in ends)
    if not added:
        wide = [end / root if root else np.copysign(math.inf, end) for end in (low, high)]
        return np.minimum(low, wide[0]), np.maximum(high, wide[1])

    def gain(values: Sequence[Array]) -> Array:
        whole = np.array(values, dtype=float).reshape(len(values), *low.shape)
        free = np.minimum(whole / root, 1.0) if root else np.ones_like(whole)
        return np.asarray(np.where(whole > 0, free - whole, 0.0).sum(axis=0))

    up = gain(added) + gain([-v for v in subtracted])
    down = gain(subtracted) + gain([-v for v in added])
    return low - down, high + up


def _range_without_noise(claim: Claim, terms: Terms, ends: Ends, least: float) -> Ends:
    """Return the values that a range of correlations may have without noise of seeds.

    Noise may have weakened each of them by a factor of its own, which changes a range either way.
    """
    root = math.sqrt(least)
    down, up = np.zeros_like(ends[0]), np.zeros_like(ends[0])
    for sign, side in ((1, terms.plus), (-1, terms.minus)):
        for rows in side:
            groups = in_ranges(claim.statistic, rows)  # type: ignore[arg-type]
            for own in groups:
                r = np.array([pearson(rows[k].x, rows[k].y) for k in own])
                free = np.clip(r / root, -1, 1) if root else np.sign(r)
                low, high = np.minimum(r, free), np.maximum(r, free)
                least_range = np.maximum(0.0, low.max(axis=0) - high.min(axis=0))
                most_range = high.max(axis=0) - low.min(axis=0)
                change = (np.ptp(r, axis=0) - least_range, most_range - np.ptp(r, axis=0))
                fewer, more = change if sign > 0 else change[::-1]
                down, up = down + fewer / len(groups), up + more / len(groups)
    return ends[0] - down, ends[1] + up
