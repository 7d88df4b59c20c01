"""How often predictions of a further latent space are made, and how often their intervals hold.

    python -m benchmarks.prediction

prints the table of docs/statistics.md: made-up studies in which two of four metrics follow a hidden
quality, as the target does, and tokenizers of further clusters that the study has not seen.
"""

import numpy as np

from diffusability.analysis.prediction import Forecast, Points

STUDIES, FURTHER = 120, 5  # further: clusters that are predicted


def made_up(
    random: np.random.Generator, clusters: int, each: int, noise: float, signal: float = 1.0
) -> Points:
    """Return latent spaces of a study.

    Args:
        random: source of chance. clusters: of `each` tokenizers.
        noise: of the target, over the spread of the quality.
        signal: of the quality in two of four metrics, over their noise times two and one.
    """
    number = np.repeat(np.arange(clusters), each)

    def normal() -> np.ndarray:
        """Half of the variance is common to a cluster."""
        return 0.7 * random.normal(size=clusters)[number] + 0.7 * random.normal(size=len(number))

    quality = normal()
    x = np.column_stack([(j < 2) * signal * quality + (0.5 + j / 2) * normal() for j in range(4)])
    y = 4 + 0.5 * (quality + noise * normal())
    return Points(tuple("abcd"), x, y, number, tuple(map(str, range(len(number)))))


def simulate(
    clusters: int, each: int, noise: float, signal: float, studies: int = STUDIES, seed: int = 0
) -> dict[str, float]:
    """Return shares: studies that predict, intervals that hold of these, and of all studies."""
    random = np.random.default_rng(seed)
    predicts, held, held_all, refused = [], [], [], []
    for _ in range(studies):
        points = made_up(random, clusters + FURTHER, each, noise, signal)
        known = points.clusters < clusters
        fit = Forecast(points.of(known))
        predicts.append(not fit.lack)
        for x, truth in zip(points.x[~known], np.exp(points.y[~known]), strict=True):
            _, low, high = fit.predict(x)
            held_all.append(low <= truth <= high)
            if predicts[-1]:
                refused.append(fit.outside(x))
                if not refused[-1]:
                    held.append(held_all[-1])
    shares = {"predicts": predicts, "refused": refused, "held": held, "held_all": held_all}
    return {name: float(np.mean(values)) for name, values in shares.items()}


def main() -> None:
    """Print one row per kind of study."""
    print("| tokenizers in clusters | noise | predicts | outside of its support | held | of all |")
    print("|---|---|---|---|---|---|")
    for clusters, each in ((6, 4), (9, 2)):
        for noise, signal in ((0.3, 1.0), (1.0, 1.0), (1.0, 0.0)):
            found = simulate(clusters, each, noise, signal)
            words = f"{noise}" if signal else "metrics without a relation"
            cells = " | ".join(
                f"{found[k]:.2f}" for k in ("predicts", "refused", "held", "held_all")
            )
            print(f"| {clusters * each} in {clusters} | {words} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
