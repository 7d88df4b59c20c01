"""Uniformity of the latent space: how evenly the cells of latents spread in a t-SNE plane.

Protocol of VA-VAE (Yao et al., "Reconstruction vs. Generation", CVPR 2025), which "Diffusing in the
Right Space" (arXiv 2606.03578) adopts: from each image, mirrored or not, one pixel of a draw of its
posterior, z-scored per channel; t-SNE to the plane; a Gaussian kernel density at the points
themselves; three statistics of those densities. Their range over tokenizers is small, so the spread
over repeats is measured too.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import gaussian_kde
from sklearn.manifold import TSNE
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_limits
from torch import Tensor

from diffusability.data.images import Rows
from diffusability.errors import MeasurementError
from diffusability.latents.channel_statistics import mean_variance, normalise
from diffusability.metrics.latent_set import LatentSet
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
        MeasurementError: if the points are collinear or all equal.
    """
    try:
        return gaussian_kde(points.T)(points.T)
    except np.linalg.LinAlgError as error:
        raise MeasurementError(
            "uniformity: the embedded points are collinear or all equal, so they have no density "
            "in the plane; the latents have collapsed"
        ) from error


def measure_uniformity(
    latents: Tensor,
    *,
    seed: int,
    logvar: Tensor | None = None,
    mirrored: tuple[Rows, Rows | None] | None = None,
    points: int = 10_000,
    repeats: int = 10,
    perplexity: float = 30.0,
    iterations: int = 1000,
    n_jobs: int = 1,
) -> list[Measurement]:
    """Measure density CV, Gini coefficient and normalised entropy, and their spread over repeats.

    Each repeat draws its own images (without replacement), pixels and t-SNE seed. Repeats are
    disjoint until the images run out; then all images are shuffled and dealt again.

    Args:
        latents: (N, C, H, W) posterior means in raw units; z-scored per channel here.
        seed: seed of all draws.
        logvar: (N, C, H, W) log-variances: the protocol draws from the posteriors. None: their
            means are taken.
        mirrored: the same two of the mirrored images, which the protocol takes for half of the
            images at random; may be on disk. None: no image is mirrored.
        points: images per repeat; with fewer images all are taken, and the values, which depend on
            the number of points, carry the flag ``points-limited-to-images``.
        repeats: number of repeats, at least 2.
        perplexity: of t-SNE, below the number of points.
        iterations: of t-SNE's gradient descent, at least 250.
        n_jobs: repeats run in parallel, each in a process of one thread; the values do not
            depend on it.

    Returns:
        ``uniformity.density_cv`` and ``uniformity.gini`` (LOWER is better) and
        ``uniformity.normalised_entropy`` (HIGHER is better), pure numbers: means over repeats, with
        the standard error of that mean; and ``uniformity.<name>_spread``, the standard deviation of
        a single repeat, no direction claimed. Errors are those of other images from the same
        source. Where repeats must share images, errors are upper bounds, attained if a repeat is
        determined by its images. If a repeat takes more than half of the images, no two are
        disjoint and both errors ignore the choice of images: flag ``repeats-overlap``.

    Raises:
        MeasurementError: if latents are not finite, collapsed, of one channel, or too few.
    """
    count = len(latents)
    used = min(points, count)
    if repeats < 2 or used <= perplexity or iterations < 250:
        raise MeasurementError(
            f"uniformity needs repeats >= 2, more points than the perplexity and iterations >= 250;"
            f" got {repeats} repeats, {used} points (of {count} images), perplexity {perplexity} "
            f"and {iterations} iterations"
        )
    source = _Cells(LatentSet(latents), logvar, mirrored)
    data = source.data
    if data.channels < 2:
        raise MeasurementError(
            "uniformity: not defined for latents of one channel, which do not span a plane"
        )
    dealing, *sequences = np.random.SeedSequence(seed).spawn(repeats + 1)
    rounds = _disjoint_rounds(count, used, repeats, np.random.default_rng(dealing))
    jobs = []
    for images, sequence in zip(np.concatenate(rounds), sequences, strict=True):
        random = np.random.default_rng(sequence)
        cells = random.integers(data.height, size=used), random.integers(data.width, size=used)
        plane = _Plane(perplexity, iterations, int(random.integers(2**31)))
        jobs.append(delayed(plane.statistics)(source.draw(images, cells, random)))
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
        "posterior": "mean" if logvar is None else "draw",
        "flip": mirrored is not None,
    }
    sizes = [len(dealt) for dealt in rounds]
    found = []
    for name in _HIGHER_IS_BETTER:
        values = np.array([r[name] for r in results])
        errors = _errors(values, sizes, used / count)
        found += _summarise(name, values, errors, options, flags)
    return data.flagged(found)


