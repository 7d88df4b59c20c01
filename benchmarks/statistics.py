"""Coverage, type-I error and power of the analysis, by simulation with known truth.

`python -m benchmarks.statistics` prints the tables of docs/statistics.md.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np

from diffusability.analysis.estimators import Array, pearson
from diffusability.analysis.intervals import cluster_interval, units
from diffusability.claims.claim import Region
from diffusability.claims.joint import Row, Terms, evaluate
from diffusability.claims.power import simulate

# sizes of the clusters of each family
LAYOUTS: dict[str, tuple[int, ...]] = {
    "10 in 4": (4, 3, 2, 1),
    "12 in 7": (3, 2, 2, 2, 1, 1, 1),
    "12 in 8": (3, 2, 2, 1, 1, 1, 1, 1),
    "20 in 5": (4, 4, 4, 4, 4),
    "21 in 8": (4, 4, 3, 3, 2, 2, 2, 1),
    "43 in 8": (6, 6, 6, 5, 5, 5, 5, 5),
    "43 in 8 (the paper)": (15, 6, 6, 6, 4, 3, 2, 1),
}
# methods and encoders, empty without one, of tokenizers whose encoders cross the methods
CROSSED: dict[str, tuple[tuple[str, str], ...]] = {
    "10 in 8, 2 encoders": tuple(zip("brrcdvvelm", ["", *"LVLLLV", "", "", ""], strict=True)),
    "12 in 8, 3 encoders": tuple(zip("brrccdvvvelm", ["", *"LVLPLLVP", "", "", ""], strict=True)),
    "43 in 9, 7 encoders": (
        *((method, encoder) for method in "rcdvx" for encoder in "1234567"),
        *((method, "") for method in "beellmma"),
    ),
}
METRICS = ("a", "b", "c")
BACKBONES = ("sit-b", "lightningdit-b")


def labels_of(sizes: Sequence[int]) -> np.ndarray:
    """Return the cluster of every tokenizer."""
    return np.repeat(np.arange(len(sizes)), sizes)


def clustered(
    sizes: Sequence[int], resemblance: float, r: float, draws: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return normal x and y (n, draws) with correlation r, alike in the clusters."""
    labels = labels_of(sizes)

    def normal() -> Array:
        shared = rng.standard_normal((len(sizes), draws))[labels]
        own = rng.standard_normal((len(labels), draws))
        return math.sqrt(resemblance) * shared + math.sqrt(1 - resemblance) * own

    x, rest = normal(), normal()
    return x, r * x + math.sqrt(1 - r * r) * rest


def coverage(
    sizes: Sequence[int], resemblance: float, r: float, draws: int = 4000, seed: int = 0
) -> float:
    """Return the share of 95 % intervals of a correlation that hold the true r."""
    x, y = clustered(sizes, resemblance, r, draws, np.random.default_rng(seed))
    found = cluster_interval(pearson, (x, y), labels_of(sizes))
    return float(((found.low <= r) & (r <= found.high)).mean())


