"""Precision, recall, density and coverage: known sets, the loop, which set is which, coverage."""

import math

import numpy as np
import pytest
import torch

from diffusability.errors import MeasurementError
from diffusability.metrics import precision_recall
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.precision_recall import measure_precision_recall


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measure(
    real: torch.Tensor,
    generated: torch.Tensor,
    *,
    neighbours: int = 3,
    blocks: int = 5,
    images: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> dict[str, Measurement]:
    results = measure_precision_recall(
        real=real,
        generated=generated,
        extractor="probe",
        generator=torch.Generator().manual_seed(0),
        neighbours=neighbours,
        blocks=blocks,
        images=images,
    )
    return {r.metric.removeprefix("generation.").removesuffix("_probe"): r for r in results}


def loop(real: torch.Tensor, generated: torch.Tensor, k: int) -> dict[str, float]:
    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)))

    def radii(points: torch.Tensor) -> list[float]:
        return [
            sorted(distance(a, b) for j, b in enumerate(points) if j != i)[k - 1]
            for i, a in enumerate(points)
        ]

    real_radii, generated_radii = radii(real), radii(generated)
    inside = [
        [distance(x, y) <= r for y in generated] for x, r in zip(real, real_radii, strict=True)
    ]
    recalled = [
        any(distance(x, y) <= r for y, r in zip(generated, generated_radii, strict=True))
        for x in real
    ]
    return {
        "precision": float(np.mean(np.any(inside, axis=0))),
        "recall": float(np.mean(recalled)),
        "density": float(np.sum(inside) / (k * len(generated))),
        "coverage": float(np.mean(np.any(inside, axis=1))),
    }


@pytest.mark.parametrize("k", [1, 3])
def test_agrees_with_the_loop(k: int) -> None:
    real, generated = normal(40, 2, seed=1), normal(25, 2, seed=2) * 0.7 + 0.5
    found = measure(real, generated, neighbours=k)
    for name, expected in loop(real, generated, k).items():
        assert found[name].value == pytest.approx(expected, abs=1e-12)
        assert found[name].higher_is_better is True


def test_blocks_of_rows_do_not_matter(monkeypatch) -> None:
    real, generated = normal(40, 2, seed=1), normal(25, 2, seed=2)
    whole = measure(real, generated)
    monkeypatch.setattr(precision_recall, "_ROWS", 7)
    assert measure(real, generated) == whole


def test_rows_whose_neighbours_are_all_left_out_do_not_matter(monkeypatch) -> None:
    real, generated = normal(40, 2, seed=1), normal(25, 2, seed=2)
    whole = measure(real, generated)
    monkeypatch.setattr(precision_recall, "_SPARE", 1)  # none looked up beyond the k nearest
    monkeypatch.setattr(precision_recall, "_PAIR_ROWS", 3)
    assert measure(real, generated) == whole


def test_what_float32_cannot_tell_apart_is_decided_in_float64(monkeypatch) -> None:
    """Distances that differ by 1e-9, and products off by as much as float32 may be."""
    real, generated = (
        normal(40, 2, seed=seed).mul(2).round() + 1e-9 * normal(40, 2, seed=seed + 10) + 1e4
        for seed in (1, 2)
    )
    found = measure(real, generated)
    for name, expected in loop(real, generated, 3).items():
        assert found[name].value == pytest.approx(expected, abs=1e-12)
    sure = precision_recall._Samples.squares

    def squares(self, rows, others):
        values, error = sure(self, rows, others)
        signs = torch.randn(values.shape, generator=torch.Generator().manual_seed(4)).sign()
        return (values + 0.9 * signs * error[:, None]).float(), error

    monkeypatch.setattr(precision_recall._Samples, "squares", squares)
    assert measure(real, generated) == found


@pytest.mark.parametrize("dimensions", [3, 64, 2048])
def test_float32_is_off_by_less_than_stated(dimensions: int) -> None:
    x, y = normal(50, dimensions, seed=1) + 3, 1e-3 * normal(60, dimensions, seed=2)
    a, b = (precision_recall._Samples.about(x.mean(dim=0), z) for z in (x, y))
    values, error = a.squares(slice(0, 50), b)
    exact = (x[:, None] - y).square().sum(dim=2)
    assert bool(((values - exact).abs() <= error[:, None]).all())
    assert bool((error < 0.01 * exact.mean()).all())


