"""Stretch of distances and spectra as measurements: known maps, errors, empty cells."""

import pytest
import torch

from diffusability.errors import MeasurementError
from diffusability.metrics.geometry import measure_spectra, measure_stretch
from diffusability.metrics.measurement import Measurement
from diffusability.tokenizers.serpentine import to_vector
from tests.unit.fisher_examples import isometry, normal


def stretch(x: torch.Tensor, z: torch.Tensor) -> dict[str, Measurement]:
    cells, not_applicable = measure_stretch(x, z)
    assert not_applicable == []
    return {cell.metric.removeprefix("geometry.stretch_"): cell for cell in cells}


def spectra(z: torch.Tensor, seed: int = 0) -> dict[str, Measurement]:
    cells, not_applicable, _ = measure_spectra(z, to_vector(z), torch.Generator().manual_seed(seed))
    assert not_applicable == []
    return {cell.metric.removeprefix("geometry."): cell for cell in cells}


class TestStretch:
    def test_a_scaled_isometry_stretches_all_pairs_alike(self) -> None:
        x = normal(60, 1, 4, 4)
        z = (0.3 * x.flatten(1) @ isometry(20, 16).T).view(60, 5, 2, 2)
        found = stretch(x, z)
        for name in ("min", "max", "q01", "q05", "q50", "q95", "q99"):
            assert found[name].value == pytest.approx(0.3, rel=1e-9)
        assert found["ratio"].value == pytest.approx(1, rel=1e-9)
        assert found["q99_q01"].value == pytest.approx(1, rel=1e-9)
        assert found["q50"].stderr == pytest.approx(0, abs=1e-9)
        assert found["ratio"].options["pairs"] == 60 * 59 // 2

    def test_a_plane_stretched_by_two_factors(self) -> None:
        x = normal(400, 1, 1, 2)
        found = stretch(x, x * torch.tensor([0.5, 1.5]))
        assert found["min"].value == pytest.approx(0.5, abs=1e-2)
        assert found["max"].value == pytest.approx(1.5, abs=1e-2)
        assert found["ratio"].value == pytest.approx(3, rel=0.03)
        # directions of differences are uniform: half of them stretch by more than at 45 degrees
        expected = ((0.5**2 + 1.5**2) / 2) ** 0.5
        assert found["q50"].value == pytest.approx(expected, abs=4 * (found["q50"].stderr or 0))

    def test_standard_error_against_repeats(self) -> None:
        # the noise of the median over fresh sets of images, against what one set says of itself
        factors = torch.tensor([0.5, 1.5])
        sets = [normal(80, 1, 1, 2, seed=seed) for seed in range(40)]
        medians = [stretch(x, x * factors)["q50"] for x in sets]
        spread = torch.tensor([m.value for m in medians]).std()
        stated = torch.tensor([m.stderr or 0.0 for m in medians]).square().mean().sqrt()
        assert float(stated / spread) == pytest.approx(1, abs=0.35)

    def test_equal_images_and_shared_latents(self) -> None:
        x = normal(40, 1, 2, 2)
        x[1] = x[0]
        z = x.clone()
        z[3] = z[2]
        cells, not_applicable = measure_stretch(x, z)
        assert [name for name, _ in not_applicable] == ["geometry.stretch_ratio"]
        assert cells[0].value == 0
        assert cells[0].options["pairs"] == 40 * 39 // 2 - 1
        _, not_applicable = measure_stretch(x, torch.zeros_like(z))
        assert len(not_applicable) == 2
        with pytest.raises(MeasurementError, match="equal images"):
            measure_stretch(torch.ones(30, 1, 2, 2), z[:30])


class TestSpectra:
    def test_white_latents_have_no_slope_in_any_order(self) -> None:
        found = spectra(normal(300, 2, 16, 16))
        for name in ("grid", "grid_permuted", "line", "line_permuted"):
            cell = found[f"{name}_slope"]
            assert abs(cell.value) < 4 * (cell.stderr or 0)
            assert 0 < found[f"{name}_falling"].value < 1

    def test_a_natural_spectrum_is_lost_with_the_order(self) -> None:
        f = torch.fft.fftfreq(16, dtype=torch.float64)
        amplitude = 1 / torch.hypot(f[:, None], f[None]).clamp(min=1 / 16)
        z = torch.fft.ifft2(torch.fft.fft2(normal(200, 1, 16, 16)) * amplitude).real
        found = spectra(z)
        assert found["grid_slope"].value == pytest.approx(-2, abs=0.25)
        assert found["grid_falling"].value == 1
        assert abs(found["grid_permuted_slope"].value) < 0.1
        assert found["line_slope"].value < -0.5
        assert abs(found["line_permuted_slope"].value) < 0.1

    def test_small_grids_have_no_slope(self) -> None:
        z = normal(40, 2, 2, 2)
        order = torch.Generator().manual_seed(0)
        cells, not_applicable, kept = measure_spectra(z, to_vector(z), order)
        assert {name for name, _ in not_applicable} == {
            f"geometry.{name}_{kind}"
            for name in ("grid", "grid_permuted")
            for kind in ("slope", "falling")
        }
        assert [(s.order, s.permuted) for s in kept] == [("line", False), ("line", True)]
        assert len(cells) == 4

    def test_constant_latents_are_left_out(self) -> None:
        z = normal(30, 1, 8, 8)
        z[4] = 2.0
        assert spectra(z)["grid_slope"].n == 29
        with pytest.raises(MeasurementError, match="0 latents vary"):
            spectra(torch.ones(30, 1, 8, 8))
