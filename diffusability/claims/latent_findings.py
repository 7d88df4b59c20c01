"""Statistics for testing the claims of the Fisher paper's image experiments.

Every statistic has its own row with its interval: for every backbone's learned curves, for the
curves of fitted mixtures, and (without network) for the encoders. Tokenizers are identified by
their roles. Curves with flags (inconsistent estimates) are left out. Both sides of a ratio are
treated as independent, which is conservative if they share their images.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, get_args

import numpy as np
import pandas as pd

from diffusability.analysis.catalogue import DISTANCE
from diffusability.analysis.frames import table_frame
from diffusability.analysis.latent_spaces import (
    FITS,
    fisher_totals,
    networks,
    of_role,
    per_dimension,
    spectrum_order,
    with_roles,
)
from diffusability.analysis.panels import Measured, Table
from diffusability.claims.run_estimates import LOOKS, Ranged, estimates, mean_of, wholes
from diffusability.study.entries.roles import GPE, LEVEL, PERMUTED, PIXELS, TRAINED, VAE, VAE_MEANS
from diffusability.study.entries.tokenizer import LinearSource

UNKNOWN = "nothing was trained twice, or the measurement has no error"
HALF_LOST = "most noise levels of one half have flags"
ONCE = 1.96  # half-width in standard errors for a single number instead of a curve
_READINGS = ("raw", "per_dimension")
_VAES = (VAE, VAE_MEANS)  # what the GPE, which has no posterior noise, is compared with


def latent_findings(measurements: Table, spectra: pd.DataFrame) -> pd.DataFrame:
    """Return the statistics used by claims on latent spaces of images.

    Args:
        measurements: the tidy table. spectra: from ``collect_spectra``; may be empty.

    Returns:
        One row per statistic, network, space and noise variance, a network's curves also by the
        paper's estimators (``AS_PAPER``); "metric" contains space and v as
        text. D and F_D are dimension and FI (or FIR) of pixel space, d and F_d
        those of a latent space; <reading> is "raw" for F, or "per_dimension" for F / n.

        fi_gap_<reading>, fir_gap_<reading>: |F_d / F_D - 1| of the GPE minus that of the VAE; below
            0 the GPE is closer to pixels. Models are trained on draws from the VAE's posteriors,
            and, where the study has the source `means`, on their means, as all fits are; the
            space ends in "(draws)" or "(means)".
        fi_gap_<reading>_curve, fir_gap_<reading>_curve: the same of the supremum over v, and of the
            mean over log v.
        fir_gap_small_noise: v^2 |F_D - F_d| / D of the VAE minus that of the GPE, its mean over the
            smaller half of the noise levels minus that over the larger half.
        fi_level_<reading>, fir_level_<reading>, mmse_rate_level_<reading> and ``_curve``: |log F_d
            / F_D| of a level minus that of the next coarser one, at every v, and of the supremum
            and the mean over log v; below 0 finer is closer to pixels. A note
            says where log n / D of the levels alone decides the raw FI and FIR; where it decides
            against finer levels, they have no interval.
        fi_level_noise, fir_level_noise: |F_d - F_D| of a level at the largest v minus its mean over
            the smaller half of the noise levels, over F_D at the smallest; below 0 curves come
            together with noise.
        fi_level_noise_per_dimension, fir_level_noise_per_dimension: |log F_d / F_D| per dimension
            of a level at the largest v minus its mean over the smaller half.
        fi_permuted, fir_permuted: log F of permuted pixels over that of pixels; 0 is no change.
        stretch_gap: log of the ratio of the 99th to the 1st percentile of the GPE's distance
            quotients, minus that of the VAE; below 0 the GPE is closer to a similarity.
        stretch_ratio (of what is trained), distance: as measured (Tables 1 to 3).
        mse_gap: log of the reconstruction error of the GPE over that of the VAE.
        distance_gap: Frechet distance in the GPE's latents minus that in the VAE's.
        distance_to_pixels: Frechet distance in a space minus that in pixel space.
        spectrum_rise: largest rise of log power between neighbouring frequencies; above 0 the
            spectrum does not fall everywhere.
        spectrum_slope_distance: |slope of a level minus that of pixels|; slopes are of log power
            against log frequency. spectrum_permuted: slope of permuted pixels minus that of
            pixels; 0 is no change.
    """
    measured = Measured.of(measurements).table
    ours, papers = fisher_totals(measured), fisher_totals(measured, as_paper=True)
    totals = pd.concat([ours, papers], ignore_index=True)
    rows: list[dict[str, object]] = []
    for network in networks(totals):
        curves = _Curves.of(totals, network)
        for part in (_encoder_gaps, _level_steps, _permutation):
            rows += [row | {"network": network} for row in part(curves)]
    table = with_roles(measured)
    rows += [*_encoders(table), *_distances(table), *_spectra(table, spectra)]
    dataset = measured["dataset"].iloc[0] if len(measured) else ""
    found = table_frame("latent_findings", rows)
    note = found["note"].mask(found["low"].isna() & (found["note"] == ""), UNKNOWN)
    return found.assign(dataset=dataset, note=note)


def _row(statistic: str, space: str, v: float, at: Ranged) -> dict[str, Any]:
    return at.row(statistic, space, f"v = {v:.2g}", v=v)


@dataclass(frozen=True)
class _Curves:
    """The curves of one network.

    Attributes:
        network: whose curves they are.
        logs: log of the total by quantity, tokenizer and v, means over runs without flags.
        dims: dimensions by tokenizer.
        roles: tokenizers by role; levels from coarse to fine.
        grid: noise variances that were asked for, also where every estimate has a flag.
    """

    network: str
    logs: dict[tuple[str, str, float], Ranged]
    dims: dict[str, int]
    roles: dict[str, list[str]]
    grid: tuple[float, ...]

    @classmethod
    def of(cls, totals: pd.DataFrame, network: str) -> "_Curves":
        """Read the curves of a network."""
        own = totals[totals["network"] == network]
        dims = dict(zip(own["tokenizer"], own["dim"].astype(int), strict=True))
        roles = {r: of_role(own, [r]) for r in (PIXELS, PERMUTED, *TRAINED)}
        roles[LEVEL].sort(key=lambda name: dims[name])
        # of several trainings, one with a flag at a noise level takes that level from all
        good = (own["flags"] == "") & (own["total"] > 0)
        good &= good.groupby([own["quantity"], own["tokenizer"], own["v"]]).transform("all")
        kept = own[good].rename(columns={"total": "value"})
        # the fit of an untrained encoder has no spread between trainings
        trained = kept["role"].isin(TRAINED) | (network != FITS)
        logs: dict[tuple[str, str, float], Ranged] = {}
        for is_trained, part in kept.groupby(trained):
            for (quantity, v), at in part.groupby(["quantity", "v"], sort=True):
                means = _means(at, LOOKS, logarithm=True, trained=bool(is_trained))
                for name, found in means.items():
                    logs[str(quantity), name, float(str(v))] = found
        return cls(network, logs, dims, roles, tuple(sorted(own["v"].unique())))

    def pairs(self, *roles: str) -> Iterator[tuple[str, ...]]:
        """Yield every combination of one tokenizer per role."""
        yield from product(*(self.roles[role] for role in roles))

    def encoders(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield every GPE, VAE and pixel space, and of what the VAE's curve is.

        Models of a VAE have seen draws from its posteriors; those of its source `means`, and all
        fits, posterior means.
        """
        seen = {VAE: "means"} if self.network == FITS else {VAE: "draws", VAE_MEANS: "means"}
        for role, what in seen.items():
            for gpe, vae, pixels in self.pairs(GPE, role, PIXELS):
                yield gpe, vae, pixels, what

    def levels(self, quantity: str, *spaces: str) -> list[float]:
        """Return the noise variances with estimates for all spaces."""
        there = [{v for q, s, v in self.logs if q == quantity and s == name} for name in spaces]
        return sorted(set.intersection(*there)) if there else []

    def halves(self, known: Sequence[float]) -> tuple[list[float], list[float]] | None:
        """Return the known levels of the smaller and of the larger half of the noise variances.

        None: fewer than half of either half are known, which then says little of it.
        """
        size = len(self.grid) // 2
        parts = self.grid[:size], self.grid[-size:]
        small, large = ([v for v in part if v in known] for part in parts)
        return (small, large) if 2 * min(len(small), len(large)) >= max(1, size) else None

    def ratio(self, quantity: str, space: str, pixels: str, v: float, reading: str) -> Ranged:
        """Return log F_d / F_D, or the same per dimension."""
        gap = self.logs[quantity, space, v] - self.logs[quantity, pixels, v]
        count = math.log(self.dims[space] / self.dims[pixels])
        return Ranged(gap.value - (count if reading == "per_dimension" else 0.0), gap.reach)