def _disjoint_rounds(
    count: int, points: int, repeats: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Assign images to repeats: (r, points) image indices per round, without duplicates."""
    together = max(1, min(repeats, count // points))
    rounds = []
    for first in range(0, repeats, together):
        size = min(together, repeats - first)
        rounds.append(random.permutation(count)[: size * points].reshape(size, points))
    return rounds


class _Cells:
    """Single cells of latents: means or draws, mirrored or not, z-scored per channel."""

    def __init__(
        self, data: LatentSet, logvar: Tensor | None, mirrored: tuple[Rows, Rows | None] | None
    ) -> None:
        """Scale by the spread of what is drawn: variances of means and of posteriors add up."""
        self.data, self._logvar, self._mirrored = data, logvar, mirrored
        self._statistics = data.statistics
        if logvar is not None:
            noise = mean_variance(logvar, torch.arange(len(logvar)))[data.live]  # (c,)
            scatter = data.statistics.scatter
            scatter = scatter + noise.to(scatter) * (data.statistics.count - 1)
            self._statistics = replace(data.statistics, scatter=scatter)

    def draw(
        self,
        images: NDArray[np.int64],
        cells: tuple[NDArray[np.int64], NDArray[np.int64]],
        random: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Return (points, c) z-scores of one cell (row, column) of each of the given images."""
        chosen, rows, columns = (torch.from_numpy(index) for index in (images, *cells))
        mean = self._at(self.data.latents, chosen, rows, columns)  # (points, c)
        spread = None
        if self._logvar is not None:
            spread = self._at(self._logvar, chosen, rows, columns)[:, self.data.live]
        if self._mirrored is not None:
            turned = torch.from_numpy(np.flatnonzero(random.random(len(images)) < 0.5))
            where = chosen[turned], rows[turned], columns[turned]
            means, logvars = self._mirrored
            mean[turned] = self._at(means, *where)[:, self.data.live]
            if spread is not None and logvars is not None:
                spread[turned] = self._at(logvars, *where)[:, self.data.live]
        if spread is not None:
            noise = torch.from_numpy(random.standard_normal(mean.shape)).to(mean.device)
            mean = mean + torch.exp(0.5 * spread) * noise
        scaled: NDArray[np.float64]
        scaled = normalise(mean[:, :, None, None], self._statistics)[:, :, 0, 0].cpu().numpy()
        return scaled

    @staticmethod
    def _at(latents: Rows, images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the (points, C) float64 cells at (points,) images, rows and columns."""
        if isinstance(latents, Tensor):
            to = latents.device
            found = latents[images.to(to), :, rows.to(to), columns.to(to)]
        else:  # on disk: whole latents are read
            found = latents[images][torch.arange(len(images)), :, rows, columns]
        return found.to(torch.float64)


@dataclass(frozen=True)
class _Plane:
    """One t-SNE embedding and the statistics of its densities."""

    perplexity: float
    iterations: int
    seed: int

    def statistics(self, vectors: NDArray[np.float64]) -> dict[str, float]:
        """Return the three statistics of (n, C) vectors."""
        # one thread per repeat: repeats already fill the cores, and several threads may sum in
        # another order, which t-SNE amplifies
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


def _errors(
    values: NDArray[np.float64], sizes: list[int], share: float
) -> tuple[float, float, float]:
    """Return the spread of a single repeat, its standard error, and that of the mean.

    Disjoint repeats are independent, so the variance within rounds is that of a repeat. The
    correlation of repeats from different rounds is at most the share of images that each takes:
    equal to it if a repeat is a sum over its images, smaller with interactions or with randomness
    of its own (Hoeffding's decomposition).

    Args:
        values: (R,) repeats, round by round. sizes: repeats in each round.
        share: of the images that a repeat takes.
    """
    repeats = len(values)
    if max(sizes) == 1:  # no two are disjoint: only the scatter given the images remains
        sizes, share = [repeats], 0.0
    rounds = np.split(values, np.cumsum(sizes)[:-1])
    freedom = repeats - len(sizes)
    variance = sum(float(((r - r.mean()) ** 2).sum()) for r in rounds) / freedom
    apart = 1 - sum(size**2 for size in sizes) / repeats**2  # pairs that are of different rounds
    spread = variance**0.5
    return (
        spread,
        spread / (2 * freedom) ** 0.5,  # for nearly normal repeats
        spread * (1 / repeats + apart * share) ** 0.5,
    )


def _summarise(
    name: str,
    values: NDArray[np.float64],
    errors: tuple[float, float, float],
    options: dict[str, Any],
    flags: tuple[str, ...],
) -> list[Measurement]:
    """Return the mean over repeats and the spread of a single repeat."""
    spread, spread_error, error = errors
    return [
        Measurement(
            metric=f"uniformity.{name}",
            value=float(values.mean()),
            stderr=error,
            n=len(values),
            higher_is_better=_HIGHER_IS_BETTER[name],
            options=options,
            flags=flags,
        ),
        Measurement(
            metric=f"uniformity.{name}_spread",
            value=spread,
            stderr=spread_error,
            n=len(values),
            options=options,
            flags=flags,
        ),
    ]