def crossed_coverage(
    layout: Sequence[tuple[str, str]],
    likeness: tuple[float, float],
    r: float,
    draws: int = 4000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the coverage of a true r where methods and encoders cross each other.

    Args:
        layout: method and encoder of each tokenizer.
        likeness: shares of variance common to a method and to an encoder.
        r: true correlation. draws: number of data sets. seed: of the data.

    Returns:
        Of the interval, and of one over methods alone.
    """
    rng = np.random.default_rng(seed)
    labels = np.array(layout, dtype=object)
    ways = [np.unique(way.astype(str), return_inverse=True)[1] for way in units(labels)[:2]]

    def normal() -> Array:
        parts = [
            math.sqrt(share) * rng.standard_normal((codes.max() + 1, draws))[codes]
            for share, codes in zip(likeness, ways, strict=True)
        ]
        own = rng.standard_normal((len(labels), draws))
        total: Array = sum(parts) + math.sqrt(1 - sum(likeness)) * own
        return total

    x, rest = normal(), normal()
    y = r * x + math.sqrt(1 - r * r) * rest
    both, methods = (cluster_interval(pearson, (x, y), of) for of in (labels, labels[:, 0]))
    held, alone = (((i.low <= r) & (r <= i.high)).mean() for i in (both, methods))
    return float(held), float(alone)


def rows_of(
    sizes: Sequence[int], families: int, papers: Sequence[float], backbones: Sequence[str]
) -> tuple[Terms, np.ndarray]:
    """Return one term per value of `papers` over families and backbones, and the clusters."""
    n = int(sum(sizes))
    terms = [
        [
            Row(
                {"target": "t", "backbone": b, "guidance": 1, "family": f, "metric": METRICS[k]},
                np.arange(f * n, (f + 1) * n),
                np.empty((0, 1)),
                paper=r,
            )
            for f in range(families)
            for b in backbones
        ]
        for k, r in enumerate(papers)
    ]
    return Terms(terms), np.tile(labels_of(sizes), families)


def verdict_shares(
    region: Region,
    sizes: Sequence[int],
    families: int,
    truth: Sequence[float],
    *,
    difference: bool = False,
    least: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return how often a claim is reproduced, and contradicted, where the truth is known.

    Args:
        region: of the claim. sizes: of the clusters of each family. families: their number.
        truth: r of each term over both backbones.
        difference: of the first term and the second. least: the smallest term.
        draws: number of data sets. seed: of the data.
    """
    terms, clusters = rows_of(sizes, families, truth, BACKBONES)
    made = simulate("correlation", terms, clusters, 1.0, draws, seed)
    if difference:
        made = Terms(made.plus[:1], made.plus[1:])
    found = evaluate("correlation", made, clusters, least=least)
    inside = (found.low >= region.low) & (found.high <= region.high)
    outside = (found.high < region.low) | (found.low > region.high)
    return float(inside.mean()), float(outside.mean())


STRONG = Region(0.5, math.inf, "at least 0.5")
STRONGER = Region(0.0, math.inf, "at least 0")
# words: region, r of the terms, and what differs from a mean over rows
TRUTHS: dict[str, tuple[Region, tuple[float, ...], dict[str, bool]]] = {
    "r ≥ .5, true .87": (STRONG, (0.87,), {}),
    "r ≥ .5, true .70": (STRONG, (0.70,), {}),
    "r ≥ .5, true .50 (border)": (STRONG, (0.5,), {}),
    "r ≥ .5, true .20": (STRONG, (0.2,), {}),
    "a stronger than b, .87 and .50": (STRONGER, (0.87, 0.5), {"difference": True}),
    "a stronger than b, .70 and .70 (border)": (STRONGER, (0.7, 0.7), {"difference": True}),
    "both ≥ .5, .87 and .87": (STRONG, (0.87, 0.87), {"least": True}),
    "both ≥ .5, .87 and .50 (border)": (STRONG, (0.87, 0.5), {"least": True}),
}


def print_coverage(draws: int) -> None:
    """Print the coverage of the interval over clusters."""
    print("| tokenizers in clusters | likeness | r = 0 | r = .7 | r = .87 |\n|---|---|---|---|---|")
    for name, sizes in LAYOUTS.items():
        for likeness in (0.0, 0.5, 0.8):
            found = [coverage(sizes, likeness, r, draws) for r in (0.0, 0.7, 0.87)]
            cells = " | ".join(f"{share:.3f}" for share in found)
            print(f"| {name} | {likeness:g} | {cells} |")


def print_crossed(draws: int) -> None:
    """Print the coverage where encoders cross the methods, and that over methods alone."""
    print("\n| tokenizers in methods | likeness | r = 0 | r = .7 | methods alone |")
    print("|---|---|---|---|---|")
    for name, layout in CROSSED.items():
        for likeness in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.0, 0.8), (0.4, 0.4)):
            found = [crossed_coverage(layout, likeness, r, draws) for r in (0.0, 0.7)]
            cells = " | ".join(f"{held:.3f}" for held, _ in found)
            words = f"{likeness[0]:g}, {likeness[1]:g}"
            print(f"| {name} | {words} | {cells} | {min(alone for _, alone in found):.3f} |")


def print_verdicts(draws: int) -> None:
    """Print how often verdicts are given."""
    print("\n| claim | layout | families | reproduced | contradicted |\n|---|---|---|---|---|")
    for words, (region, truth, how) in TRUTHS.items():
        for name in ("12 in 8", "43 in 8 (the paper)"):
            for families in (1, 2):
                sizes = LAYOUTS[name]
                yes, no = verdict_shares(region, sizes, families, truth, **how, draws=draws)  # type: ignore[arg-type]
                print(f"| {words} | {name} | {families} | {yes:.3f} | {no:.3f} |")


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4000, help="data sets per number")
    draws = parser.parse_args(argv).draws
    print_coverage(draws)
    print_crossed(draws)
    print_verdicts(draws)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