def _runs(rows: pd.DataFrame) -> dict[Hashable, list[tuple[float, float]]]:
    """Return value and error of every run, by tokenizer.

    Of a tokenizer that was trained several times, each training is one run, whose models are
    averaged: so all trainings count the same.
    """
    found: dict[Hashable, list[tuple[float, float]]] = {}
    for name, part in rows.groupby("tokenizer", sort=False):
        if part["tokenizer_seed"].nunique() > 1:
            part = part.groupby("tokenizer_seed", sort=False)[["value", "stderr"]].mean()
        found[name] = list(part[["value", "stderr"]].itertuples(index=False, name=None))
    return found


def _distance(ratio: Ranged) -> Ranged:
    """Return |F_d / F_D - 1| of a log ratio."""
    return abs(ratio.exp() - Ranged(1.0, 0.0))


def _farther(
    statistic: str, space: str, own: Mapping[float, Ranged], other: Mapping[float, Ranged]
) -> Iterator[dict[str, object]]:
    """Yield how much larger the distances of a curve are than those of another of the same levels.

    At every noise variance, and as a whole (``_curve``).
    """
    for v in own:
        yield _row(statistic, space, v, own[v] - other[v])
    others = wholes(other)
    for part, whole in wholes(own).items():
        yield (whole - others[part]).row(f"{statistic}_curve", space, part)


