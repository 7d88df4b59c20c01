"""Reconstruction quality of a tokenizer (PSNR, MSE, SSIM, rFD) and how noisy its posterior is."""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.metrics.frechet import measure_frechet
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import influence_stderr, ratio_influences

_K1, _K2 = 0.01, 0.03  # stabilisers of Wang et al.
_WINDOW = 11
_SIGMA_PER_WINDOW = 1.5 / 11


def measure_reconstruction(batches: Iterable[tuple[Tensor, Tensor]]) -> list[Measurement]:
    """Measure mean PSNR, mean SSIM and mean squared error over images.

    Args:
        batches: pairs (original, reconstruction), each (B, C, H, W), both uint8 in [0, 255] or
            both float in [-1, 1] (not clipped here; clip as for display).

    Returns:
        ``reconstruction.psnr`` in dB and ``reconstruction.ssim`` in [-1, 1]; HIGHER is better for
        both. PSNR is taken per image and then averaged. ``reconstruction.mse``, the mean over
        pixels and images of the squared error, of values in [-1, 1]; LOWER is better. The standard
        errors are over images.

    Raises:
        MeasurementError: if there are fewer than two images, or a pair does not fit together.
    """
    psnr, ssim, mse, exact, scale, window = [], [], [], 0, 0.0, 0
    for original, reconstruction in batches:
        psnr.append(psnr_per_image(original, reconstruction))
        mse.append(squared_error_per_image(original, reconstruction))
        ssim.append(ssim_per_image(original, reconstruction))
        exact += int((original == reconstruction).flatten(1).all(dim=1).sum())
        scale, window = _data_range(original), ssim_window(original.shape)
    if sum(len(part) for part in psnr) < 2:
        raise MeasurementError("reconstruction: a standard error needs at least two image pairs")
    flags = (f"exact-images-{exact}",) if exact else ()
    peak = {"data_range": scale}
    return [
        _over_images("reconstruction.psnr", torch.cat(psnr), "dB", peak, flags),
        _over_images("reconstruction.ssim", torch.cat(ssim), "1", peak | {"window": window}, ()),
        _over_images("reconstruction.mse", torch.cat(mse), "1", {"data_range": 2.0}, (), False),
    ]