def test_features_that_float32_cannot_square_are_refused() -> None:
    x = normal(20, 2, seed=1)
    with pytest.raises(MeasurementError, match="reach a length of"):
        measure(x * 1e30, x)


def test_identical_sets() -> None:
    x = normal(60, 3, seed=3)
    found = measure(x, x)
    assert {found[n].value for n in ("precision", "recall", "coverage")} == {1.0}


def test_disjoint_sets() -> None:
    found = measure(normal(30, 2, seed=1), normal(30, 2, seed=2) + 100)
    assert {m.value for m in found.values()} == {0.0}


def test_one_mode_of_two_keeps_precision_and_loses_recall() -> None:
    near, far = normal(60, 2, seed=1), normal(60, 2, seed=2) + 100
    real, generated = torch.cat([near, far]), normal(60, 2, seed=3) * 0.5
    found = measure(real, generated)
    assert found["precision"].value > 0.9
    assert found["recall"].value <= 0.5
    assert found["coverage"].value <= 0.5
    swapped = measure(generated, real)
    assert swapped["precision"].value <= 0.5
    assert swapped["recall"].value > 0.9


def test_sets_go_by_keyword_only() -> None:
    x = normal(20, 2, seed=1)
    with pytest.raises(TypeError):
        measure_precision_recall(x, x)  # type: ignore[misc]


def test_jackknife_leaves_blocks_out() -> None:
    real, generated = normal(30, 2, seed=1), normal(20, 2, seed=2)
    found = measure(real, generated, blocks=4)
    generator = torch.Generator().manual_seed(0)
    blocks = [
        torch.randperm(len(z), generator=generator).tensor_split(4) for z in (real, generated)
    ]
    rest = []
    for b in range(4):
        keep = [torch.cat([p for j, p in enumerate(parts) if j != b]) for parts in blocks]
        rest.append(loop(real[keep[0].sort().values], generated[keep[1].sort().values], 3))
    sizes = [len(blocks[0][b]) + len(blocks[1][b]) for b in range(4)]
    for name in ("recall", "density"):
        h = [50 / s for s in sizes]
        theta = [r[name] for r in rest]
        full = found[name].value
        estimate = 4 * full - sum((1 - 1 / a) * t for a, t in zip(h, theta, strict=True))
        variance = np.mean(
            [
                (a * full - (a - 1) * t - estimate) ** 2 / (a - 1)
                for a, t in zip(h, theta, strict=True)
            ]
        )
        assert found[name].stderr == pytest.approx(math.sqrt(variance), rel=1e-6)


@pytest.mark.slow
def test_standard_errors_cover() -> None:
    results = [
        measure(normal(300, 3, seed=2 * s), normal(300, 3, seed=2 * s + 1) + 0.8, blocks=10)
        for s in range(300)
    ]
    for name in ("precision", "recall", "density", "coverage"):
        values = np.array([r[name].value for r in results])
        errors = np.array([r[name].stderr for r in results])
        share = np.mean(np.abs(values - values.mean()) < 1.96 * errors)
        assert 0.90 <= share <= 0.98, name


def test_bad_input_is_refused() -> None:
    x = normal(20, 2, seed=1)
    with pytest.raises(MeasurementError, match="not one extractor"):
        measure(x, x[:, :1])
    with pytest.raises(MeasurementError, match="cannot be found"):
        measure(x, x[:3])
    with pytest.raises(MeasurementError, match="not finite"):
        measure(x, x * math.inf)


def test_versions_of_the_same_images_are_left_out_together() -> None:
    real = normal(60, 3, seed=1)
    found = measure(real, real, images=(torch.arange(60), torch.arange(60)))
    assert (found["precision"].value, found["precision"].stderr) == (1.0, 0.0)
    assert measure(real, real)["precision"].stderr > 0  # their own images are left out elsewhere