def _half_lost(statistic: str, space: str) -> dict[str, object]:
    """Return the row of a statistic of halves of the noise variances that cannot be told."""
    return Ranged(math.nan, math.nan).row(statistic, space) | {"note": HALF_LOST}


def _encoder_gaps(curves: _Curves) -> Iterator[dict[str, object]]:
    for gpe, vae, pixels, what in curves.encoders():
        space = f"{gpe} against {vae} ({what})"
        for quantity, reading in product(("fi", "fir"), _READINGS):
            statistic = f"{quantity}_gap_{reading}"
            grid = curves.levels(quantity, gpe, vae, pixels)
            own, other = (
                {v: _distance(curves.ratio(quantity, s, pixels, v, reading)) for v in grid}
                for s in (gpe, vae)
            )
            yield from _farther(statistic, space, own, other)
        yield from _small_noise(curves, gpe, vae, pixels, space)


def _small_noise(
    curves: _Curves, gpe: str, vae: str, pixels: str, space: str
) -> Iterator[dict[str, object]]:
    """Yield how much more the GPE gains over the VAE at small noise than at large noise."""
    gaps: dict[float, Ranged] = {}
    for v in curves.levels("fir", gpe, vae, pixels):
        own = _distance(curves.ratio("fir", gpe, pixels, v, "raw"))
        other = _distance(curves.ratio("fir", vae, pixels, v, "raw"))
        unit = curves.logs["fir", pixels, v].exp().value  # F_D, whose error enters both
        gaps[v] = (other - own).times(unit * per_dimension("fir", v, curves.dims[pixels]))
    if halves := curves.halves(list(gaps)):
        small, large = (mean_of([gaps[v] for v in half]) for half in halves)
        yield (small - large).row("fir_gap_small_noise", space)
    elif gaps:
        yield _half_lost("fir_gap_small_noise", space)


