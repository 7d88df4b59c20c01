"""Marginal VIV of a mixture against binning, Monte Carlo and quadrature."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.class_velocity import irreducible_variance_at
from diffusability.metrics.mixture_velocity import (
    KroneckerMixture,
    between_class_spread,
    between_class_variance,
)
from diffusability.metrics.velocity import measure_velocity


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _mixture(means: Tensor, rows: Tensor, columns: Tensor) -> KroneckerMixture:
    a, row_vectors = torch.linalg.eigh(rows)
    b, column_vectors = torch.linalg.eigh(columns)
    return KroneckerMixture(means, a, row_vectors, b, column_vectors)


def _plane() -> tuple[KroneckerMixture, np.ndarray, np.ndarray]:
    """Three rotated Gaussians in the plane, p = 2, q = 1."""
    means = np.array([[0.0, 0.0], [2.5, 0.5], [-1.0, 2.0]])
    covariances = np.array(
        [[[1.0, 0.6], [0.6, 0.8]], [[0.3, -0.1], [-0.1, 0.2]], [[0.5, 0.0], [0.0, 2.0]]]
    )
    one = torch.ones(3, 1, 1, dtype=torch.float64)
    mixture = _mixture(torch.tensor(means)[:, :, None], torch.tensor(covariances), one)
    return mixture, means, covariances


def _draw(means: np.ndarray, covariances: np.ndarray, count: int, t: float, seed: int):
    rng = np.random.default_rng(seed)
    k = rng.integers(3, size=count)
    data = means[k] + np.einsum(
        "nij,nj->ni", np.linalg.cholesky(covariances)[k], rng.standard_normal((count, 2))
    )
    noise = rng.standard_normal((count, 2))
    return t * data + (1 - t) * noise, data - noise


def _conditional(mixture: KroneckerMixture, t: float) -> float:
    lam = torch.stack([mixture.eigenvalues(k).flatten() for k in range(len(mixture.means))])
    return float(irreducible_variance_at(lam, torch.tensor([t], dtype=torch.float64)).mean())


@pytest.mark.parametrize("t", [0.4])
def test_the_split_equals_the_binned_variance_of_velocity(t: float):
    """Var(v | x_t) inside small cells of the plane, with no formula at all."""
    mixture, means, covariances = _plane()
    points, velocities = _draw(means, covariances, 2_000_000, t, 0)
    cell = np.floor(points / 0.06).astype(np.int64)
    key = (cell[:, 0] + 1000) * 4000 + cell[:, 1] + 1000
    _, index, counts = np.unique(key, return_inverse=True, return_counts=True)
    within = 0.0
    for axis in range(2):
        sums = np.bincount(index, velocities[:, axis])
        squares = np.bincount(index, velocities[:, axis] ** 2)
        many = counts > 1
        # unbiased inside a cell, weighted by the points of the cell
        scatter = (squares - sums**2 / counts)[many] * counts[many] / (counts[many] - 1)
        within += scatter.sum() / counts[many].sum()
    few = torch.tensor(points[:20_000])[:, :, None]
    between = between_class_spread(mixture, few, torch.full((20_000,), t, dtype=torch.float64))
    assert _conditional(mixture, t) + float(between.mean()) == pytest.approx(within / 2, rel=0.015)


@pytest.mark.parametrize("t", [0.1, 0.4, 0.7, 0.95])
def test_the_split_equals_the_squared_error_of_the_best_velocity(t: float):
    """E |v - v*|^2 with v* from the joint Gaussian of (v, x_t), written out with inverses."""
    mixture, means, covariances = _plane()
    points, velocities = _draw(means, covariances, 100_000, t, 1)
    densities, predictions = [], []
    for mean, covariance in zip(means, covariances, strict=True):
        spread = (1 - t) ** 2 * np.eye(2) + t**2 * covariance
        cross = t * covariance - (1 - t) * np.eye(2)
        residual = points - t * mean
        solved = residual @ np.linalg.inv(spread)
        densities.append(
            np.exp(-0.5 * (residual * solved).sum(axis=1)) / np.sqrt(np.linalg.det(spread))
        )
        predictions.append(mean + solved @ cross.T)
    shares = np.array(densities) / np.sum(densities, axis=0)
    best = np.einsum("kn,knd->nd", shares, np.array(predictions))
    errors = ((velocities - best) ** 2).sum(axis=1) / 2
    few = torch.tensor(points[:10_000])[:, :, None]
    between = between_class_spread(mixture, few, torch.full((10_000,), t, dtype=torch.float64))
    noise = errors.std() / len(errors) ** 0.5 + float(between.std()) / len(few) ** 0.5
    total = _conditional(mixture, t) + float(between.mean())
    assert total == pytest.approx(errors.mean(), abs=4 * noise)
    assert noise < 0.03


def test_two_points_on_a_line_by_quadrature():
    """Means +-m, variance s2: the spread is a one-dimensional integral over x and t."""
    m, s2 = 1.5, 0.25
    means = torch.tensor([-m, m], dtype=torch.float64).reshape(2, 1, 1)
    variance = torch.full((2, 1, 1), s2, dtype=torch.float64)
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    mixture = _mixture(means, variance, one)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    exact = 0.0
    for t, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        c = (1 - t) ** 2 + t**2 * s2
        x = np.linspace(-t * m - 9 * c**0.5, t * m + 9 * c**0.5, 4_001)
        near, far = (np.exp(-((x - t * k) ** 2) / (2 * c)) for k in (m, -m))
        share = near / (near + far + 1e-300)
        gap = 2 * m * (1 - (t * s2 - (1 - t)) * t / c)  # m_1 - m_2 at the same x
        density = (near + far) / 2 / np.sqrt(2 * np.pi * c)
        exact += weight * np.trapezoid(share * (1 - share) * gap**2 * density, x)
    value, stderr = between_class_variance(mixture, generator=_generator(), samples=1500)
    assert value == pytest.approx(exact, abs=4 * stderr)
    assert stderr < 0.01 * exact


def test_rotated_factors_agree_with_the_dense_formula():
    p, q, t = 2, 3, 0.45

    def covariance(size: int, seed: int) -> Tensor:
        root = torch.randn(2, size, 2 * size, generator=_generator(seed), dtype=torch.float64)
        return root @ root.mT / size

    rows, columns = covariance(p, 1), covariance(q, 2)
    means = torch.randn(2, p, q, generator=_generator(3), dtype=torch.float64)
    points = torch.randn(50, p, q, generator=_generator(4), dtype=torch.float64)
    eye = torch.eye(p * q, dtype=torch.float64)
    scores, velocities = [], []
    for k in range(2):
        dense = torch.kron(rows[k], columns[k])
        spread = (1 - t) ** 2 * eye + t**2 * dense
        residual = (points - t * means[k]).flatten(1)
        solved = torch.linalg.solve(spread, residual.T).T
        scores.append(-0.5 * ((residual * solved).sum(dim=1) + torch.logdet(spread)))
        velocities.append(means[k].flatten() + solved @ (t * dense - (1 - t) * eye))
    shares = torch.stack(scores).softmax(dim=0)
    gap = (velocities[0] - velocities[1]).square().sum(dim=1)
    expected = shares[0] * shares[1] * gap / (p * q)
    times = torch.full((50,), t, dtype=torch.float64)
    found = between_class_spread(_mixture(means, rows, columns), points, times)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


def test_equal_classes_and_one_class_add_nothing():
    mixture, _, _ = _plane()
    first = torch.zeros(3, dtype=torch.int64)
    fields = ("means", "row_values", "row_vectors", "column_values", "column_vectors")
    same = KroneckerMixture(*(getattr(mixture, field)[first] for field in fields))
    assert between_class_variance(same, generator=_generator())[0] == pytest.approx(0, abs=1e-20)
    one = KroneckerMixture(*(getattr(mixture, field)[:1] for field in fields))
    assert between_class_variance(one, generator=_generator()) == (0.0, 0.0)
    with pytest.raises(MeasurementError, match="two samples"):
        between_class_variance(mixture, generator=_generator(), samples=1)


@pytest.mark.parametrize("separation", [0.0, 0.5, 3.0])
def test_marginal_viv_is_never_below_the_conditional(separation: float):
    labels = torch.arange(120) % 3
    means = separation * torch.randn(3, 2, 1, 1, generator=_generator(9))
    latents = means[labels] + torch.randn(120, 2, 2, 3, generator=_generator())
    found = {m.metric: m for m in measure_velocity(latents, labels, generator=_generator())}
    conditional, marginal = found["velocity.viv"], found["velocity.viv_marginal"]
    assert marginal.value >= conditional.value
    assert marginal.value - conditional.value == pytest.approx(marginal.options["between_class"])
    if separation == 3.0:
        assert marginal.value > conditional.value + 4 * marginal.stderr


@pytest.mark.release
def test_the_monte_carlo_error_covers():
    mixture, _, _ = _plane()
    exact, tight = between_class_variance(mixture, generator=_generator(), samples=3000)
    pairs = [between_class_variance(mixture, generator=_generator(s)) for s in range(1, 101)]
    hits = [abs(value - exact) < 1.96 * math.hypot(stderr, tight) for value, stderr in pairs]
    assert 0.88 <= np.mean(hits) <= 1.0
