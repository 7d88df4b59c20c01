"""Kernel distance: unbiased squared maximum mean discrepancy with a cubic kernel (KID)."""

import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import require_extractor_name, require_features
from diffusability.metrics.measurement import Measurement
from diffusability.statistics import deal_blocks, delete_block_stderr


def measure_kernel_distance(
    *,
    reference: Tensor,
    generated: Tensor,
    extractor: str,
    generator: torch.Generator,
    blocks: int = 20,
    stage: str = "generation",
    images: tuple[Tensor, Tensor] | None = None,
) -> Measurement:
    """Measure the unbiased squared MMD between two sets of features.

    Kernel k(x, y) = (x.y / D + 1)^3; the estimator is the full U-statistic over all pairs
    (Binkowski et al., arXiv 1801.01401, Eq. 4), summed block by block. Means over small subsets
    (the usual way) have the same expectation and a larger variance. Both sets are split at random
    into ``blocks`` parts; the standard error is the jackknife that leaves out one part of each set
    and costs no further kernel evaluation. Where the two distributions are equal it is too large
    by about 1.4, as for every degenerate U-statistic.

    Args:
        reference: (N, D) features of the reference images.
        generated: (M, D) features of the generated images.
        extractor: name of the network that made both.
        generator: CPU generator that deals the samples into blocks (the value does not depend
            on it, the standard error does).
        blocks: number of parts, at least 3.
        stage: first part of the metric's name: what made the images.
        images: (N,) and (M,) int64, which image each sample is a version of, where several samples
            are of one image: they are left out together. None: all are independent.

    Returns:
        ``<stage>.kernel_distance_<extractor>``, a pure number; LOWER is better. Unbiased, hence
        possibly negative for equal distributions.

    Raises:
        MeasurementError: if dimensions differ, values are not finite, or a set has fewer than two
            samples per block.
    """
    require_extractor_name(extractor)
    x = require_features(reference, f"reference features of {extractor}")
    y = require_features(generated, f"generated features of {extractor}").to(x.device)
    if x.shape[1] != y.shape[1]:
        raise MeasurementError(
            f"reference has {x.shape[1]} features, generated {y.shape[1]}: not one extractor"
        )
    if blocks < 3 or min(len(x), len(y)) < 2 * blocks:
        raise MeasurementError(
            f"{blocks} blocks need blocks >= 3 and at least {2 * blocks} samples per set, got "
            f"{len(x)} and {len(y)}"
        )
    dealt = deal_blocks((len(x), len(y)), blocks, generator, images)
    x_parts, y_parts = (
        [z[rows.to(z.device)] for rows in parts] for z, parts in zip((x, y), dealt, strict=True)
    )
    sums = _KernelSums(x_parts, y_parts)
    value = sums.mmd(keep=torch.ones(blocks, dtype=torch.bool))
    left_out = [sums.mmd(keep=torch.arange(blocks) != block) for block in range(blocks)]
    sizes = torch.tensor([len(a) + len(b) for a, b in zip(x_parts, y_parts, strict=True)])
    return Measurement(
        metric=f"{stage}.kernel_distance_{extractor}",
        value=value,
        stderr=delete_block_stderr(value, torch.tensor(left_out, dtype=torch.float64), sizes),
        n=len(y),
        higher_is_better=False,
        options={
            "extractor": extractor,
            "kernel": "(x.y/D + 1)^3",
            "blocks": blocks,
            "reference_count": len(x),
        },
    )


class _KernelSums:
    """Sums of the kernel over every pair of blocks, without pairing a sample with itself."""

    def __init__(self, x_parts: list[Tensor], y_parts: list[Tensor]) -> None:
        self.x_sizes, self.y_sizes = (
            torch.tensor([len(part) for part in parts], dtype=torch.float64)
            for parts in (x_parts, y_parts)
        )
        self.xx, self.yy = (_within_sums(parts) for parts in (x_parts, y_parts))
        self.xy = torch.tensor(
            [[float(_kernel(a, b).sum()) for b in y_parts] for a in x_parts], dtype=torch.float64
        )

    def mmd(self, keep: Tensor) -> float:
        """Return the U-statistic over the blocks that ``keep`` (B,) marks."""
        m, n = float(self.x_sizes[keep].sum()), float(self.y_sizes[keep].sum())
        xx, yy, xy = (float(s[keep][:, keep].sum()) for s in (self.xx, self.yy, self.xy))
        return xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * xy / (m * n)


def _within_sums(parts: list[Tensor]) -> Tensor:
    sums = torch.zeros(len(parts), len(parts), dtype=torch.float64)
    for i, a in enumerate(parts):
        own = _kernel(a, a)
        sums[i, i] = float(own.sum() - own.diagonal().sum())
        for j in range(i):
            sums[i, j] = sums[j, i] = float(_kernel(a, parts[j]).sum())
    return sums


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3  # (n_a, n_b)
