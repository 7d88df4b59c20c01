"""Kernel distance: the U-statistic against loops, its zero mean, its standard error."""

import numpy as np
import pytest
import torch

from diffusability.errors import MeasurementError
from diffusability.metrics.kernel_distance import measure_kernel_distance
from diffusability.metrics.measurement import Measurement


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measure(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    blocks: int = 5,
    seed: int = 0,
    images: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Measurement:
    return measure_kernel_distance(
        reference=x,
        generated=y,
        extractor="probe",
        generator=torch.Generator().manual_seed(seed),
        blocks=blocks,
        images=images,
    )


def loop(x: torch.Tensor, y: torch.Tensor) -> float:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    xy = sum(kernel(a, b) for a in x for b in y) / (m * n)
    return xx + yy - 2 * xy


def test_agrees_with_the_loop_for_unequal_sets() -> None:
    x, y = normal(13, 3, seed=1), normal(17, 3, seed=2) + 0.5
    result = measure(x, y)
    assert result.value == pytest.approx(loop(x, y), rel=1e-10)
    assert result.metric == "generation.kernel_distance_probe"
    assert result.higher_is_better is False


def test_closed_form_of_constant_sets() -> None:
    # All pairs are equal: (1 + 1)^3 + (4 + 1)^3 - 2 (2 + 1)^3 = 8 + 125 - 54.
    x, y = torch.ones(10, 4), torch.full((10, 4), 2.0)
    assert measure(x, y).value == pytest.approx(79.0, rel=1e-12)


def test_closed_form_of_a_shift_in_one_dimension() -> None:
    # E k(x, y) = E (xy + 1)^3 = m3 m3' + 3 m2 m2' + 3 m1 m1' + 1; N(0,1) has moments 0, 1, 0 and
    # N(1,1) has 1, 2, 4: MMD^2 = (3 + 1) + (16 + 12 + 3 + 1) - 2 (6 + 1) = 22.
    values = [
        measure(normal(600, 1, seed=s), normal(600, 1, seed=s + 99) + 1).value for s in range(30)
    ]
    error = np.std(values, ddof=1) / 30**0.5
    assert abs(np.mean(values) - 22) < 4 * error
    assert error < 1


def test_is_unbiased_under_equal_distributions() -> None:
    values = [
        measure(normal(30, 4, seed=2 * s), normal(20, 4, seed=2 * s + 1)).value for s in range(400)
    ]
    error = np.std(values, ddof=1) / 400**0.5
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0 < max(values)


def test_order_blocks_and_dtype_do_not_change_the_value() -> None:
    x, y = normal(40, 3, seed=1).float(), normal(30, 3, seed=2).float()
    first = measure(x, y)
    for other in (
        measure(x.flip(0), y.flip(0)),
        measure(x, y, blocks=9),
        measure(x, y, seed=5),
        measure(x.double(), y.double()),
    ):
        assert other.value == pytest.approx(first.value, rel=1e-10)


@pytest.mark.release
def test_standard_error_covers() -> None:
    results = [
        measure(normal(200, 8, seed=2 * s), normal(200, 8, seed=2 * s + 1) * 1.4 + 0.4, blocks=20)
        for s in range(250)
    ]
    values = np.array([r.value for r in results])
    errors = np.array([r.stderr for r in results])
    share = np.mean(np.abs(values - values.mean()) < 1.96 * errors)
    assert 0.90 <= share <= 0.98
    assert np.sqrt(np.mean(errors**2)) / values.std(ddof=1) == pytest.approx(1.0, abs=0.15)


def test_bad_input_is_refused() -> None:
    x = normal(20, 3, seed=1)
    with pytest.raises(MeasurementError, match="not one extractor"):
        measure(x, x[:, :2])
    with pytest.raises(MeasurementError, match="samples per set"):
        measure(x, x[:9])
    with pytest.raises(MeasurementError, match="not finite"):
        measure(x, x / 0)


def test_standard_error_of_two_versions_of_the_same_images() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.arange(100), torch.arange(200) % 100  # two versions of every image
    found, unpaired = [], []
    for seed in range(30):
        x = torch.randn(100, 4, generator=generator)
        y = 0.8 * x[second] + 0.3 + 0.2 * torch.randn(200, 4, generator=generator)
        found.append(measure(x, y, blocks=20, seed=seed, images=(first, second)))
        unpaired.append(measure(x, y, blocks=20, seed=seed))
    values = [m.value for m in found]
    assert values == pytest.approx([m.value for m in unpaired], rel=1e-9)
    spread = np.std(values, ddof=1)
    stated, ignored = (np.sqrt(np.mean([m.stderr**2 for m in s])) for s in (found, unpaired))
    assert 1 / 1.5 < stated / spread < 1.5
    assert ignored > 2 * spread
