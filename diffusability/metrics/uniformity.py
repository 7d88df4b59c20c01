"""Uniformity of the latent space: how evenly single-pixel latents spread in a t-SNE plane.

Protocol of VA-VAE (Yao et al., "Reconstruction vs. Generation", CVPR 2025), which "Diffusing in the
Right Space" (arXiv 2606.03578) adopts: from each image one latent pixel at random, z-scored per
channel; t-SNE to the plane; a Gaussian kernel density at the points themselves; three statistics of
those densities. Their range over tokenizers is small, so the spread over repeats is measured too.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import gaussian_kde
from sklearn.manifold import TSNE
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_limits
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.latents.channel_statistics import channel_statistics, normalise
from diffusability.metrics.measurement import Measurement

_HIGHER_IS_BETTER = {"density_cv": False, "gini": False, "normalised_entropy": True}
_LOG_GUARD = 1e-10  # of the protocol; it moves the entropy by less than 1e-4


def density_cv(densities: NDArray[np.float64]) -> float:
    """Return the coefficient of variation: population standard deviation over mean.

    Args:
        densities: (n,) densities > 0, any common scale.

    Returns:
        Pure number >= 0, 0 for equal densities; LOWER is more uniform.
    """
    return float(densities.std() / densities.mean())


def gini(densities: NDArray[np.float64]) -> float:
    """Return the Gini coefficient: sum_i (2i - n - 1) f_(i) / (n sum f), f_(i) ascending, i from 1.

    Args:
        densities: (n,) densities > 0, any common scale.

    Returns:
        Pure number in [0, 1), 0 for equal densities; LOWER is more uniform.
    """
    count = len(densities)
    ranks = np.arange(1, count + 1)
    return float(((2 * ranks - count - 1) * np.sort(densities)).sum() / (count * densities.sum()))


def normalised_entropy(densities: NDArray[np.float64]) -> float:
    """Return -sum p log2(p + 1e-10) / log2 n with p = f / sum f.

    Args:
        densities: (n,) densities > 0, any common scale, n >= 2.

    Returns:
        Pure number in [0, 1], 1 for equal densities; HIGHER is more uniform.
    """
    p = densities / densities.sum()
    return float(-(p * np.log2(p + _LOG_GUARD)).sum() / np.log2(len(p)))


def point_densities(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gaussian kernel density (Scott's bandwidth) at the points themselves.

    Args:
        points: (n, 2) positions in the plane.

    Returns:
        (n,) densities, in one over the unit of area.

    Raises:
        MeasurementError: if the points lie on a line or in one place.
    """
    try:
        return gaussian_kde(points.T)(points.T)
    except np.linalg.LinAlgError as error:
        raise MeasurementError(
            "uniformity: the embedded points lie on a line or in one place, they have no density "
            "in the plane; the latents have collapsed"
        ) from error


