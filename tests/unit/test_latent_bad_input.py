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


# continuity and equivariance take latents as they are decoded and encoded: nothing is z-scored
@pytest.mark.parametrize("perspective", sorted(set(CASES) - {"continuity", "equivariance"}))
def test_constant_channels_are_refused_by_their_number(perspective: str):
    latents, labels, masks = latent_set("cpu")
    latents[:, 2] = 5.0
    with pytest.raises(MeasurementError, match=r"Channels \[2\] of 4 are constant"):
        CASES[perspective](latents, labels, masks)


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
