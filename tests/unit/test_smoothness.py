"""Smoothness: closed forms, loops, properties, errors, coverage."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn
from torch import Tensor

from benchmarks import latent_loops as loops
from diffusability.errors import MeasurementError
from diffusability.latents import channel_statistics as blocks
from diffusability.metrics.cosine_transform import cosine_transform, dct_matrix
from diffusability.metrics.smoothness import (
    effective_rank,
    local_correlation,
    measure_smoothness,
    radial_bins,
    radial_slope,
)
from tests.oracles.closed_forms import spectral_energy_concentration


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ar_covariance(size: int, rho: float) -> Tensor:
    index = torch.arange(size, dtype=torch.float64)
    return rho ** (index[:, None] - index).abs()


def _latents(count: int = 12, height: int = 6, width: int = 5, seed: int = 0) -> Tensor:
    noise = torch.randn(count, 3, height, width, generator=_generator(seed))
    rows = torch.linalg.cholesky(_ar_covariance(height, 0.6)).float()
    columns = torch.linalg.cholesky(_ar_covariance(width, 0.6)).float()
    mixed = torch.einsum(
        "ab,nbhw->nahw", torch.tensor([[1, 0, 0], [0.5, 2, 0], [0, 0.3, 0.2]]), noise
    )
    return rows @ mixed @ columns.T + 0.3


def _found(latents: Tensor) -> dict[str, tuple[float, float]]:
    return {
        m.metric.removeprefix("smoothness."): (m.value, m.stderr)
        for m in measure_smoothness(latents)
    }


def test_the_transform_is_the_orthonormal_dct():
    latents = _latents().double()
    expected = dctn(latents.numpy(), type=2, norm="ortho", axes=(2, 3))
    np.testing.assert_allclose(cosine_transform(latents), expected, atol=1e-12)
    basis = dct_matrix(7)
    torch.testing.assert_close(basis @ basis.T, torch.eye(7, dtype=torch.float64))


def test_white_noise_has_the_known_sec():
    flat = torch.ones(16, 16, dtype=torch.float64)
    assert spectral_energy_concentration(flat, 0.25) == 220 / 256  # 0.859, 36 low coefficients
    assert spectral_energy_concentration(flat, 0.5) == 120 / 256  # 0.469, 136 low coefficients
    noise = torch.randn(400, 4, 16, 16, generator=_generator())
    found = _found(noise)
    assert found["sec25"][0] == pytest.approx(0.859375, abs=4 * found["sec25"][1])
    assert found["sec50"][0] == pytest.approx(0.46875, abs=4 * found["sec50"][1])
    assert found["sec25"][1] < 0.001
    assert found["radial_slope"][0] == pytest.approx(0, abs=4 * found["radial_slope"][1])


def test_the_mean_counts_as_low_and_the_corner_as_high():
    energy = torch.zeros(8, 8, dtype=torch.float64)
    energy[0, 0], energy[7, 7] = 3.0, 1.0
    assert spectral_energy_concentration(energy, 0.25) == 0.25
    energy[7, 0] = 4.0  # u + v = 7 is not above half of 14
    assert spectral_energy_concentration(energy, 0.5) == 1 / 8
    assert spectral_energy_concentration(energy, 0.25) == 5 / 8


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_autoregressive_fields_have_their_closed_form(rho: float):
    basis, covariance = dct_matrix(16), _ar_covariance(16, rho)
    spectrum = torch.diagonal(basis @ covariance @ basis.T)
    energy = spectrum[:, None] * spectrum
    factor = torch.linalg.cholesky(covariance)
    noise = torch.randn(500, 3, 16, 16, generator=_generator(), dtype=torch.float64)
    found = _found(factor @ noise @ factor.T)
    for name, ratio in (("sec25", 0.25), ("sec50", 0.5)):
        value, stderr = found[name]
        assert value == pytest.approx(spectral_energy_concentration(energy, ratio), abs=4 * stderr)
    bins = radial_bins(16, 16)
    slope = float(radial_slope(energy.flatten() @ bins.average, bins.log_frequency))
    value, stderr = found["radial_slope"]
    assert value == pytest.approx(slope, abs=4 * stderr)


def test_a_power_law_has_its_exponent():
    bins = radial_bins(12, 12)
    assert bins.average.shape == (144, 11)
    assert float(radial_slope((-1.7 * bins.log_frequency).exp(), bins.log_frequency)) == (
        pytest.approx(-1.7, rel=1e-12)
    )
    # the first ring of a square grid is (0, 1), (1, 0), (1, 1)
    assert float(bins.log_frequency[0].exp()) == pytest.approx((2 + 2**0.5) / 3, rel=1e-12)


def test_local_correlation_of_copies_is_one_and_of_noise_is_nothing():
    coarse = torch.randn(3, 6, 4, 4, generator=_generator(), dtype=torch.float64)
    copies = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(local_correlation(copies), torch.ones(3, dtype=torch.float64))
    noise = torch.randn(200, 64, 4, 4, generator=_generator(), dtype=torch.float64)
    assert abs(float(local_correlation(noise).mean())) < 0.01
    shifted = copies.roll(1, dims=3)  # windows now straddle the copies
    assert float(local_correlation(shifted).mean()) < 0.7


def test_effective_rank_of_known_spectra():
    assert effective_rank(torch.eye(5, dtype=torch.float64)) == 5
    assert effective_rank(torch.ones(5, 5, dtype=torch.float64)) == pytest.approx(1)
    spectrum = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=_generator(), dtype=torch.float64))[0]
    rotated = rotation @ torch.diag(spectrum) @ rotation.T
    assert effective_rank(rotated) == pytest.approx(4.5**2 / 10.25, rel=1e-12)


def test_agrees_with_the_loops():
    latents = _latents()
    scaled, found = loops.z_scores(latents.numpy()), _found(latents)
    assert found["sec25"][0] == pytest.approx(loops.sec(scaled, 0.25), rel=1e-6)
    assert found["sec50"][0] == pytest.approx(loops.sec(scaled, 0.5), rel=1e-6)
    expected = np.mean([loops.local_correlation(image) for image in scaled])
    assert found["local_correlation"][0] == pytest.approx(expected, rel=1e-6)
    for name, values in (("effective_rank", scaled), ("effective_rank_raw", latents.numpy())):
        rows = np.moveaxis(values.astype(np.float64), 1, 0).reshape(3, -1)
        spectrum = np.linalg.eigvalsh(np.cov(rows))
        expected = spectrum.sum() ** 2 / (spectrum**2).sum()
        assert found[name][0] == pytest.approx(expected, rel=1e-6)
    energy = (dctn(scaled, type=2, norm="ortho", axes=(2, 3)) ** 2).mean(axis=(0, 1))
    rings: dict[int, list[tuple[float, float]]] = {}
    for (u, v), value in np.ndenumerate(energy):
        radius = np.hypot(u * 5 / 6, v)
        rings.setdefault(round(radius), []).append((radius, value))
    points = [np.mean(rings[ring], axis=0) for ring in (1, 2, 3, 4)]
    slope = np.polyfit(*np.log(points).T, 1)[0]
    assert found["radial_slope"][0] == pytest.approx(slope, rel=1e-6)


def test_standard_errors_are_those_of_leaving_images_out():
    """Against a jackknife that measures everything again, normalisation included."""
    latents = _latents(60)
    whole = _found(latents)
    kept = [_found(latents[torch.arange(60) != i]) for i in range(60)]
    for name, tolerance in (("sec25", 0.02), ("sec50", 0.02), ("effective_rank_raw", 0.05)):
        replicates = np.array([one[name][0] for one in kept])
        expected = np.sqrt(59 / 60 * np.sum((replicates - replicates.mean()) ** 2))
        assert whole[name][1] == pytest.approx(expected, rel=tolerance)
    replicates = np.array([one["effective_rank"][0] for one in kept])
    expected = np.sqrt(59 / 60 * np.sum((replicates - replicates.mean()) ** 2))
    assert whole["effective_rank"][1] == pytest.approx(expected, rel=0.08)


def test_permuted_positions_are_less_smooth():
    latents = _latents(100)
    order = torch.randperm(30, generator=_generator(3))
    before = _found(latents)
    after = _found(latents.flatten(2)[:, :, order].unflatten(2, (6, 5)))
    assert after["sec25"][0] > before["sec25"][0] + 0.2
    assert after["local_correlation"][0] < before["local_correlation"][0] - 0.2
    assert after["effective_rank"][0] == pytest.approx(before["effective_rank"][0], rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), images=st.integers(1, 5))
def test_neither_order_nor_batch_nor_dtype_matters(seed: int, images: int):
    latents = _latents(seed=seed).bfloat16()
    expected = _found(latents)
    order = torch.randperm(len(latents), generator=_generator(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_BLOCK_BYTES", images * 3 * 30 * 8)
        found = _found(latents[order].double())
    for name, pair in expected.items():
        assert found[name] == pytest.approx(pair, rel=1e-9, abs=1e-12)


def test_scale_and_offset_of_a_channel_do_not_matter():
    latents = _latents().double()
    moved = latents * torch.tensor([2.0, 0.1, 30.0])[:, None, None] + 5
    before, after = _found(latents), _found(moved)
    for name in ("sec25", "sec50", "radial_slope", "local_correlation", "effective_rank"):
        assert after[name] == pytest.approx(before[name], rel=1e-8)
    assert after["effective_rank_raw"][0] != pytest.approx(before["effective_rank_raw"][0], rel=0.1)


def test_directions_and_impossible_cells():
    found = {m.metric: m for m in measure_smoothness(_latents())}
    assert found["smoothness.sec25"].higher_is_better is False
    assert found["smoothness.local_correlation"].higher_is_better is True
    assert found["smoothness.radial_slope"].higher_is_better is None
    assert found["smoothness.sec25"].flags == ()
    narrow = {m.metric: m for m in measure_smoothness(_latents()[:, :1, :2, :2])}
    assert set(narrow) == {
        "smoothness.sec25",
        "smoothness.sec50",
        "smoothness.effective_rank",
        "smoothness.effective_rank_raw",
    }
    assert len(narrow["smoothness.sec25"].flags) == 2
    with pytest.raises(MeasurementError, match="1x1 grid"):
        measure_smoothness(_latents()[:, :, :1, :1])
    with pytest.raises(MeasurementError, match="two channels"):
        local_correlation(_latents()[:, :1])
    with pytest.raises(MeasurementError, match="One image"):
        measure_smoothness(_latents()[:1])


def _coverage(repetitions: int) -> dict[str, float]:
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(repetitions):
        for name, pair in _found(_latents(100, seed=seed)).items():
            found.setdefault(name, []).append(pair)
    table = {name: np.array(pairs) for name, pairs in found.items()}
    return {
        name: float(np.mean(np.abs(v[:, 0] - v[:, 0].mean()) < 1.96 * v[:, 1]))
        for name, v in table.items()
    }


@pytest.mark.release
def test_standard_errors_cover():
    assert all(0.90 <= share <= 0.98 for share in _coverage(300).values())


@pytest.mark.slow
def test_standard_errors_cover_over_many_repetitions():
    assert all(0.92 <= share <= 0.98 for share in _coverage(3000).values())