def _level_steps(curves: _Curves) -> Iterator[dict[str, object]]:
    for pixels in curves.roles[PIXELS]:
        for quantity, reading in product(("fi", "fir", "mmse_rate"), _READINGS):
            statistic = f"{quantity}_level_{reading}"
            counted = reading == "raw" and quantity != "mmse_rate"
            for coarse, fine in pairwise(curves.roles[LEVEL]):
                more = _decided_by_size(curves, coarse, fine, pixels) if counted else {}
                space = f"{fine} against {coarse}"
                grid = curves.levels(quantity, coarse, fine, pixels)
                far, near = (
                    {v: abs(curves.ratio(quantity, s, pixels, v, reading)) for v in grid}
                    for s in (coarse, fine)
                )
                yield from (row | more for row in _farther(statistic, space, near, far))
        for quantity, level in product(("fi", "fir"), curves.roles[LEVEL]):
            yield from _noise_steps(curves, quantity, level, pixels)


def _decided_by_size(curves: _Curves, coarse: str, fine: str, pixels: str) -> dict[str, object]:
    """Return how sizes alone decide; no interval where the finer level is farther in size."""
    far, near = (abs(math.log(curves.dims[s] / curves.dims[pixels])) for s in (coarse, fine))
    if near == far:
        return {}
    sizes = f"{curves.dims[coarse]} and {curves.dims[fine]} beside {curves.dims[pixels]}"
    note = f"dimensions alone decide: {sizes}"
    if near < far:
        return {"note": f"{note}, in favour of the finer level"}
    note += "; choose levels whose size approaches that of pixels"
    return {"low": math.nan, "high": math.nan, "note": note}


def _noise_steps(
    curves: _Curves, quantity: str, level: str, pixels: str
) -> Iterator[dict[str, object]]:
    """Yield how the distance of a level from pixels changes towards the largest noise.

    Curves may cross, so single noise levels say nothing.
    """
    grid = curves.levels(quantity, level, pixels)
    halves = curves.halves(grid)
    if halves is None:
        if grid:
            for ending in ("noise", "noise_per_dimension"):
                yield _half_lost(f"{quantity}_level_{ending}", level)
        return
    small, last = halves[0], grid[-1]
    of_level, of_pixels = (
        {v: curves.logs[quantity, s, v].exp() for v in grid} for s in (level, pixels)
    )
    apart = {v: abs(of_level[v] - of_pixels[v]) for v in grid}
    together = apart[last] - mean_of([apart[v] for v in small])
    yield together.times(1 / of_pixels[grid[0]].value).row(f"{quantity}_level_noise", level)
    ratios = {v: abs(curves.ratio(quantity, level, pixels, v, "per_dimension")) for v in grid}
    closer = ratios[last] - mean_of([ratios[v] for v in small])
    yield closer.row(f"{quantity}_level_noise_per_dimension", level)


def _permutation(curves: _Curves) -> Iterator[dict[str, object]]:
    for permuted, pixels in curves.pairs(PERMUTED, PIXELS):
        for quantity in ("fi", "fir"):
            for v in curves.levels(quantity, permuted, pixels):
                change = curves.ratio(quantity, permuted, pixels, v, "raw")
                yield _row(f"{quantity}_permuted", permuted, v, change)


def _means(
    table: pd.DataFrame, looks: float = ONCE, *, logarithm: bool = False, trained: bool = True
) -> dict[str, Ranged]:
    """Return the mean over runs of one number by tokenizer (``estimates``); empty without runs."""
    known = table[table["value"].notna()]
    if logarithm:
        known = known[known["value"] > 0]
        error = known["stderr"] / known["value"]
        known = known.assign(value=np.log(known["value"]), stderr=error)
    return {str(k): found for k, found in estimates(_runs(known), looks, trained=trained).items()}


