"""Metrics of ours beside the official code of their papers, on the same numbers, in one run.

    python -m benchmarks.official_metrics spatial ~/iREPA --batch 256
    python -m benchmarks.official_metrics neighbours ~/FD-Loss
    python -m benchmarks.official_metrics neighbours ~/torch-fidelity
    python -m benchmarks.official_metrics frechet ~/FD-Loss --repeats 1
    python -m benchmarks.official_metrics frechet ~/torch-fidelity --repeats 1
    python -m benchmarks.official_metrics kernel ~/torch-fidelity --repeats 1

Ours compute in float64 and give a standard error; the official code gives the value alone, spatial
metrics, neighbours and the kernel distance in float32.
"""

import argparse
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from benchmarks.official import Comparison, run
from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.metrics.frechet import frechet_distance
from diffusability.metrics.kernel_distance import measure_kernel_distance
from diffusability.metrics.latent_set import LatentSet
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.precision_recall import measure_precision_recall
from diffusability.metrics.spatial import measure_spatial

SPATIAL = ("lds", "cds", "srss", "rmsc")
FEATURES, REAL, GENERATED = 2048, 1000, 5000


def agreement(pairs: Mapping[str, tuple[float, float]]) -> str:
    """Return the official values, and the largest difference of ours relative to theirs."""
    shown = ", ".join(f"{name} {theirs:.4g}" for name, (_, theirs) in pairs.items())
    largest = max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs.values())
    return f"{shown}; largest relative difference {largest:.0e}"


def values(measurements: list[Measurement]) -> dict[str, float]:
    """Return the values by the last part of their names."""
    return {m.metric.partition(".")[2]: m.value for m in measurements}


def spatial(options: argparse.Namespace) -> Comparison:
    """LDS, CDS, SRSS and RMSC of raw and of z-scored latents."""
    from metrics.spatial_metrics import compute_spatial_metrics

    count, side = options.batch, 16
    latents = torch.randn(count, 32, side, side)
    latents = torch.nn.functional.avg_pool2d(latents, 3, 1, 1) * torch.rand(1, 32, 1, 1)
    axis = torch.arange(side) - (side - 1) / 2
    radius = side * (0.33 + 0.07 * torch.rand(count))  # between 34 and 50 per cent of the tokens
    masks = axis[:, None].square() + axis.square() < radius[:, None, None].square()  # (N, S, S)

    def theirs() -> dict[str, float]:
        data, found = LatentSet(latents), {}
        for normalised, suffix in ((True, ""), (False, "_raw")):
            tokens = data.read(slice(None), normalised).float().flatten(2).mT.contiguous()
            result = compute_spatial_metrics(tokens, masks.flatten(1))["_unnamed"]
            found |= {f"{name}{suffix}": float(result[name]["mean"]) for name in SPATIAL}
        return found

    def ours() -> list[Measurement]:
        return measure_spatial(latents, masks.float())[0]

    mine, yours = values(ours()), theirs()
    return Comparison(
        f"LDS, CDS, SRSS and RMSC, raw and z-scored, {count} latents of 32 x 16 x 16 with masks",
        ours,
        theirs,
        agreement({name: (mine[name], yours[name]) for name in yours}),
    )


def neighbours(options: argparse.Namespace) -> Comparison:
    """Precision and recall; ours also density, coverage and standard errors (11 replicates)."""
    scale = torch.logspace(0, -3, FEATURES)  # half the variance in the first hundred
    real, generated = torch.randn(REAL, FEATURES) * scale, torch.randn(GENERATED, FEATURES) * scale

    def ours() -> list[Measurement]:
        return measure_precision_recall(
            real=real,
            generated=generated,
            extractor="benchmark",
            generator=torch.Generator().manual_seed(0),
        )

    official = official_neighbours(options)
    mine, yours = values(ours()), official(real, generated)
    pairs = {
        "precision": (mine["precision_benchmark"], yours[0]),
        "recall": (mine["recall_benchmark"], yours[1]),
    }
    return Comparison(
        f"precision and recall, {REAL:,} real and {GENERATED:,} generated of {FEATURES} features",
        ours,
        lambda: official(real, generated),
        agreement(pairs),
    )


def official_neighbours(
    options: argparse.Namespace,
) -> Callable[[Tensor, Tensor], tuple[float, float]]:
    """Return the official function of (real, generated): (precision, recall)."""
    if (options.repository / "torch_fidelity").is_dir():
        from torch_fidelity.metric_prc import calculate_precision_recall_part

        return lambda real, generated: calculate_precision_recall_part(generated, real)
    from frechet_distance.metrics import compute_precision_recall

    return lambda real, generated: compute_precision_recall(real, generated)


def frechet(options: argparse.Namespace) -> Comparison:
    """The Fréchet distance of two sets of moments; covariances over four decades of variance."""
    scale = torch.logspace(0, -2, FEATURES, dtype=torch.float64)
    mixing = torch.linalg.qr(torch.randn(FEATURES, FEATURES, dtype=torch.float64)).Q
    sets = [torch.randn(3 * FEATURES, FEATURES).double() * scale @ mixing + k for k in (0, 0.01)]
    moments = [FeatureMoments.from_features(x, extractor="benchmark") for x in sets]
    arrays = [(m.mean.numpy(), m.covariance().numpy()) for m in moments]
    official = official_frechet(options)
    mine, yours = frechet_distance(*moments), official(*arrays[0], *arrays[1])
    return Comparison(
        f"Fréchet distance of moments of {FEATURES} features",
        lambda: frechet_distance(*moments),
        lambda: official(*arrays[0], *arrays[1]),
        agreement({"distance": (mine, yours)}),
    )


def official_frechet(options: argparse.Namespace) -> Callable[..., float]:
    """Return the official function of (mean, covariance, mean, covariance)."""
    if (options.repository / "torch_fidelity").is_dir():
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        def distance(*numbers: np.ndarray) -> float:
            first, second = (
                {"mu": mean, "sigma": spread} for mean, spread in (numbers[:2], numbers[2:])
            )
            return float(fid_statistics_to_metric(first, second, False)[KEY_METRIC_FID])

        return distance
    from frechet_distance.metrics import compute_fid

    return compute_fid


def kernel(options: argparse.Namespace) -> Comparison:
    """The kernel distance: ours of all pairs, theirs as usual over 100 subsets of 1,000."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    count = 5 * REAL
    real, generated = (torch.randn(count, FEATURES).relu() + 0.1 * k for k in (0, 1))

    def ours() -> float:
        return measure_kernel_distance(
            reference=real,
            generated=generated,
            extractor="benchmark",
            generator=torch.Generator().manual_seed(0),
        ).value

    def theirs(subsets: int = 100, size: int = REAL) -> float:
        found = kid_features_to_metric(
            real, generated, kid_subsets=subsets, kid_subset_size=size, verbose=False
        )
        return float(found[KEY_METRIC_KID_MEAN])

    return Comparison(
        f"kernel distance, {count:,} x {count:,} of {FEATURES} features",
        ours,
        theirs,
        agreement({"all pairs": (ours(), theirs(1, count))}),
    )


if __name__ == "__main__":
    run(
        "Metrics of ours beside the official code of their papers.",
        {"spatial": spatial, "neighbours": neighbours, "frechet": frechet, "kernel": kernel},
        batch=256,
    )
