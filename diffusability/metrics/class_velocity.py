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
    """Eigenvalues of the Kronecker factors of K classes, and quantities derived from them.

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
    """Return the DCT of (K, n, C, H*W) samples as (K, H*W, n, C), one matrix per frequency."""
    classes, n, channels, _ = centred.shape
    spectra = cosine_transform(centred.view(classes, n, channels, *grid)).flatten(3)  # (K,n,C,S)
    return spectra.permute(0, 3, 1, 2)


def channel_sensitivity(
    centred: Tensor, fit: KroneckerFit, spectra: ClassSpectra, dct: Tensor
) -> Tensor:
    """Return the derivative of every value in the log scale of each channel.

    The flip-flop is equivariant: scaling the channels by D turns A into D A D, and the derivative
    of tr (D A D)^(1/2) in log D_c is the c-th diagonal entry of A^(1/2), of tr D A D 2 A_cc.

    Args:
        centred: (K, n, C, H*W) float64 samples minus their class mean, padded with zeros.
        fit: of ``flip_flop`` on the samples.
        spectra: of ``class_spectra`` on the fit.
        dct: (K, C), the same derivative of the DCT-diagonal VIV, of ``dct_shares``.

    Returns:
        (K, S + T, C) in the order of ``velocity_values``.
    """
    a, vectors = torch.linalg.eigh(fit.rows)  # (K, C), (K, C, C)
    a, load = a.clamp(min=0), vectors.square()  # load[k, c, i]: share of channel c in mode i
    root = a.sqrt()  # (K, C)
    log_root = (load @ root[:, :, None])[:, :, 0] / root.sum(dim=1)[:, None]  # (K, C)
    log_fitted = 2 * (load @ a[:, :, None])[:, :, 0] / a.sum(dim=1)[:, None]  # (K, C)
    energy = centred.square().sum(dim=(1, 3))  # (K, C)
    log_tau = 2 * energy / energy.sum(dim=1, keepdim=True)  # (K, C)
    log_channel = log_root - log_fitted / 2  # (K, C)
    log_viv = log_tau / 2 + log_channel  # (K, C)
    tau, shape = spectra.tau[:, None], spectra.shape[:, None]  # (K, 1) each
    scalars = [
        math.pi / 2 * tau.sqrt() * shape * log_viv,
        math.pi / 2 * spectra.fitted.sqrt()[:, None] * shape * log_root,
        dct,
        tau * log_tau,
        tau * (log_tau - 2 * shape.square() * log_viv),
        spectra.separability[:, None] * (log_fitted - log_tau),
        torch.zeros_like(log_tau),
        spectra.channel_factor[:, None] * log_channel,
    ]
    rescaled = a / spectra.separability[:, None]  # (K, C)
    curve = _curve_sensitivity(rescaled, spectra.columns, load, log_fitted - log_tau)
    return torch.cat([torch.stack(scalars, dim=1), curve], dim=1)  # (K, S + T, C)


def _curve_sensitivity(a: Tensor, b: Tensor, load: Tensor, log_separability: Tensor) -> Tensor:
    """Return (K, T, C) derivatives of I(t): mode i of channels follows 2 load_ci - dlog R."""
    eigenvalues = a[:, :, None] * b[:, None, :]  # (K, C, S)
    follow = 2 * load - log_separability[:, :, None]  # (K, C channels, C modes)
    columns = []
    for t in CURVE_TIMES:
        denominator = (1 - t) ** 2 + t**2 * eigenvalues  # (K, C, S)
        # lambda dI/dlambda, averaged over positions; at t = 1 a mode contributes 1 whatever it is
        slope = ((1 - t) ** 2 * eigenvalues / denominator.square()).nan_to_num(0).mean(dim=2)
        columns.append((follow @ slope[:, :, None])[:, :, 0] / a.shape[1])  # (K, C)
    return torch.stack(columns, dim=1)  # (K, T, C)


def dct_shares(centred: Tensor, counts: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the share of each channel in the DCT-diagonal VIV, which is also its derivative.

    Args:
        centred: (K, n, C, H*W) float64 samples minus their class mean, padded with zeros.
        counts: (K,) samples of each class.
        grid: (H, W).

    Returns:
        (K, C) (pi/2) times the mean over frequencies of the diagonal of the square root of the
        channel covariance, over C; the sum over channels is ``dct_diagonal_variance``.
    """
    positions, channels = centred.shape[3], centred.shape[2]
    spectra = channel_spectra(centred, grid)  # (K, S, n, C)
    covariance = spectra.mT @ spectra / counts[:, None, None, None]  # (K, S, C, C)
    eigenvalues, vectors = torch.linalg.eigh(covariance)  # (K, S, C), (K, S, C, C)
    roots = eigenvalues.clamp(min=0).sqrt()  # (K, S, C)
    diagonal = (vectors.square() @ roots[..., None])[..., 0]  # (K, S, C)
    return math.pi / 2 * diagonal.sum(dim=1) / (positions * channels)  # (K, C)
