"""What every latent metric does with latents, labels and masks that it cannot measure."""

import pytest
import torch

from diffusability.errors import MeasurementError
from tests.unit.latent_metric_cases import CASES, latent_set


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("perspective", CASES)
def test_non_finite_latents_are_refused(perspective: str, bad: float):
    latents, labels, masks = latent_set("cpu")
    latents[7, 1, 2, 3] = bad
    with pytest.raises(MeasurementError, match="not.finite"):
        CASES[perspective](latents, labels, masks)


@pytest.mark.parametrize("perspective", CASES)
@pytest.mark.parametrize("dead", ["constant", "dust", "pattern"])
def test_a_dead_channel_is_named_and_left_out_where_it_can_be(perspective: str, dead: str):
    latents, labels, masks = latent_set("cpu")
    if dead == "pattern" and perspective in ("continuity", "equivariance"):
        pytest.skip("they decode and encode all channels")
    whole = latents.clone()
    whole[:, 3] = {
        "constant": torch.tensor(5.0),
        "dust": 5 + 1e-7 * torch.randn(90, 6, 6, generator=torch.Generator().manual_seed(1)),
        "pattern": torch.arange(36.0).view(6, 6),  # varies over positions, not over images
    }[dead]
    fate = "kept" if perspective in ("continuity", "equivariance") else "left out"
    flag = f"1 dead channel of 4 {fate}: [3]"
    if perspective == "equivariance":  # its function gets z-scores, of which a dead one is zero
        whole[:, 3] = 0.0
    found = CASES[perspective](whole, labels, masks)
    assert all(flag in m.flags for m in found)
    if perspective == "continuity":  # decodes all channels
        return
    expected = CASES[perspective](latents[:, :3], labels, masks)
    for one, other in zip(found, expected, strict=True):
        assert (one.metric, one.n) == (other.metric, other.n)
        assert one.value == pytest.approx(other.value, rel=1e-6, abs=1e-9), one.metric
        assert (one.stderr is None) == (other.stderr is None), one.metric
        if other.stderr is not None:
            assert one.stderr == pytest.approx(other.stderr, rel=1e-6, abs=1e-9), one.metric


@pytest.mark.parametrize("perspective", CASES)
@pytest.mark.parametrize("scale", [0.0, 1e-7])
def test_a_collapsed_tokenizer_is_refused_by_every_metric(perspective: str, scale: float):
    latents, labels, masks = latent_set("cpu")
    latents = 5 + latents[:1].expand(90, -1, -1, -1) + scale * latents  # equal, or float32 dust
    with pytest.raises(MeasurementError, match="have collapsed: all 90 images have the same"):
        CASES[perspective](latents, labels, masks)


@pytest.mark.parametrize("perspective", CASES)
def test_the_scale_of_the_latents_changes_nothing_that_is_scale_free(perspective: str):
    latents, labels, masks = latent_set("cpu")
    scale_free = {"semantics", "spatial", "smoothness", "equivariance", "fisher", "uniformity"}
    if perspective not in scale_free:
        pytest.skip("velocity without z-scores is linear in the scale; continuity decodes")
    found = CASES[perspective](latents * 2.0**-100, labels, masks)
    for one, other in zip(found, CASES[perspective](latents, labels, masks), strict=True):
        if one.metric.endswith("_raw"):  # deviations from pixels that the name says see the scale
            continue
        assert one.value == pytest.approx(other.value, rel=1e-6, abs=1e-9), one.metric


def test_too_few_images_for_the_neighbours_are_refused_with_their_cause():
    latents, labels, masks = latent_set("cpu")
    masks[1:] = 0
    with pytest.raises(MeasurementError, match=r"1 of 90 can be used \(89 have no foreground\)"):
        CASES["semantics"](latents, labels, masks)


def test_redundant_channels_are_flagged_as_rank_deficient():
    latents, labels, masks = latent_set("cpu")
    latents[:, 3] = 2 * latents[:, 1]
    flags = {m.metric: m.flags for m in CASES["smoothness"](latents, labels, masks)}
    expected = ("rank-deficient: 1 of 4 channels follow from the others",)
    assert flags["smoothness.effective_rank"] == expected
    assert flags["smoothness.sec25"] == ()
    assert any(
        "rank-deficient" in f for m in CASES["velocity"](latents, labels, masks) for f in m.flags
    )


@pytest.mark.parametrize("perspective", ["velocity", "semantics", "fisher"])
def test_labels_out_of_range_or_of_other_images_are_refused(perspective: str):
    latents, labels, masks = latent_set("cpu")
    with pytest.raises(MeasurementError, match=r"out of range: negative at images \[0, 2"):
        CASES[perspective](latents, labels - 1, masks)
    with pytest.raises(MeasurementError, match="one per image"):
        CASES[perspective](latents, labels[1:], masks)
    with pytest.raises(MeasurementError, match="one per image"):
        CASES[perspective](latents, labels.float(), masks)


@pytest.mark.parametrize("perspective", ["semantics", "spatial"])
def test_masks_of_another_grid_or_without_foreground_are_refused(perspective: str):
    latents, labels, masks = latent_set("cpu")
    with pytest.raises(MeasurementError, match="pool them to the grid"):
        CASES[perspective](latents, labels, masks[:, :5])
    with pytest.raises(MeasurementError, match="any foreground"):
        CASES[perspective](latents, labels, 0 * masks)
    with pytest.raises(MeasurementError, match=r"in \[0, 1\]"):
        CASES[perspective](latents, labels, masks + torch.nan)
