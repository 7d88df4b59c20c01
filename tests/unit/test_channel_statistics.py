"""Channel statistics against numpy, and the algebra of merging them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusability.errors import MeasurementError
from diffusability.latents import channel_statistics as module
from diffusability.latents.channel_statistics import (
    ChannelStatistics,
    channel_statistics,
    denormalise,
    normalise,
)


def _latents(count: int = 7, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([1.0, 5.0, 0.01])[:, None, None]
    return torch.randn(count, 3, 4, 5, generator=generator) * scale + scale


def test_matches_numpy_with_one_degree_of_freedom_taken():
    latents = _latents()
    values = latents.double().numpy()
    statistics = channel_statistics(latents)
    assert statistics.count == 7 * 4 * 5
    assert statistics.mean.dtype == torch.float64
    np.testing.assert_allclose(statistics.mean, values.mean(axis=(0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(statistics.std, values.std(axis=(0, 2, 3), ddof=1), rtol=1e-13)


def test_two_values_have_the_std_of_two_values():
    latents = torch.tensor([1.0, 4.0]).reshape(2, 1, 1, 1)
    assert float(channel_statistics(latents).std[0]) == pytest.approx(3 / 2**0.5, rel=1e-15)


def test_blocks_do_not_change_the_result(monkeypatch):
    latents = _latents(50)
    whole = channel_statistics(latents)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 3 * latents[0].numel() * 8)
    assert [s.stop - s.start for s in module.latent_blocks(latents)][-2:] == [3, 2]
    streamed = channel_statistics(latents)
    torch.testing.assert_close(streamed.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(streamed.std, whole.std, rtol=1e-12, atol=0)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 29), seed=st.integers(0, 100))
def test_merged_parts_equal_the_whole_in_either_order(cut: int, seed: int):
    latents = _latents(30, seed)
    whole = channel_statistics(latents)
    first, second = channel_statistics(latents[:cut]), channel_statistics(latents[cut:])
    for merged in (first.merge(second), second.merge(first)):
        assert merged.count == whole.count
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-11, atol=1e-15)
        torch.testing.assert_close(merged.std, whole.std, rtol=1e-11, atol=0)


def test_a_large_offset_costs_no_digits():
    latents = _latents(40).double()
    shifted = channel_statistics(latents + 1e8).std
    torch.testing.assert_close(shifted, channel_statistics(latents).std, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_normalise_gives_z_scores_and_denormalise_undoes_it(dtype: torch.dtype):
    latents = _latents(20).to(dtype)
    statistics = channel_statistics(latents)
    scaled = normalise(latents, statistics)
    assert scaled.dtype == dtype
    tolerance = {torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    again = channel_statistics(scaled)
    assert float(again.mean.abs().max()) < tolerance
    assert float((again.std - 1).abs().max()) < tolerance
    back = denormalise(scaled, statistics).double()
    assert float((back - latents.double()).abs().max()) < 10 * tolerance


def test_dtype_matters_only_through_rounding_of_the_input():
    latents = _latents().bfloat16()
    assert torch.equal(channel_statistics(latents).std, channel_statistics(latents.double()).std)


def test_json_keeps_every_bit():
    statistics = channel_statistics(_latents())
    again = ChannelStatistics.from_json(json.loads(json.dumps(statistics.to_json())))
    assert again.count == statistics.count
    assert torch.equal(again.mean, statistics.mean)
    assert torch.equal(again.std, statistics.std)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_latents_are_refused_with_their_image(bad: float):
    latents = _latents()
    latents[4, 1, 0, 0] = bad
    with pytest.raises(MeasurementError, match=r"not finite in 1 images.*\[4\]"):
        channel_statistics(latents)


@pytest.mark.parametrize("level", [0.0, 0.1, 1e6 / 3])
def test_constant_channels_are_named(level: float):
    latents = _latents(50)
    latents[:, 1] = level
    statistics = channel_statistics(latents)
    assert statistics.constant_channels == [1]
    scores = normalise(latents, statistics)
    assert torch.equal(scores[:, 1], torch.zeros_like(scores[:, 1]))  # adds nothing to a distance
    others = channel_statistics(latents[:, [0, 2]])
    assert torch.equal(scores[:, [0, 2]], normalise(latents[:, [0, 2]], others))
    torch.testing.assert_close(denormalise(scores, statistics), latents)
    alone = latents[:, 1:2]
    with pytest.raises(MeasurementError, match="collapsed: all 1 channels are constant"):
        normalise(alone, channel_statistics(alone))


def test_float32_dust_is_constant_and_small_latents_are_not():
    latents = _latents(50).double()
    dust = (5 + 1e-7 * latents).float()
    assert channel_statistics(dust).constant_channels == [0, 1, 2]
    read = ChannelStatistics.from_json(channel_statistics(dust).to_json())
    assert read.constant_channels == [0, 1, 2]
    assert channel_statistics((1e-30 * latents).float()).constant_channels == []
    assert channel_statistics(5 + 1e-7 * latents).constant_channels == []  # float64 holds them


@pytest.mark.parametrize(
    "latents", [torch.zeros(2, 3, 4), torch.zeros(0, 3, 4, 4), torch.zeros(2, 3, 4, 4).long()]
)
def test_wrong_tensors_are_refused(latents: torch.Tensor):
    with pytest.raises(MeasurementError, match="non-empty floating"):
        channel_statistics(latents)


def test_statistics_of_another_space_are_refused():
    with pytest.raises(MeasurementError, match="different latent spaces"):
        normalise(_latents()[:, :2], channel_statistics(_latents()))
    with pytest.raises(MeasurementError, match="different latent spaces"):
        channel_statistics(_latents()).merge(channel_statistics(_latents()[:, :2]))
