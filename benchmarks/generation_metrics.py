"""Speed of the generation metrics: Fréchet distance against scipy's sqrtm, exact neighbours.

Run: python benchmarks/generation_metrics.py [--dim 2048] [--device cuda] [--json FILE]
Both sides of a ratio are timed in the same process, on the same matrices, with the same number of
threads; the best of ``--repeats`` runs counts (scipy's side runs once).
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits

from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.metrics.frechet import FrechetReference, frechet_distance
from diffusability.metrics.nearest_neighbours import nearest_neighbours


def best_time(run: Callable[[], Any], repeats: int, device: str) -> tuple[float, Any]:
    """Return the shortest time in seconds, and the last result.

    Of one CPU thread it is the processor's time, which other work on the machine leaves alone.
    """
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    times = []
    for _ in range(repeats):
        start = clock()
        result = run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times), result


def scipy_frechet(a: FeatureMoments, b: FeatureMoments) -> float:
    """Return the distance as pytorch-fid and the ADM evaluator compute it."""
    p, q = a.covariance().cpu().numpy(), b.covariance().cpu().numpy()
    root = scipy.linalg.sqrtm(p @ q)
    shift = (a.mean - b.mean).square().sum()
    return float(shift) + float(np.trace(p) + np.trace(q) - 2 * np.trace(root).real)


def random_moments(
    dim: int, count: int, decades: float, generator: torch.Generator, device: str
) -> FeatureMoments:
    """Return moments of ``count`` normal vectors whose covariance spans ``decades`` of variance."""
    basis, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    scale = torch.logspace(0, -decades / 2, dim, dtype=torch.float64)
    x = (torch.randn(count, dim, generator=generator, dtype=torch.float64) * scale) @ basis
    return FeatureMoments.from_features(x.to(device), extractor="benchmark")


def benchmark_frechet(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time both distances on well-conditioned, feature-like and rank-deficient covariances."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for name, count, decades in (
        ("well-conditioned", 3 * args.dim, 1.0),
        ("six decades", 3 * args.dim, 6.0),
        ("rank-deficient", args.dim // 2, 1.0),
    ):
        a, b = (random_moments(args.dim, count, decades, generator, args.device) for _ in range(2))
        ours, value = best_time(lambda a=a, b=b: frechet_distance(a, b), args.repeats, args.device)
        prepared = FrechetReference(a)
        prepared.distance(b)
        again, _ = best_time(lambda p=prepared, b=b: p.distance(b), args.repeats, args.device)
        theirs, expected = best_time(lambda a=a, b=b: scipy_frechet(a, b), 1, "cpu")
        rows.append(
            {
                "case": f"Fréchet distance, {args.dim} dimensions, {name}",
                "seconds": ours,
                "scipy_seconds": theirs,
                "ratio": theirs / ours,
                "ratio_same_reference": theirs / again,
                "relative_difference": abs(value - expected) / expected,
            }
        )
    return rows


def benchmark_neighbours(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time the exact search and a plain float64 loop over queries on a subsample of them."""
    generator = torch.Generator().manual_seed(1)
    pool = torch.randn(args.pool, args.latent, generator=generator).to(args.device)
    queries = torch.randn(args.queries, args.latent, generator=generator).to(args.device)
    sample = queries[: max(1, args.queries // 100)]

    def loop() -> torch.Tensor:
        wide = pool.double()
        return torch.stack(
            [
                torch.nn.functional.cosine_similarity(q.double()[None], wide).topk(10).indices
                for q in sample
            ]
        )

    ours, table = best_time(
        lambda: nearest_neighbours(queries, pool, neighbours=10), args.repeats, args.device
    )
    theirs, expected = best_time(loop, 1, args.device)
    per_query = theirs / len(sample)
    return [
        {
            "case": f"10 neighbours of {args.queries} latents of {args.latent} among {args.pool}",
            "seconds": ours,
            "queries_per_second": args.queries / ours,
            "loop_queries_per_second": 1 / per_query,
            "ratio": per_query * args.queries / ours,
            "loop_sample": len(sample),
            "identical": bool((table.indices[: len(sample)] == expected).all()),
        }
    ]


def main() -> None:
    """Run the benchmarks, print one line each, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=2048, help="features of the Fréchet distance")
    parser.add_argument("--queries", type=int, default=4000)
    parser.add_argument("--pool", type=int, default=20_000)
    parser.add_argument("--latent", type=int, default=2048, help="values of a flattened latent")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        rows = benchmark_frechet(args) + benchmark_neighbours(args)
    versions = {"torch": torch.__version__, "scipy": scipy.__version__, "numpy": np.__version__}
    report = {
        "machine": platform.machine(),
        "device": args.device,
        "threads": args.threads,
        "versions": versions,
        "rows": rows,
    }
    for row in rows:
        numbers = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
        print("; ".join(numbers))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
