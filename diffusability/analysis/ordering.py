"""Does a metric order tokenizers rightly, and what does it cost to trust its first choice?"""

from dataclasses import dataclass

import numpy as np

from diffusability.analysis.estimators import Array, Estimator, columns, pair_signs, pair_sums
from diffusability.analysis.intervals import Draws, bootstrap_intervals


@dataclass(frozen=True)
class Ordering:
    """Pairwise ordering accuracy of P scores.

    Attributes:
        accuracy: (P,) share of the pairs that a score orders rightly, ties counting half, in
            [0, 1]; 0.5 is chance, higher is better. NaN where no pair can be told apart.
        pairs: number of pairs further apart than twice their noise.
        estimator: 2 accuracy - 1, a rank correlation like Kendall's tau, under resampling.
        note: what to know of the threshold.
    """

    accuracy: Array
    pairs: int
    estimator: Estimator
    note: str

    def intervals(
        self, draws: Draws, confidence: float = 0.95, resamples: int = 9999
    ) -> list[tuple[float | None, float | None]]:
        """Return the interval of each accuracy, None where there is none (see ``intervals``)."""
        found = bootstrap_intervals(self.estimator, draws, confidence, resamples)
        return [
            (None, None)
            if interval.low is None or interval.high is None
            else ((1 + interval.low) / 2, (1 + interval.high) / 2)
            for interval in found
        ]


def order_pairs(score: Array, y: Array, y_stderr: Array) -> Ordering:
    """Return the share of tokenizer pairs whose order in y a score predicts.

    Only pairs with |y_i - y_j| > 2 sqrt(se_i² + se_j²) count: the others have no known order.

    Args:
        score: (n,) or (n, P) predicted target, in any unit, larger for a larger target.
        y: (n,) target. y_stderr: (n,) its standard error; NaN counts as 0, and is noted.

    Returns:
        Accuracies, number of pairs, and the estimator for intervals.
    """
    unknown = int(np.isnan(y_stderr).sum())
    square = np.nan_to_num(y_stderr) ** 2
    first, second = np.triu_indices(len(y), 1)
    gap, noise = np.abs(y[first] - y[second]), np.sqrt(square[first] + square[second])
    counted = (gap > 2 * noise)[:, None] * 1.0  # (pairs, 1)
    signed = counted * pair_signs(columns(score)) * pair_signs(columns(y))  # (pairs, P)
    both = np.concatenate([counted, signed], axis=1)

    def weighted(weights: Array) -> Array:
        # pairs of copies of one tokenizer have no gap and never count
        sums = pair_sums(weights, both)
        total, excess = sums[:, :1], sums[:, 1:]
        return np.where(total > 0, excess / np.where(total > 0, total, 1.0), np.nan)

    pairs, n = int(counted.sum()), len(y)
    # normal theory of tau, the closest there is: it keeps a perfect order of few from being sure
    variance = 0.437 / (n - 4) if n > 4 else float("inf")
    estimator = Estimator(weighted, n, z_variance=variance, step=1 / max(pairs, 2))
    note = f"{unknown} tokenizers without standard error: taken as 0" if unknown else ""
    if not pairs:
        note = "no two tokenizers are further apart than twice their noise"
    return Ordering((1 + estimator.values) / 2, pairs, estimator, note)


def top1_regret(score: Array, y: Array, better_high: bool) -> float:
    """Return what is lost by taking the tokenizer that a score puts first.

    Args:
        score: (n,) predicted target, larger for a larger target. y: (n,) target.
        better_high: whether a higher target is better.

    Returns:
        Distance of the chosen target from the best, in its unit, at least 0 (lower is better).
        Of several tokenizers with the same first score, their mean counts.
    """
    direction = 1.0 if better_high else -1.0
    best = direction * score
    chosen = y[best == best.max()].mean()
    return float((direction * y).max() - direction * chosen)
