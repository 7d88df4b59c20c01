"""Velocity irreducible variance of one class from its covariance, Eq. 3-6.

"Diffusing in the Right Space" (arXiv 2606.03578). Path x_t = t x_1 + (1 - t) x_0 with noise x_0 at
t = 0 and latents x_1 at t = 1; velocity v = x_1 - x_0. The class mean drops out. Every value is a
mean over the d = C H W dimensions, not a sum. Variances are in units of the noise variance, so on
z-scored latents every value here is a pure number.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.metrics.cosine_transform import cosine_transform
from diffusability.metrics.kronecker import KroneckerFit

CURVE_TIMES = tuple(step / 10 for step in range(11))


def irreducible_variance_at(eigenvalues: Tensor, times: Tensor) -> Tensor:
    """Return I(t), the mean over dimensions of lambda / ((1-t)^2 + t^2 lambda) (Eq. 4).

    Args:
        eigenvalues: (..., d) of a class covariance, non-negative, in noise variances.
        times: (T,) in [0, 1], noise at 0.

    Returns:
        (..., T) in noise variances; LOWER is better; mean(lambda) at t = 0, and
        1 at t = 1.
    """
    t = times[:, None]  # (T, 1)
    lam = eigenvalues.clamp(min=torch.finfo(eigenvalues.dtype).tiny)[..., None, :]  # (..., 1, d)
    return (lam / ((1 - t).square() + t.square() * lam)).mean(dim=-1)  # (..., T)


def kronecker_eigenvalues(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the (..., p*q) eigenvalues a_i b_j of A (x) B from (..., p) a and (..., q) b."""
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)


SCALARS = (
    "viv",
    "viv_mle",
    "viv_dct",
    "tau",
    "anisotropy",
    "separability",
    "spatial_factor",
    "channel_factor",
)


@dataclass(frozen=True)
class ClassSpectra:
    """Eigenvalues of K classes, and what follows from them.

    Attributes:
        rows: (K, C) eigenvalues a of the channel factor, which carries the scale.
        columns: (K, H*W) eigenvalues b of the spatial factor.
        tau: (K,) total within-class variance per dimension (tau of Eq. 6, over d).
    """

    rows: Tensor
    columns: Tensor
    tau: Tensor

    @property
    def fitted(self) -> Tensor:
        """Return (K,) tr A tr B / d, the variance per dimension of the fit."""
        return self.rows.mean(dim=1) * self.columns.mean(dim=1)

    @property
    def separability(self) -> Tensor:
        """Return (K,) R = tr A tr B / (d tau), 1 if the covariance is separable."""
        return self.fitted / self.tau

    @property
    def spatial_factor(self) -> Tensor:
        """Return (K,) mean sqrt(b) / sqrt(mean b), in (0, 1]."""
        return self.columns.sqrt().mean(dim=1) / self.columns.mean(dim=1).sqrt()

    @property
    def channel_factor(self) -> Tensor:
        """Return (K,) mean sqrt(a) / sqrt(mean a), in (0, 1]."""
        return self.rows.sqrt().mean(dim=1) / self.rows.mean(dim=1).sqrt()

    @property
    def shape(self) -> Tensor:
        """Return (K,) mean sqrt(lambda) / sqrt(mean lambda), in (0, 1]."""
        return self.spatial_factor * self.channel_factor


def class_spectra(centred: Tensor, counts: Tensor, fit: KroneckerFit) -> ClassSpectra:
    """Return the spectra of a Kronecker fit.

    Args:
        centred: (K, n, C, H*W) float64 samples minus their class mean, padded with zeros.
        counts: (K,) samples of each class.
        fit: of ``flip_flop`` on the same samples.
    """
    # biased variance, as the published estimator sums it over coordinates
    total = centred.square().sum(dim=(1, 2, 3)) / counts  # (K,)
    return ClassSpectra(
        torch.linalg.eigvalsh(fit.rows).clamp(min=0),
        torch.linalg.eigvalsh(fit.columns).clamp(min=0),
        total / (centred.shape[2] * centred.shape[3]),
    )


def velocity_values(spectra: ClassSpectra, viv_dct: Tensor) -> Tensor:
    """Compute every class's VIV and its parts.

    Args:
        spectra: of K classes.
        viv_dct: (K,) of ``dct_diagonal_variance``.

    Returns:
        (K, S + T): the scalars in the order of ``SCALARS``, then I(t) at ``CURVE_TIMES``. ``viv``,
        ``anisotropy`` (the variance over dimensions of sqrt(lambda), A of Eq. 6) and the curve use
        eigenvalues rescaled to the total variance; viv = (pi/2) sqrt(tau - anisotropy)
        = (pi/2) sqrt(tau) spatial_factor channel_factor.
    """
    a, b, tau, shape = spectra.rows, spectra.columns, spectra.tau, spectra.shape
    scalars = [
        math.pi / 2 * tau.sqrt() * shape,
        math.pi / 2 * spectra.fitted.sqrt() * shape,
        viv_dct,
        tau,
        tau * (1 - shape.square()),
        spectra.separability,
        spectra.spatial_factor,
        spectra.channel_factor,
    ]
    times = torch.tensor(CURVE_TIMES, dtype=a.dtype, device=a.device)
    rescaled = kronecker_eigenvalues(a / spectra.separability[:, None], b)  # (K, d)
    curve = torch.stack([irreducible_variance_at(one, times) for one in rescaled])  # (K, T)
    return torch.cat([torch.stack(scalars, dim=1), curve], dim=1)  # (K, S + T)


def dct_diagonal_variance(centred: Tensor, counts: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return VIV under spatial stationarity: one channel covariance per DCT frequency.

    No separability is assumed, so its rank order over tokenizers checks the Kronecker one.

    Args:
        centred: (K, n, C, H*W) float64 samples minus their class mean, padded with zeros.
        counts: (K,) samples of each class.
        grid: (H, W).

    Returns:
        (K,) (pi/2) times the mean over frequencies and channels of sqrt(eigenvalue); LOWER is
        better. Biased low unless counts are well above C; at counts <= C it is rank-deficient.
    """
    n, channels, positions = centred.shape[1:]
    spectra = channel_spectra(centred, grid)  # (K, S, n, C)
    # X X^T and X^T X share their non-zero eigenvalues: take the smaller
    gram = spectra @ spectra.mT if n < channels else spectra.mT @ spectra  # (K, S, m, m)
    eigenvalues = torch.linalg.eigvalsh(gram / counts[:, None, None, None]).clamp(min=0)
    total = eigenvalues.sqrt().sum(dim=(1, 2))  # (K,)
    return math.pi / 2 * total / (positions * channels)


def channel_spectra(centred: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the DCT of (K, n, C, H*W) samples as (K, H*W, n, C), one matrix a frequency."""
    classes, n, channels, _ = centred.shape
    spectra = cosine_transform(centred.view(classes, n, channels, *grid)).flatten(3)  # (K,n,C,S)
    return spectra.permute(0, 3, 1, 2)
