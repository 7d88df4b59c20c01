"""Spatial structure: closed forms, loops, properties, errors, coverage."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks import latent_loops as loops
from diffusability.errors import MeasurementError
from diffusability.latents import channel_statistics as blocks
from diffusability.metrics.spatial import (
    GridScales,
    balanced_images,
    cosine_decay_slope,
    grid_distances,
    grid_scales,
    local_distant_similarity,
    measure_spatial,
    root_mean_square_contrast,
    semantic_region_self_similarity,
    token_cosines,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ar_factor(size: int, rho: float) -> Tensor:
    index = torch.arange(size, dtype=torch.float64)
    return torch.linalg.cholesky(rho ** (index[:, None] - index).abs())


def _latents(count: int = 12, height: int = 5, width: int = 4, seed: int = 0) -> Tensor:
    noise = torch.randn(count, 3, height, width, generator=_generator(seed))
    return (_ar_factor(height, 0.6).float() @ noise @ _ar_factor(width, 0.6).float().T) + 0.3


def _masks(count: int = 12, height: int = 5, width: int = 4, seed: int = 1) -> Tensor:
    return (torch.rand(count, height, width, generator=_generator(seed)) - 0.5).clamp(min=0)


def _values(latents: Tensor, masks: Tensor | None = None) -> dict[str, float]:
    return {m.metric.removeprefix("spatial."): m.value for m in measure_spatial(latents, masks)[0]}


@pytest.mark.parametrize(
    ("grid", "scales"),
    [
        ((16, 16), GridScales(1, 6, 8)),
        ((32, 32), GridScales(1, 12, 16)),
        ((8, 8), GridScales(1, 3, 4)),
        ((4, 4), GridScales(1, 2, 2)),
        ((16, 8), GridScales(1, 3, 4)),
        ((2, 2), GridScales(1, 2, 2)),
    ],
)
def test_radii_scale_with_the_grid(grid: tuple[int, int], scales: GridScales):
    assert grid_scales(*grid) == scales


def test_a_grid_without_far_pairs_is_refused():
    with pytest.raises(MeasurementError, match="1x2 grid"):
        grid_scales(1, 2)


def test_distances_are_manhattan_row_by_row():
    distances = grid_distances(3, 4)
    assert int(distances[0, 11]) == 2 + 3
    assert int(distances[4, 1]) == 1 + 1
    assert torch.equal(distances, distances.T)


def test_a_linear_decay_gives_its_slope_and_its_difference():
    scales, distances = grid_scales(16, 16), grid_distances(16, 16)
    cosines = (1 - 0.03 * distances.double())[None]
    assert float(cosine_decay_slope(cosines, distances, scales)) == pytest.approx(0.03, rel=1e-12)
    far = distances[distances >= 6].double().mean()
    lds = float(local_distant_similarity(cosines, distances, scales))
    assert lds == pytest.approx(0.03 * float(far - 1), rel=1e-12)


def test_two_regions_of_opposite_tokens_have_srss_two():
    foreground = torch.zeros(16, 16, dtype=torch.bool)
    foreground[:8] = True
    sign = foreground.double() * 2 - 1
    cosines = token_cosines((sign * torch.ones(5, 1, 1))[None])
    distances, scales = grid_distances(16, 16), grid_scales(16, 16)
    inside = foreground.flatten()[None]
    srss = semantic_region_self_similarity(cosines, distances, scales, inside, ~inside)
    assert float(srss) == pytest.approx(2, rel=1e-12)
    whole = inside | True
    one_region = semantic_region_self_similarity(cosines, distances, scales, whole, ~whole)
    assert bool(one_region.isnan())


def test_srss_uses_neighbours_inside_and_strangers_far_outside_only():
    # 1x4 strip, far = 2: token 0 and 1 foreground, 2 and 3 background
    cosines = torch.tensor(
        [[1, 0.9, 0.5, 0.1], [0.9, 1, 0.7, 0.3], [0.5, 0.7, 1, 0], [0.1, 0.3, 0, 1]]
    )
    inside = torch.tensor([[True, True, False, False]])
    srss = semantic_region_self_similarity(
        cosines[None], grid_distances(1, 4), GridScales(1, 2, 2), inside, ~inside
    )
    assert float(srss) == pytest.approx((0.9 - 0.3 + 0.9 - 0.3) / 2, rel=1e-6)


def test_rmsc_of_equal_and_of_opposite_tokens():
    equal = torch.ones(1, 3, 4, 4, dtype=torch.float64)
    opposite = equal.clone()
    opposite[..., :2] *= -1
    assert float(root_mean_square_contrast(token_cosines(equal))) == pytest.approx(0, abs=1e-7)
    assert float(root_mean_square_contrast(token_cosines(opposite))) == pytest.approx(1, rel=1e-12)


def test_autoregressive_fields_reach_their_population_values():
    """A separable AR(1) field correlates as rho^distance; with many channels so do its cosines."""
    rho, factor = 0.8, _ar_factor(16, 0.8)
    noise = torch.randn(8, 4096, 16, 16, generator=_generator(), dtype=torch.float64)
    cosines = token_cosines(factor @ noise @ factor.T)
    distances, scales = grid_distances(16, 16), grid_scales(16, 16)
    exact = (rho ** distances.double())[None]
    for statistic in (local_distant_similarity, cosine_decay_slope):
        expected = float(statistic(exact, distances, scales))
        found = float(statistic(cosines, distances, scales).mean())
        assert found == pytest.approx(expected, rel=0.02)
    steps = np.arange(1, 9)
    slope = -np.polyfit(steps, rho**steps, 1)[0]
    assert float(cosine_decay_slope(exact, distances, scales)) == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize("grid", [(5, 4), (6, 6)])
def test_agrees_with_the_loops(grid: tuple[int, int]):
    latents, masks = _latents(8, *grid), _masks(8, *grid)
    found, scales = _values(latents, masks), grid_scales(*grid)
    raw = latents.double().numpy()
    for suffix, images in (("", loops.z_scores(latents.numpy())), ("_raw", raw)):
        expected = {
            "lds": np.mean([loops.lds(image, scales.far) for image in images]),
            "cds": np.mean([loops.cds(image, scales.decay) for image in images]),
            "rmsc": np.mean([loops.rmsc(image) for image in images]),
            "srss": np.nanmean(
                [
                    loops.srss(image, mask > 0, scales.far)
                    for image, mask in zip(images, masks.numpy(), strict=True)
                    if 0.25 <= np.mean(mask > 0) <= 0.75
                ]
            ),
        }
        for name, value in expected.items():
            assert found[name + suffix] == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_a_token_is_foreground_if_any_pixel_is():
    latents, masks = _latents(), _masks()
    assert _values(latents, masks) == _values(latents, (masks > 0).float())


def test_only_balanced_images_count():
    share = torch.tensor([3, 4, 8, 12, 13])
    foreground = torch.arange(16) < share[:, None]
    assert balanced_images(foreground, ~foreground).tolist() == [False, True, True, True, False]


def test_undecided_tokens_are_in_neither_region():
    """An object, a rim that looks like it, and a background at right angles."""
    regions = torch.zeros(16, 16, dtype=torch.int64)
    regions[:, :6], regions[:, 6:10] = 2, 1  # object, rim, background
    tokens = torch.eye(3, dtype=torch.float64)[regions]  # (16, 16, 3)
    tokens[regions == 1] = tokens[regions == 2][0]  # the rim has the object's direction
    latents = tokens.permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    latents[1] += 0.01 * torch.randn(3, 16, 16, generator=_generator(), dtype=torch.float64)
    inside, rim = (regions == 2).double().repeat(2, 1, 1), (regions == 1).double().repeat(2, 1, 1)
    found = {m.metric: m.value for m in measure_spatial(latents, inside, rim)[0]}
    assert found["spatial.srss_raw"] == pytest.approx(1, abs=0.02)
    as_background = {m.metric: m.value for m in measure_spatial(latents, inside)[0]}
    assert as_background["spatial.srss_raw"] < 0.8
    assert found["spatial.lds"] == as_background["spatial.lds"]
    nothing = {m.metric: m.value for m in measure_spatial(latents, inside, 0 * rim)[0]}
    assert nothing == as_background
    (_, reason), _ = measure_spatial(latents, inside, 1 - inside)[1]
    assert "2 too little background" in reason


def test_permuted_positions_destroy_the_structure():
    latents = _latents(200, 6, 6)
    order = torch.randperm(36, generator=_generator(3))
    permuted = latents.flatten(2)[:, :, order].unflatten(2, (6, 6))
    before, after = _values(latents), _values(permuted)
    assert before["lds"] > 0.3
    assert abs(after["lds"]) < 0.1
    assert before["rmsc"] == pytest.approx(after["rmsc"], rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), images=st.integers(1, 5))
def test_neither_order_nor_batch_nor_dtype_matters(seed: int, images: int):
    latents, masks = _latents(seed=seed).bfloat16(), _masks(seed=seed + 1)
    expected = _values(latents, masks)
    order = torch.randperm(len(latents), generator=_generator(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_BLOCK_BYTES", images * 4 * 8 * 20 * 20)
        found = _values(latents[order].double(), masks[order])
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_names_directions_and_options():
    found = {m.metric: m for m in measure_spatial(_latents(), _masks())[0]}
    assert len(found) == 8
    assert [found[f"spatial.{n}"].higher_is_better for n in ("lds", "cds", "srss", "rmsc")] == [
        True,
        True,
        True,
        None,
    ]
    options = found["spatial.srss"].options
    assert (options["near"], options["far"], options["decay"]) == (1, 2, 2)
    assert options["normalise"] is True
    assert found["spatial.srss_raw"].options["normalise"] is False
    assert {m.metric for m in measure_spatial(_latents(), None)[0]} == {
        name for name in found if "srss" not in name
    }


def test_bad_masks_are_refused():
    latents, masks = _latents(), _masks()
    with pytest.raises(MeasurementError, match="pool them to the grid"):
        measure_spatial(latents, masks[:, :4])
    with pytest.raises(MeasurementError, match=r"in \[0, 1\]"):
        measure_spatial(latents, masks * 255)
    with pytest.raises(MeasurementError, match="any foreground"):
        measure_spatial(latents, torch.zeros_like(masks))


@pytest.mark.parametrize("usable", [0, 1])
def test_masks_that_say_too_little_leave_srss_out_alone(usable: int) -> None:
    latents, masks = _latents(), torch.ones(12, 5, 4)
    masks[0] = 0
    masks[1, :3] = 1 - usable
    found, without = measure_spatial(latents, masks)
    assert [m.to_json() for m in found] == [m.to_json() for m in measure_spatial(latents, None)[0]]
    assert [name for name, _ in without] == ["spatial.srss", "spatial.srss_raw"]
    counts = f"{usable} of 12 have such shares: 1 have too little foreground, {11 - usable} too"
    assert all(counts in reason for _, reason in without)


def test_non_finite_channels_are_refused():
    latents = _latents()
    latents[3, 2, 0, 0] = torch.nan
    with pytest.raises(MeasurementError, match="not finite"):
        measure_spatial(latents, None)


def _coverage(repetitions: int) -> dict[str, float]:
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(repetitions):
        for m in measure_spatial(_latents(60, seed=seed), _masks(60, seed=seed + 10_000))[0]:
            found.setdefault(m.metric, []).append((m.value, m.stderr))
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
