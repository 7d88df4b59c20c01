"""How the velocity values of a class move with the scale of each channel.

The z-score of a set moves with every image in it, so the standard error of a z-scored value needs
the derivative of that value in the logarithm of each channel's scale.
"""

import math

import torch
from torch import Tensor

from diffusability.metrics.class_velocity import CURVE_TIMES, ClassSpectra, channel_spectra
from diffusability.metrics.kronecker import KroneckerFit


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
