"""Half-sampling: the algebra, and the errors and corrections of VIV that rest on it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusability.metrics import velocity as velocity_module
from diffusability.metrics.class_velocity import (
    channel_sensitivity,
    class_spectra,
    dct_diagonal_variance,
    dct_shares,
    velocity_values,
)
from diffusability.metrics.kronecker import flip_flop
from diffusability.metrics.velocity import measure_velocity, quick_halvings
from diffusability.statistics import Halving, corrected_mean, draw_halves, error_of_mean
from tests.unit.test_velocity import (
    C,
    H,
    S,
    W,
    _covariance,
    _exact_samples,
    _found,
    _generator,
    _set,
    _true_viv,
)


def test_halves_cut_every_class_evenly_and_reproducibly():
    groups = [torch.arange(7), torch.arange(10, 20)]
    halves = draw_halves(groups, 5, _generator())
    assert halves.owners.tolist() == [0, 0, 0, 1, 1, 1]
    assert halves.sizes.tolist() == [[3, 4]] * 3 + [[5, 5]] * 3
    for pair, owner in enumerate(halves.owners.tolist()):
        both = torch.cat(halves.groups[2 * pair : 2 * pair + 2])
        assert sorted(both.tolist()) == groups[owner].tolist()
    few = draw_halves([torch.arange(4)] * 9, 3, _generator())
    assert len(set(few.owners.tolist())) == 3


def test_the_error_of_a_mean_of_means_is_the_textbook_one():
    numbers = torch.randn(3, 11, generator=_generator(), dtype=torch.float64)
    halves = draw_halves(list(torch.arange(33).reshape(3, 11)), 30_000, _generator())
    means = torch.stack([numbers.flatten()[group].mean() for group in halves.groups])
    values = means.reshape(-1, 2, 1)
    expected = (numbers.var(dim=1, correction=1) / 11).mean() / 3
    found = error_of_mean(Halving(halves, values, values), 0, 3)
    assert found == pytest.approx(float(expected) ** 0.5, rel=0.01)


def test_a_bias_linear_in_one_over_n_is_removed_exactly():
    halves = draw_halves([torch.arange(7), torch.arange(12)], 4, _generator())
    truth, bias = torch.tensor([2.0, 5.0]).double(), torch.tensor([3.0, -4.0]).double()
    whole = truth + bias / torch.tensor([7, 12])
    values = truth[halves.owners, None] + bias[halves.owners, None] / halves.sizes
    halving = Halving(halves, values[:, :, None], values[:, :, None])
    assert corrected_mean(whole, halving, 0)[0] == pytest.approx(3.5, rel=1e-12)


def test_sensitivities_are_derivatives_in_the_log_scale_of_channels():
    samples = _exact_samples(_covariance(C * S, 4)).repeat(2, 1, 1, 1)
    counts = torch.tensor([C * S, C * S])

    def values(scale: Tensor) -> Tensor:
        moved = samples * scale[:, None]
        spectra = class_spectra(moved, counts, flip_flop(moved, counts, tolerance=1e-14))
        return velocity_values(spectra, dct_diagonal_variance(moved, counts, (H, W)))

    fit = flip_flop(samples, counts, tolerance=1e-14)
    spectra = class_spectra(samples, counts, fit)
    shares = dct_shares(samples, counts, (H, W))
    found = channel_sensitivity(samples, fit, spectra, shares)
    torch.testing.assert_close(
        shares.sum(dim=1), dct_diagonal_variance(samples, counts, (H, W)), rtol=1e-10, atol=0
    )
    for channel in range(C):
        step = torch.zeros(C, dtype=torch.float64)
        step[channel] = 1e-5
        difference = (values(step.exp()) - values((-step).exp())) / 2e-5
        torch.testing.assert_close(found[:, :, channel], difference, rtol=1e-6, atol=1e-8)


def _coverage(repetitions: int, normalise: bool) -> dict[str, float]:
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(repetitions):
        latents, labels = _set(classes=4, each=40, seed=seed)
        result = _found(
            latents, labels, normalise=normalise, halvings=32, generator=_generator(seed)
        )
        for name, m in result.items():
            if name not in ("curve_t100", "viv_marginal"):  # always 1; measured on its own
                found.setdefault(name, []).append((m.value, m.stderr))
    table = {name: np.array(pairs) for name, pairs in found.items()}
    return {
        name: float(np.mean(np.abs(v[:, 0] - v[:, 0].mean()) < 1.96 * v[:, 1]))
        for name, v in table.items()
    }


def _assert_covered(shares: dict[str, float]) -> None:
    """Near t = 1 the curve hangs on the smallest eigenvalues, whose spread a half overstates."""
    late = ("curve_t80", "curve_t90")
    assert all(share >= 0.90 for share in shares.values())
    assert all(share <= 0.98 for name, share in shares.items() if name not in late)


@pytest.mark.release
@pytest.mark.parametrize("normalise", [True, False])
def test_standard_errors_cover(normalise: bool):
    _assert_covered(_coverage(400, normalise))


@pytest.mark.slow
@pytest.mark.parametrize("normalise", [True, False])
def test_standard_errors_cover_over_many_repetitions(normalise: bool):
    _assert_covered(_coverage(1500, normalise))


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "each"), [(4, 40), (4, 80), (20, 40)])
def test_the_corrected_value_covers_the_truth(classes: int, each: int):
    """Without the correction coverage falls to 2 % at 20 classes of 40: bias, not noise."""
    truth = _true_viv(torch.kron(_covariance(C, 1), _covariance(S, 2)))
    hits = []
    for seed in range(300):
        latents, labels = _set(classes, each, seed)
        found = _found(latents, labels, normalise=False, halvings=32, generator=_generator(seed))
        corrected = found["viv_corrected"]
        hits.append(abs(corrected.value - truth) < 1.96 * corrected.stderr)
    assert 0.90 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize(
    ("images", "classes", "rows", "columns", "expected"),
    [
        (80, 4, 3, 16, 128),  # nothing to save
        (5000, 10, 32, 256, 42),
        (5000, 1, 32, 256, 8),  # no fewer than errors need
        (300, 1, 768, 196, 8),
    ],
)
def test_quick_errors_come_from_as_many_halvings_as_there_is_time_for(
    images: int, classes: int, rows: int, columns: int, expected: int
) -> None:
    assert quick_halvings(128, images, classes, rows, columns) == expected


def test_quick_errors_leave_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(velocity_module, "_QUICK_OPERATIONS", 1.0)
    generator = torch.Generator().manual_seed(3)
    latents, labels = torch.randn(120, 2, 3, 3, generator=generator), torch.arange(120) % 3
    whole, quick = (
        {
            m.metric: m
            for m in measure_velocity(
                latents, labels, generator=torch.Generator().manual_seed(0), quick=chosen
            )
        }
        for chosen in (False, True)
    )
    assert whole["velocity.viv"].options["halvings"] == 129
    assert quick["velocity.viv"].options["halvings"] == 9  # three for each of three classes
    assert quick["velocity.viv"].value == whole["velocity.viv"].value
    ratio = quick["velocity.viv"].stderr / whole["velocity.viv"].stderr
    assert 1 / 3 < ratio < 3
