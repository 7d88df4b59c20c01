"""Error of the training-free Fisher estimators against exact oracles, over n, images and noise.

    python -m benchmarks.fisher_estimators --markdown > table.md

Each cell is the estimate of v FI / n minus the exact value, the same for v^2 FIR / n, both as the
mean over draws of the data with the standard deviation of one draw, in units of 0.001. The command
takes about a minute on one core. Labels are those of the components of a mixture.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusability.fisher.gaussian import Gaussian
from diffusability.fisher.oracle import Oracle, Product
from diffusability.fisher.toy_oracles import Arc, activation_oracle
from diffusability.metrics.fisher_curves import shares
from diffusability.metrics.sample_fisher import Sample
from tests.oracles.distributions import Circle, GaussianMixture, TwoAtoms

V = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Case:
    """A distribution, and the estimators that claim to know it."""

    name: str
    oracle: Oracle
    mixture: GaussianMixture | None = None


def cases() -> Iterator[Case]:
    """Yield the distributions of the table, of variance about 1 per dimension."""
    for n in (8, 64):
        values = torch.arange(1, n + 1, dtype=torch.float64) ** -1.5
        yield Case(
            f"Gaussian, n = {n}", Gaussian(torch.zeros(n), torch.diag(values * n / values.sum()))
        )
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    spread = torch.diag_embed(0.02 + torch.rand(4, 3, generator=generator, dtype=torch.float64) / 4)
    mixture = GaussianMixture(torch.ones(4), means, spread)
    yield Case("mixture, n = 3", mixture, mixture)
    yield Case("two atoms, n = 2", Product([TwoAtoms()] * 2))
    yield Case("two atoms, n = 8", Product([TwoAtoms()] * 8))
    yield Case("ReLU, n = 2", Product([activation_oracle("relu")] * 2))
    yield Case("circle, n = 2", Circle(2**0.5))
    yield Case("bent sheet, n = 6", Product([Arc(1.25)] * 3))


def errors(case: Case, count: int, draws: int) -> dict[str, Tensor]:
    """Return (draws, V, 2) errors of v FI / n and v^2 FIR / n by estimator."""
    n = case.oracle.dim
    exact = [case.oracle.information(v) for v in V]
    truth = torch.tensor([[v * a.fi / n, v**2 * a.fir / n] for v, a in zip(V, exact, strict=True)])
    found: dict[str, list[Tensor]] = {}
    for seed in range(draws):
        x = case.oracle.sample(count, torch.Generator().manual_seed(seed))
        labels = torch.zeros(count, dtype=torch.int64)
        if case.mixture is not None:
            labels = case.mixture.responsibilities(x, 1e-6).argmax(dim=1)
        sample = Sample(
            x[:, :, None, None], torch.arange(count), labels, blocks=2, samples=256, seed=seed
        )
        names = ["_gaussian", "_empirical", *["_unconditional"] * (case.mixture is not None)]
        curves = sample.curves(torch.tensor(V, dtype=torch.float64).expand(3, -1), names)
        for name in names:
            at = shares(curves.gains[name][0], n)[:, :2] - truth
            found.setdefault(name, []).append(at)
    return {name: torch.stack(parts) for name, parts in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--markdown", action="store_true", help="as a table of Markdown")
    arguments = parser.parse_args()
    names = {"_gaussian": "one Gaussian", "_empirical": "empirical", "_unconditional": "mixture"}
    head = ["distribution", "estimator", "images", *(f"v = {v:g}: FI, FIR" for v in V)]
    rows = [head, *([["---"] * len(head)] * arguments.markdown)]
    for case in cases():
        for count in arguments.images:
            for name, values in errors(case, count, arguments.draws).items():
                mean, spread = 1000 * values.mean(dim=0), 1000 * values.std(dim=0)
                cells = [
                    ", ".join(
                        f"{m:+.0f} ± {s:.0f}" for m, s in zip(a.tolist(), b.tolist(), strict=True)
                    )
                    for a, b in zip(mean, spread, strict=True)
                ]
                rows.append([case.name, names[name], str(count), *cells])
    for row in rows:
        print(
            "| " + " | ".join(row) + " |"
            if arguments.markdown
            else "  ".join(f"{c:24}" for c in row)
        )


if __name__ == "__main__":
    main()