def _encoders(table: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield what is measured of the encoders alone."""
    trained = ~table["cluster"].isin(get_args(LinearSource))
    ratios = table[trained & (table["metric"] == "geometry.stretch_ratio")]
    for space, value in _means(ratios, logarithm=True).items():
        row = value.row("stretch_ratio", space)
        yield row | {end: math.exp(row[end]) for end in ("value", "low", "high")}
    yield from _log_gaps(table, "geometry.stretch_q99_q01", "stretch_gap")
    yield from _log_gaps(table, "reconstruction.mse", "mse_gap")


def _log_gaps(table: pd.DataFrame, metric: str, statistic: str) -> Iterator[dict[str, object]]:
    """Yield the log ratio of a metric of every GPE to that of every VAE."""
    logs = _means(table[table["metric"] == metric], logarithm=True)
    for gpe, vae in product(of_role(table, [GPE]), of_role(table, [VAE])):
        if gpe in logs and vae in logs:
            yield (logs[gpe] - logs[vae]).row(statistic, f"{gpe} against {vae}")


def _distances(table: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield the Frechet distances at the smallest guidance scale, by backbone."""
    target = table["metric"].str.fullmatch(DISTANCE)
    for network, rows in table[target].groupby("backbone", sort=False):
        rows = rows[
            (rows["guidance"] == rows["guidance"].min())
            & (rows["metric"] == rows["metric"].iloc[0])
        ]
        found, of = _means(rows), str(network)
        for space, value in found.items():
            yield value.row("distance", space, network=of)
        for gpe, vae in product(of_role(rows, [GPE]), of_role(rows, _VAES)):
            if gpe in found and vae in found:
                gap = found[gpe] - found[vae]
                yield gap.row("distance_gap", f"{gpe} against {vae}", network=of)
        for space, pixels in product(of_role(rows, [GPE, *_VAES]), of_role(rows, [PIXELS])):
            if space in found and pixels in found:
                gap = found[space] - found[pixels]
                yield gap.row("distance_to_pixels", space, network=of)


def _spectra(table: pd.DataFrame, spectra: pd.DataFrame) -> Iterator[dict[str, object]]:
    own = "geometry." + table["role"].map(spectrum_order) + "_slope"
    rows = table[table["metric"] == own]
    slopes = _means(rows[rows["role"].isin([PIXELS, PERMUTED])], trained=False)
    slopes |= _means(rows[rows["role"].isin(TRAINED)])
    pixels = [name for name in of_role(table, [PIXELS]) if name in slopes]
    for role, statistic in ((LEVEL, "spectrum_slope_distance"), (PERMUTED, "spectrum_permuted")):
        for space, reference in product(of_role(table, [role]), pixels):
            if space in slopes:
                gap = slopes[space] - slopes[reference]
                yield (abs(gap) if role == LEVEL else gap).row(statistic, space)
    if len(spectra):
        yield from _rises(with_roles(spectra))


def _rises(spectra: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield the largest rise of each spectrum in its own order, for the first seed."""
    for space, rows in spectra.groupby("tokenizer", sort=False):
        order = spectrum_order(rows["role"].iloc[0])
        own = rows[(rows["order"] == order) & (rows["permuted"] == 0)]
        own = own[own["tokenizer_seed"] == own["tokenizer_seed"].min()].sort_values("frequency")
        if rows["role"].iloc[0] not in (PIXELS, PERMUTED, *TRAINED) or len(own) < 2:
            continue
        power = own["power"].to_numpy(float)
        error = own["stderr"].to_numpy(float) / power
        steps, noise = np.diff(np.log(power)), np.hypot(error[:-1], error[1:])
        at = int(steps.argmax())
        found = Ranged(float(steps[at]), LOOKS * float(noise[at]))
        yield found.row("spectrum_rise", str(space))