def measure_uniformity(
    latents: Tensor,
    *,
    seed: int,
    points: int = 10_000,
    repeats: int = 10,
    perplexity: float = 30.0,
    iterations: int = 1000,
    n_jobs: int = 1,
) -> list[Measurement]:
    """Measure density CV, Gini coefficient and normalised entropy, and their spread over repeats.

    Each repeat draws its own images (without replacement), pixels and t-SNE seed.

    Args:
        latents: (N, C, H, W) latents in raw units; z-scored per channel here. For the protocol's
            flips, give latents of images that were flipped at random.
        seed: seed of all draws.
        points: images a repeat; with fewer images all are taken, and the values, which depend on
            the number of points, carry the flag ``points-limited-to-images``.
        repeats: number of repeats, at least 2.
        perplexity: of t-SNE, below the number of points.
        iterations: of t-SNE's gradient descent, at least 250.
        n_jobs: repeats that run at the same time, each a process of one thread; the values do not
            depend on it.

    Returns:
        ``uniformity.density_cv`` and ``uniformity.gini`` (LOWER is better) and
        ``uniformity.normalised_entropy`` (HIGHER is better), pure numbers: means over repeats, with
        the standard error of that mean; and ``uniformity.<name>_spread``, the standard deviation of
        a single repeat, no direction claimed. Repeats that draw most of the images overlap: their
        spread then leaves out part of the sampling error (flag ``repeats-overlap`` where a repeat
        takes more than half of the images).

    Raises:
        MeasurementError: if latents are not finite or constant, have one channel, or are too few.
    """
    count = len(latents)
    used = min(points, count)
    if repeats < 2 or used <= perplexity or iterations < 250:
        raise MeasurementError(
            f"uniformity needs repeats >= 2, more points than the perplexity and iterations >= 250;"
            f" got {repeats} repeats, {used} points (of {count} images), perplexity {perplexity} "
            f"and {iterations} iterations"
        )
    statistics = channel_statistics(latents)
    if latents.shape[1] < 2:
        raise MeasurementError(
            "uniformity: latents of one channel have no plane to be laid out in; it is not defined"
        )
    jobs = []
    for sequence in np.random.SeedSequence(seed).spawn(repeats):
        random = np.random.default_rng(sequence)
        pixels = _single_pixels(latents, used, random).to(torch.float64)
        scaled = normalise(pixels, statistics)[:, :, 0, 0].cpu().numpy()  # (points, C)
        plane = _Plane(perplexity, iterations, int(random.integers(2**31)))
        jobs.append(delayed(plane.statistics)(scaled))
    results = Parallel(n_jobs=n_jobs)(jobs)
    flags = (("points-limited-to-images",) if used < points else ()) + (
        ("repeats-overlap",) if 2 * used > count else ()
    )
    options = {
        "points": used,
        "repeats": repeats,
        "perplexity": perplexity,
        "iterations": iterations,
        "seed": seed,
    }
    return [
        measurement
        for name in _HIGHER_IS_BETTER
        for measurement in _summarise(name, [r[name] for r in results], options, flags)
    ]


def _single_pixels(latents: Tensor, points: int, random: np.random.Generator) -> Tensor:
    """Return (points, C, 1, 1): one random pixel of each of ``points`` random images."""
    count, _, height, width = latents.shape
    images, rows, columns = (
        torch.from_numpy(drawn).to(latents.device)
        for drawn in (
            random.choice(count, points, replace=False),
            random.integers(height, size=points),
            random.integers(width, size=points),
        )
    )
    return latents[images, :, rows, columns][:, :, None, None]


@dataclass(frozen=True)
class _Plane:
    """One t-SNE embedding and the statistics of its densities."""

    perplexity: float
    iterations: int
    seed: int

    def statistics(self, vectors: NDArray[np.float64]) -> dict[str, float]:
        """Return the three statistics of (n, C) vectors."""
        # one thread a repeat: threads wait for each other in every iteration where repeats already
        # fill the cores, and may add up in another order, which t-SNE amplifies
        with threadpool_limits(1):
            embedding = TSNE(
                n_components=2,
                perplexity=self.perplexity,
                max_iter=self.iterations,
                random_state=self.seed,
            ).fit_transform(vectors)
            densities = point_densities(embedding.astype(np.float64))
        return {
            "density_cv": density_cv(densities),
            "gini": gini(densities),
            "normalised_entropy": normalised_entropy(densities),
        }


def _summarise(
    name: str, values: list[float], options: dict[str, float], flags: tuple[str, ...]
) -> list[Measurement]:
    """Return the mean over repeats and the spread of a single repeat."""
    repeats = len(values)
    spread = float(np.std(values, ddof=1))
    return [
        Measurement(
            metric=f"uniformity.{name}",
            value=float(np.mean(values)),
            stderr=spread / repeats**0.5,
            n=repeats,
            higher_is_better=_HIGHER_IS_BETTER[name],
            options=options,
            flags=flags,
        ),
        Measurement(
            metric=f"uniformity.{name}_spread",
            value=spread,
            stderr=spread / (2 * (repeats - 1)) ** 0.5,  # for nearly normal repeats
            n=repeats,
            options=options,
            flags=flags,
        ),
    ]
