"""What moved each metric in a study: its methods, each against tokenizers without a regularizer.

A metric is fitted by a level per family plus an effect per method. Tokenizers of one method differ
too: what the fit leaves over is the yardstick. A method is named where its effect is larger than
Student's 95 % quantile of that spread, corrected for the number of methods.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
from scipy import stats

from diffusability.study.metrics.groups import METRIC_GROUPS

BASELINE = "baseline"  # the cluster of tokenizers without a regularizer
LEVEL = 0.95


@dataclass(frozen=True)
class Effect:
    """Difference of a method from the baseline, with its standard error."""

    method: str
    gap: float
    stderr: float


def advice(known: pd.DataFrame) -> list[str]:
    """Return what moved the metric of each perspective; equal sentences are said once.

    Args:
        known: tokenizer, family, cluster, metric, value; means over seeds. Without families and
            clusters there is nothing to say.
    """
    if not {"family", "cluster"} <= set(known.columns):
        return []
    found: dict[str, list[str]] = {}
    for group in METRIC_GROUPS.values():
        if not group.shows:
            continue
        short, pattern = next(iter(group.shows.items()))
        rows = known[[fnmatchcase(str(name), pattern) for name in known["metric"]]].dropna()
        sentence = _sentence(rows)
        if sentence:
            found.setdefault(sentence, []).append(f"{short} ({group.title})")
    return [f"{', '.join(metrics)}: {sentence}" for sentence, metrics in found.items()]


def _sentence(rows: pd.DataFrame) -> str:
    """Return what moved a metric, empty where nothing is compared."""
    methods = sorted(set(rows["cluster"]) - {BASELINE})
    if not methods or BASELINE not in set(rows["cluster"]):
        return ""
    fitted = method_effects(rows)
    if fitted is None:
        return "too few tokenizers per method to tell what a method moves from chance"
    effects, freedom = fitted
    quantile = float(stats.t.ppf(1 - (1 - LEVEL) / (2 * len(methods)), freedom))
    moved = [e for e in effects if abs(e.gap) > quantile * e.stderr]
    plain = rows.loc[rows["cluster"] == BASELINE, "value"].mean()
    if not moved:
        return (
            f"none of {len(methods)} methods moves it by more than tokenizers of one method "
            "differ from each other"
        )
    moved.sort(key=lambda effect: -abs(effect.gap))
    words = ", ".join(f"{e.method} ({e.gap:+.2g} ± {e.stderr:.1g})" for e in moved)
    rest = len(methods) - len(moved)
    others = f"; of {rest} other{'s' * (rest > 1)} it cannot be told" if rest else ""
    return f"moved from {plain:.3g} of the baseline by {words}{others}"


def method_effects(rows: pd.DataFrame) -> tuple[list[Effect], int] | None:
    """Return the effect of every method, and the degrees of freedom of its error.

    Args:
        rows: family, cluster, value, one per tokenizer.

    Returns:
        None where the spread or an effect is not determined.
    """
    methods = sorted(set(rows["cluster"]) - {BASELINE})
    families = sorted(set(rows["family"]))
    own = [(rows["family"] == name).to_numpy(float) for name in families]
    own += [(rows["cluster"] == name).to_numpy(float) for name in methods]
    design, values = np.column_stack(own), rows["value"].to_numpy(float)
    freedom = len(values) - design.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    inverse = np.linalg.inv(design.T @ design)
    estimates = inverse @ (design.T @ values)
    spread = float((((values - design @ estimates) ** 2).sum() / freedom) ** 0.5)
    errors = spread * np.diag(inverse) ** 0.5
    first = len(families)
    effects = [
        Effect(name, float(estimates[first + k]), float(errors[first + k]))
        for k, name in enumerate(methods)
    ]
    return effects, freedom