def psnr_per_image(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image.

    10 log10(range^2 / MSE), the MSE over all channels and pixels of the image. An exact image,
    whose ratio is infinite, counts as one with an error of one 8-bit level in a single value.

    Args:
        original: (N, C, H, W) uint8 in [0, 255] or float in [-1, 1]; the range is 255 or 2.
        reconstruction: same shape and kind.

    Returns:
        (N,) float64 in dB; HIGHER is better.

    Raises:
        MeasurementError: if the pair does not fit together.
    """
    a, b, scale = _as_pair(original, reconstruction)
    error = (a - b).square().flatten(1).mean(dim=1)  # (N,)
    smallest = (scale / 255) ** 2 / a[0].numel()
    return 10 * torch.log10(scale**2 / torch.where(error > 0, error, smallest))


def squared_error_per_image(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the mean squared error of each image, of values in [-1, 1].

    Args:
        original: (N, C, H, W) uint8 in [0, 255] or float in [-1, 1].
        reconstruction: same shape and kind.

    Returns:
        (N,) float64 in [0, 4]; LOWER is better.

    Raises:
        MeasurementError: if the pair does not fit together.
    """
    a, b, scale = _as_pair(original, reconstruction)
    return ((a - b) * (2 / scale)).square().flatten(1).mean(dim=1)


def ssim_window(shape: torch.Size) -> int:
    """Return the side of the SSIM window: 11 pixels, or the largest odd number that fits."""
    side = min(_WINDOW, shape[-2], shape[-1])
    return side if side % 2 else side - 1


def ssim_per_image(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the structural similarity of each image.

    Wang et al. 2004: Gaussian window of 11 pixels and standard deviation 1.5, K1 = 0.01,
    K2 = 0.03, population (not sample) covariances, averaged over channels and over the positions
    where the window lies inside the image. Images under 11 pixels get the largest odd window that
    fits, with a standard deviation in proportion. Agrees with scikit-image's
    ``structural_similarity(gaussian_weights=True, use_sample_covariance=False, sigma=...)``.

    Args:
        original: (N, C, H, W) uint8 in [0, 255] or float in [-1, 1], at least 3 pixels per side.
        reconstruction: same shape and kind.

    Returns:
        (N,) float64 in [-1, 1]; HIGHER is better, 1 is identity.

    Raises:
        MeasurementError: if the pair does not fit together or is too small.
    """
    a, b, scale = _as_pair(original, reconstruction)
    window = ssim_window(a.shape)
    if window < 3:
        raise MeasurementError(
            f"SSIM needs images of at least 3 pixels per side, got {tuple(a.shape)}"
        )
    moments = torch.stack([a, b, a * a, b * b, a * b])  # (5, N, C, H, W)
    mean_a, mean_b, aa, bb, ab = _gaussian_means(moments, window)  # each (N, C, H', W')
    c1, c2 = (_K1 * scale) ** 2, (_K2 * scale) ** 2
    variance_a, variance_b = aa - mean_a.square(), bb - mean_b.square()
    covariance = ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).flatten(1).mean(dim=1)


def measure_lpips(distances: Tensor) -> Measurement:
    """Measure the mean LPIPS over images.

    Args:
        distances: (N,) LPIPS of every original and its reconstruction.

    Returns:
        ``reconstruction.lpips``, a pure number of at least zero; LOWER is better. The standard
        error is over images.

    Raises:
        MeasurementError: if there are fewer than two images.
    """
    if len(distances) < 2:
        raise MeasurementError("LPIPS: a standard error needs at least two image pairs")
    options = {"trunk": "vgg16", "linear_layers": "0.1"}
    return _over_images("reconstruction.lpips", distances.double(), "1", options, (), False)


def measure_reconstruction_frechet(
    originals: Tensor,
    reconstructions: Tensor,
    *,
    extractor: str,
    generator: torch.Generator,
    resolution: int | None = None,
    shards: int = 20,
) -> Measurement:
    """Measure the Fréchet distance of reconstructions from the images themselves (rFD, rFID).

    The images are dealt to shards at random, because they may be in the order of classes; a shard
    is left out of both sets at once, because an image and its reconstruction vary together.

    Args:
        originals: (N, D) features of the images.
        reconstructions: (N, D) features of their reconstructions, in the same order.
        extractor: name of the network that made both.
        generator: CPU generator that deals the images; the value depends on it by rounding only.
        resolution: side of the images in pixels, None if unknown.
        shards: maximum number of shards.

    Returns:
        ``reconstruction.fd_<extractor>``, in feature units squared; LOWER is better. The standard
        error is over images.

    Raises:
        MeasurementError: if there are fewer than two images, or the sets do not belong together.
    """
    if len(originals) != len(reconstructions):
        raise MeasurementError(
            f"{len(originals)} originals and {len(reconstructions)} reconstructions: not the "
            "same images"
        )

    def moments(vectors: Tensor) -> FeatureMoments:
        return FeatureMoments.from_features(vectors, extractor=extractor, resolution=resolution)

    order = torch.randperm(len(originals), generator=generator)  # (N,)
    dealt = order.tensor_split(min(shards, max(1, len(order))))
    return measure_frechet(
        reference=moments(originals),
        generated=[moments(reconstructions[rows]) for rows in dealt],
        paired=[moments(originals[rows]) for rows in dealt],
        stage="reconstruction",
    )


def measure_posterior(batches: Iterable[tuple[Tensor, Tensor]]) -> list[Measurement]:
    """Measure how noisy the posterior is, and its divergence from the standard normal.

    Args:
        batches: pairs (mean, log-variance) of the posterior, each (B, C, H, W), in raw latent
            units (not normalised), the log in nats.

    Returns:
        ``reconstruction.posterior_variance_share``, mean(sigma^2) / var(mu) with var(mu) around
        each channel's mean and averaged over channels (a pure number, no direction claimed), and
        ``reconstruction.kl``, the mean of (mu^2 + sigma^2 - 1 - log sigma^2) / 2 in nats per latent
        dimension (no direction claimed). Standard errors over images.

    Raises:
        MeasurementError: if shapes differ, values are not finite, or the means do not vary.
    """
    noise, sums, squares, divergence, positions = [], [], [], [], 1
    for mean, logvar in batches:
        if mean.ndim != 4 or mean.shape != logvar.shape:
            raise MeasurementError(
                f"posterior mean {tuple(mean.shape)} and log-variance {tuple(logvar.shape)} must "
                "be equal (B, C, H, W)"
            )
        mu, log = mean.to(torch.float64), logvar.to(torch.float64)
        if not bool(torch.isfinite(mu).all() and torch.isfinite(log).all()):
            raise MeasurementError("posterior means or log-variances are not finite")
        positions = mean.shape[2] * mean.shape[3]
        noise.append(log.exp().flatten(1).mean(dim=1))  # (B,)
        sums.append(mu.mean(dim=(2, 3)))  # (B, C)
        squares.append(mu.square().mean(dim=(2, 3)))  # (B, C)
        divergence.append(((mu.square() + log.exp() - 1 - log) / 2).flatten(1).mean(dim=1))
    if sum(len(part) for part in noise) < 2:
        raise MeasurementError("posterior: a standard error needs at least two images")
    first, second = torch.cat(sums), torch.cat(squares)  # (N, C)
    centre = first.mean(dim=0)  # (C,)
    variance = (second - 2 * centre * first + centre.square()).mean(dim=1)  # (N,)
    name = "reconstruction.posterior_variance_share"
    share, influences = ratio_influences(torch.cat(noise), variance, name)
    options = {"channels": first.shape[1], "positions": positions}
    return [
        Measurement(name, share, influence_stderr(influences), len(first), options=options),
        _over_images("reconstruction.kl", torch.cat(divergence), "nat/dim", options, (), None),
    ]


def _over_images(
    metric: str,
    values: Tensor,
    unit: str,
    options: Mapping[str, float | str],
    flags: tuple[str, ...],
    higher_is_better: bool | None = True,
) -> Measurement:
    stderr = float(values.std(correction=1)) / len(values) ** 0.5
    return Measurement(
        metric,
        float(values.mean()),
        stderr,
        len(values),
        unit,
        higher_is_better,
        dict(options),
        flags,
    )


def _data_range(images: Tensor) -> float:
    return 255.0 if images.dtype == torch.uint8 else 2.0


def _as_pair(original: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return both as float64 and their data range, or refuse the pair."""
    if original.ndim != 4 or original.shape != reconstruction.shape or 0 in original.shape:
        raise MeasurementError(
            f"original {tuple(original.shape)} and reconstruction {tuple(reconstruction.shape)} "
            "must be equal (N, C, H, W)"
        )
    kinds = {image.dtype == torch.uint8 for image in (original, reconstruction)}
    floats = original.is_floating_point() and reconstruction.is_floating_point()
    if kinds != {True} and not floats:
        raise MeasurementError(
            f"original is {original.dtype} and reconstruction {reconstruction.dtype}; give both "
            "as uint8 in [0, 255] or both as float in [-1, 1]"
        )
    a, b = original.to(torch.float64), reconstruction.to(torch.float64)
    if floats:
        if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise MeasurementError("images are not finite; the decoder has diverged")
        if float(a.abs().max()) > 1.0 + 1e-3:
            raise MeasurementError("float originals must be in [-1, 1]; rescale them first")
    return a, b, _data_range(original)


def _gaussian_means(images: Tensor, window: int) -> Tensor:
    """Return Gaussian means (..., H - window + 1, W - window + 1) over windows inside."""
    offsets = torch.arange(window, dtype=images.dtype, device=images.device) - window // 2
    kernel = torch.exp(-0.5 * (offsets / (_SIGMA_PER_WINDOW * window)).square())
    kernel = kernel / kernel.sum()
    planes = images.flatten(0, -3)[:, None]  # (P, 1, H, W): every plane on its own
    planes = F.conv2d(planes, kernel.view(1, 1, -1, 1))
    planes = F.conv2d(planes, kernel.view(1, 1, 1, -1))
    return planes.view(*images.shape[:-2], *planes.shape[-2:])
