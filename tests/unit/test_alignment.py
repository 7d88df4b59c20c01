"""Alignment cosine: closed forms, a plain re-statement, and what is refused."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusability.errors import MeasurementError
from diffusability.metrics.alignment import fit_alignment, measure_alignment
from diffusability.metrics.measurement import Measurement


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal float64 numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def aligned(latents: Tensor, features: Tensor, split: int = 100) -> Measurement:
    """Fit on the first images, measure on the others, in batches of 7."""
    pairs = [
        list(zip(latents[part].split(7), features[part].split(7), strict=True))
        for part in (slice(None, split), slice(split, None))
    ]
    return measure_alignment(pairs[1], fit_alignment(pairs[0]))


def test_features_of_unit_length_that_are_linear_in_the_latent_are_found() -> None:
    angle = normal(150, 3, 3)
    # (cos, sin) as latent, turned by a fixed angle as feature: linear, and of unit length
    latents = torch.stack([angle.cos(), angle.sin()], dim=1)
    features = torch.stack([(angle + 0.7).cos(), (angle + 0.7).sin()], dim=1)
    found = aligned(latents, 5 * features)  # the length of features does not matter
    assert found.metric == "reconstruction.alignment_cosine"
    assert found.value == pytest.approx(1.0, abs=1e-12)
    assert found.stderr == pytest.approx(0.0, abs=1e-12)
    assert found.n == 50
    assert found.options["constant_cosine"] < 0.9


def test_features_that_a_latent_says_nothing_of() -> None:
    # directions without a mean: no guess is better than chance
    found = aligned(normal(600, 4, 4, 4), normal(600, 8, 4, 4, seed=1), split=500)
    assert abs(found.value) < 4 * found.stderr
    # features around one direction: the guess without a latent is nearly all that there is
    direction = torch.zeros(8, dtype=torch.float64)
    direction[0] = 3.0
    around = normal(600, 8, 4, 4, seed=2) + direction[:, None, None]
    found = aligned(normal(600, 4, 4, 4), around, split=500)
    assert found.value > 0.6
    assert found.value == pytest.approx(found.options["constant_cosine"], abs=2e-3)


def test_against_a_plain_restatement() -> None:
    latents, features = normal(40, 3, 2, 2), normal(40, 5, 2, 2, seed=1)
    features[:, :3] += 2 * latents
    found = aligned(latents, features, split=25)
    x = latents.permute(0, 2, 3, 1).reshape(40, 4, 3).numpy()
    y = features.permute(0, 2, 3, 1).reshape(40, 4, 5).numpy()
    x = np.concatenate([x, np.ones((40, 4, 1))], axis=2)
    unit = y / np.linalg.norm(y, axis=2, keepdims=True)
    weight = np.linalg.lstsq(x[:25].reshape(-1, 4), unit[:25].reshape(-1, 5), rcond=None)[0]
    guess = x[25:] @ weight
    cosines = (guess * unit[25:]).sum(2) / np.linalg.norm(guess, axis=2)
    by_image = cosines.mean(1)
    assert found.value == pytest.approx(by_image.mean(), rel=1e-9)
    assert found.stderr == pytest.approx(by_image.std(ddof=1) / 15**0.5, rel=1e-9)
    assert found.options["fitted_images"] == 25


def test_a_constant_channel_changes_nothing() -> None:
    latents, features = normal(40, 3, 2, 2), normal(40, 5, 2, 2, seed=1)
    with_constant = torch.cat([latents, torch.zeros(40, 1, 2, 2, dtype=torch.float64)], dim=1)
    first, second = (aligned(z, features, split=25).value for z in (latents, with_constant))
    assert first == pytest.approx(second, rel=1e-9)


def test_what_cannot_be_measured_is_refused() -> None:
    latents, features = normal(4, 3, 2, 2), normal(4, 5, 2, 2)
    with pytest.raises(MeasurementError, match="one grid"):
        fit_alignment([(latents, features[:, :, :1])])
    with pytest.raises(MeasurementError, match="no image"):
        fit_alignment([])
    with pytest.raises(MeasurementError, match="not finite"):
        fit_alignment([(latents / 0, features)])
    fit = fit_alignment([(latents, features)])
    with pytest.raises(MeasurementError, match="two images"):
        measure_alignment([(latents[:1], features[:1])], fit)
