"""Velocity irreducible variance: closed forms, loops, properties, errors, coverage."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from benchmarks import latent_loops as loops
from diffusability.errors import MeasurementError
from diffusability.metrics import kronecker, velocity_fits
from diffusability.metrics.class_velocity import (
    SCALARS,
    ClassSpectra,
    class_spectra,
    dct_diagonal_variance,
    irreducible_variance_at,
    kronecker_eigenvalues,
    velocity_values,
)
from diffusability.metrics.cosine_transform import dct_matrix
from diffusability.metrics.kronecker import flip_flop
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.smoothness import measure_smoothness
from diffusability.metrics.spatial import measure_spatial
from diffusability.metrics.velocity import measure_velocity
from diffusability.study.preflight.class_sizes import minimum_samples
from tests.oracles.closed_forms import irreducible_variance

C, H, W = 3, 2, 4
S = H * W


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _covariance(size: int, seed: int) -> Tensor:
    """A dense covariance: no axis is special, so a transposed or unrotated formula shows."""
    root = torch.randn(size, 2 * size, generator=_generator(seed), dtype=torch.float64)
    return root @ root.T / (2 * size)


def _exact_samples(covariance: Tensor) -> Tensor:
    """d pseudo-samples (1, d, C, S) whose second moment is the (C S, C S) covariance exactly."""
    d = covariance.shape[0]
    return (d**0.5 * torch.linalg.cholesky(covariance)).T.reshape(1, d, C, S)


def _population(covariance: Tensor) -> dict[str, float]:
    samples = _exact_samples(covariance)
    counts = torch.tensor([samples.shape[1]])
    fit = flip_flop(samples, counts, tolerance=1e-13)
    spectra = class_spectra(samples, counts, fit)
    values = velocity_values(spectra, dct_diagonal_variance(samples, counts, (H, W)))
    return dict(zip(SCALARS, values[0].tolist(), strict=False))


def _true_viv(covariance: Tensor) -> float:
    return float(irreducible_variance(torch.linalg.eigvalsh(covariance)))


def _set(classes: int = 3, each: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(classes * each) % classes
    rows = torch.linalg.cholesky(_covariance(C, 1))
    columns = torch.linalg.cholesky(_covariance(S, 2))
    means = torch.randn(classes, C, 1, generator=_generator(99), dtype=torch.float64)
    noise = torch.randn(len(labels), C, S, generator=_generator(seed), dtype=torch.float64)
    return (means[labels] + rows @ noise @ columns.T).unflatten(2, (H, W)), labels


def _found(latents: Tensor, labels: Tensor, **options: object) -> dict[str, Measurement]:
    options = {"generator": _generator(5), "halvings": 8, "samples": 2} | options
    return {
        m.metric.removeprefix("velocity."): m for m in measure_velocity(latents, labels, **options)
    }


# Eq. 4 to 6


@pytest.mark.parametrize("eigenvalue", [1e-4, 0.1, 1.0, 5.0, 100.0])
def test_the_curve_integrates_to_the_closed_form(eigenvalue: float):
    lam = torch.tensor([eigenvalue], dtype=torch.float64)
    peak = 1 / (1 + eigenvalue)
    integral, _ = quad(
        lambda t: float(irreducible_variance_at(lam, torch.tensor([t], dtype=torch.float64))),
        0,
        1,
        points=[peak, max(0.0, peak - 3 * eigenvalue**0.5)],
        epsabs=1e-12,
        limit=500,
    )
    assert integral == pytest.approx(math.pi / 2 * eigenvalue**0.5, rel=1e-8)
    assert float(irreducible_variance(lam)) == pytest.approx(integral, rel=1e-8)
    top = irreducible_variance_at(lam, torch.tensor([peak], dtype=torch.float64))
    assert float(top) == pytest.approx(1 + eigenvalue, rel=1e-12)


def test_the_curve_is_the_mean_eigenvalue_at_noise_and_one_at_data():
    lam = torch.tensor([0.2, 3.0, 0.0], dtype=torch.float64)
    ends = irreducible_variance_at(lam, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([3.2 / 3, 1.0])


def test_ambiguity_and_spread_of_the_mean_velocity_add_up_to_the_variance_of_velocity():
    """tr Var v = I(t) + tr Var v*, with v* linear in x_t for a Gaussian."""
    lam, t = torch.tensor([0.3, 2.0], dtype=torch.float64), 0.35
    spread = (t * lam - (1 - t)).square() / ((1 - t) ** 2 + t**2 * lam)
    ambiguity = irreducible_variance_at(lam, torch.tensor([t], dtype=torch.float64))
    assert float(ambiguity + spread.mean()) == pytest.approx(float((1 + lam).mean()), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    a=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5),
    b=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5),
    scale=st.floats(0.1, 10),
)
def test_equation_six_is_an_identity(a: list[float], b: list[float], scale: float):
    rows, columns = (torch.tensor([v], dtype=torch.float64) for v in (a, b))
    tau = scale * rows.mean(dim=1) * columns.mean(dim=1)
    values = velocity_values(ClassSpectra(rows, columns, tau), torch.zeros(1, dtype=torch.float64))
    found = dict(zip(SCALARS, values[0].tolist(), strict=False))
    lam = scale * kronecker_eigenvalues(rows, columns)[0]
    assert found["viv"] == pytest.approx(float(irreducible_variance(lam)), rel=1e-12)
    assert found["anisotropy"] == pytest.approx(
        float(lam.sqrt().var(correction=0)), rel=1e-9, abs=1e-12 * float(tau)
    )
    assert found["viv"] == pytest.approx(
        math.pi / 2 * (found["tau"] - found["anisotropy"]) ** 0.5, rel=1e-9
    )
    factors = found["spatial_factor"] * found["channel_factor"]
    assert found["viv"] == pytest.approx(math.pi / 2 * float(tau) ** 0.5 * factors, rel=1e-12)
    assert found["separability"] == pytest.approx(1 / scale, rel=1e-12)


# estimators fed with exact second moments


def test_isotropic_latents_have_half_pi():
    found = _population(torch.eye(C * S, dtype=torch.float64))
    for name in ("viv", "viv_mle", "viv_dct"):
        assert found[name] == pytest.approx(math.pi / 2, rel=1e-10)


def test_a_separable_covariance_is_recovered_exactly():
    covariance = torch.kron(_covariance(C, 1), _covariance(S, 2))
    found = _population(covariance)
    assert found["viv"] == pytest.approx(_true_viv(covariance), rel=1e-9)
    assert found["viv_mle"] == pytest.approx(_true_viv(covariance), rel=1e-9)
    assert found["separability"] == pytest.approx(1, rel=1e-9)
    assert found["tau"] == pytest.approx(float(covariance.trace()) / (C * S), rel=1e-12)
    assert found["viv_dct"] > 1.01 * found["viv"]  # its spatial factor is no DCT-diagonal one


def test_a_stationary_covariance_is_recovered_by_the_dct_estimator_alone():
    basis = torch.kron(dct_matrix(H), dct_matrix(W))  # (S, S), rows are frequencies
    transform = torch.kron(torch.eye(C, dtype=torch.float64), basis)
    blocks = torch.stack([_covariance(C, 10 + f) * 0.3**f for f in range(S)])  # (S, C, C)
    spectral = torch.einsum("fab,fg->afbg", blocks, torch.eye(S, dtype=torch.float64))
    covariance = transform.T @ spectral.reshape(C * S, C * S) @ transform
    found, truth = _population(covariance), _true_viv(covariance)
    assert found["viv_dct"] == pytest.approx(truth, rel=1e-9)
    assert abs(found["separability"] - 1) > 0.01
    assert found["viv_mle"] == pytest.approx(found["viv"] * found["separability"] ** 0.5, rel=1e-9)


def test_a_non_separable_covariance_splits_the_estimators():
    """One smooth channel, two white ones: the maximum-likelihood fit does not keep the trace."""
    smooth = 0.99 ** (torch.arange(S)[:, None] - torch.arange(S)).abs().double()
    blocks = [smooth, torch.eye(S, dtype=torch.float64), torch.eye(S, dtype=torch.float64)]
    covariance = torch.block_diag(*blocks)
    found, truth = _population(covariance), _true_viv(covariance)
    assert found["separability"] > 1.2
    assert found["viv"] < truth < found["viv_mle"]


def test_the_fit_is_a_stationary_point_whatever_the_truth():
    samples = _exact_samples(_covariance(C * S, 4))
    fit = flip_flop(samples, torch.tensor([C * S]), tolerance=1e-13)
    A, B, X = fit.rows[0], fit.columns[0], samples[0]
    expected = sum(x @ torch.linalg.inv(B) @ x.T for x in X) / (len(X) * S)
    torch.testing.assert_close(A, expected, rtol=1e-9, atol=1e-12)
    expected = sum(x.T @ torch.linalg.inv(A) @ x for x in X) / (len(X) * C)
    torch.testing.assert_close(B, expected, rtol=1e-9, atol=1e-12)
    assert float(B.trace()) == pytest.approx(S, rel=1e-12)


def test_extrapolation_finds_the_same_fit_in_fewer_steps(monkeypatch: pytest.MonkeyPatch):
    """Channels of different smoothness in classes of few samples, where plain steps are slow."""
    noise = torch.randn(2, 9, C, S, generator=_generator(), dtype=torch.float64)
    roots = [torch.linalg.cholesky(_covariance(S, seed)) for seed in range(C)]
    samples = torch.stack([noise[:, :, c] @ roots[c].T for c in range(C)], dim=2)
    samples = samples - samples.mean(dim=1, keepdim=True)
    counts = torch.tensor([9, 9])
    found = flip_flop(samples, counts, max_iterations=400)
    monkeypatch.setattr(kronecker._Extrapolation, "beyond", lambda self, point, image, moved: image)
    plain = flip_flop(samples, counts, max_iterations=400)
    assert found.converged.all()
    assert (found.iterations < 0.75 * plain.iterations).all(), (found.iterations, plain.iterations)
    torch.testing.assert_close(found.columns, plain.columns, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.rows, plain.rows, rtol=1e-4, atol=1e-5)
    again = flip_flop(samples, counts, max_iterations=400, plain=True)
    assert torch.equal(again.iterations, plain.iterations)


def test_samples_in_pieces_give_the_same_fit(monkeypatch: pytest.MonkeyPatch):
    samples, counts = (
        torch.randn(2, 30, C, S, generator=_generator()).double(),
        torch.tensor([30] * 2),
    )
    whole = flip_flop(samples, counts)
    monkeypatch.setattr(kronecker, "_PIECE_BYTES", 7 * 2 * C * S * 8)
    pieces = flip_flop(samples, counts)
    torch.testing.assert_close(pieces.columns, whole.columns, rtol=1e-11, atol=1e-12)


# samples


def test_agrees_with_the_loops():
    latents, labels = _set(classes=3, each=200)
    found = _found(latents, labels)
    scaled = loops.z_scores(latents.numpy())
    expected = [loops.viv(scaled[labels.numpy() == k]) for k in range(3)]
    for name in ("viv", "viv_mle", "viv_dct"):
        assert found[name].value == pytest.approx(np.mean([e[name] for e in expected]), rel=1e-6)


def test_matrix_normal_samples_have_the_viv_of_their_covariance():
    latents, labels = _set(classes=40, each=40)
    truth = _true_viv(torch.kron(_covariance(C, 1), _covariance(S, 2)))
    found = _found(latents, labels, normalise=False, halvings=40)
    for name in ("viv", "viv_mle"):
        corrected = found[f"{name}_corrected"]
        assert corrected.value == pytest.approx(truth, abs=4 * corrected.stderr)
        assert corrected.stderr < 0.01 * truth
        assert found[name].value < truth - 4 * found[name].stderr  # biased low without it
    means = [m for name, m in found.items() if name.startswith("curve")]
    trapezoid = np.trapezoid([m.value for m in means], [m.options["t"] for m in means])
    assert trapezoid == pytest.approx(found["viv"].value, rel=0.02)


def test_viv_is_linear_in_scale_and_free_of_it_once_normalised():
    latents, labels = _set()
    before, after = (_found(x, labels, normalise=False) for x in (latents, 3 * latents + 1))
    for name in ("viv", "viv_mle", "viv_dct"):
        assert after[name].value == pytest.approx(3 * before[name].value, rel=1e-6)
    assert after["tau"].value == pytest.approx(9 * before["tau"].value, rel=1e-9)
    moved = latents * torch.tensor([0.1, 3, 50.0])[:, None, None] + 7
    before, after = _found(latents, labels), _found(moved, labels)
    for name in before:
        assert after[name].value == pytest.approx(before[name].value, rel=1e-6)
    assert before["viv"].options["normalise"] is True


def test_the_order_of_positions_leaves_viv_and_changes_the_spatial_metrics():
    index = torch.arange(8)
    factor = torch.linalg.cholesky(0.8 ** (index[:, None] - index).abs().double())
    noise = torch.randn(200, C, 8, 8, generator=_generator(), dtype=torch.float64)
    latents, labels = factor @ noise @ factor.T, torch.arange(200) % 2
    order = torch.randperm(64, generator=_generator(1))
    permuted = latents.flatten(2)[:, :, order].unflatten(2, (8, 8))
    before, after = _found(latents, labels), _found(permuted, labels)
    for name in ("viv", "viv_mle", "tau", "separability", "spatial_factor", "channel_factor"):
        assert after[name].value == pytest.approx(before[name].value, rel=1e-6)
    assert after["viv_dct"].value > 1.2 * before["viv_dct"].value
    for measure in (measure_smoothness, lambda x: measure_spatial(x, None)[0]):
        first, second = measure(latents)[0].value, measure(permuted)[0].value
        assert abs(first - second) > 0.2


@pytest.mark.parametrize("positions", [1, 2], ids=["own cells", "every cell twice"])
@pytest.mark.parametrize("weights", [[1.0, 0, 0], [1.0, 1, 0]], ids=["copy", "rounded sum"])
def test_a_channel_that_follows_from_others_keeps_the_closed_form(weights, positions) -> None:
    x = torch.randn(3000, 3, 2, 2, generator=_generator())
    more = torch.einsum("c,nchw->nhw", torch.tensor(weights), x)[:, None]  # float32
    latents = torch.cat([x, more], dim=1).repeat_interleave(positions, dim=3)
    found = _found(latents, torch.zeros(3000).long(), normalise=False, halvings=1)
    # variances: 1, 1, and along the weights 1 + |w|^2; half of the cells add nothing
    roots = (2 + math.sqrt(1 + sum(w**2 for w in weights))) / 4 * math.sqrt(positions) / positions
    assert found["separability"].value == pytest.approx(1, abs=0.003)
    assert found["viv_mle"].value == pytest.approx(math.pi / 2 * roots, rel=0.01)
    assert found["viv"].value == pytest.approx(math.pi / 2 * roots, rel=0.01)
    assert "rank-deficient covariance factors in 1 classes" in found["viv"].flags


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 200_000))
def test_neither_order_nor_batch_nor_dtype_nor_label_names_matter(seed: int, batch: int):
    latents, labels = _set(seed=seed)
    latents = latents.bfloat16()
    expected = {name: m.value for name, m in _found(latents, labels).items()}
    order = torch.randperm(len(labels), generator=_generator(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(velocity_fits, "_CPU_BATCH_BYTES", batch)
        found = _found(latents[order].double(), 3 + 2 * labels[order])
    for name, value in expected.items():
        if "corrected" not in name:  # the halves are drawn from the order of images
            assert found[name].value == pytest.approx(value, rel=1e-8, abs=1e-12)


def test_the_number_of_threads_changes_nothing():
    latents, labels = _set()
    before, expected = torch.get_num_threads(), _found(latents, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(velocity_fits, "_CPU_BATCH_BYTES", 1)  # a piece a class
        one = _found(latents, labels)
        torch.set_num_threads(3)
        try:
            assert _found(latents, labels) == one
        finally:
            torch.set_num_threads(before)
    for name in expected:
        assert one[name].value == pytest.approx(expected[name].value, rel=1e-12, abs=1e-14)


def test_classes_of_different_size_do_not_touch_each_other():
    latents, labels = _set(classes=2, each=60)
    keep = (labels == 0) | (torch.arange(120) < 50)
    alone = [
        _found(latents[keep & (labels == k)], labels[keep & (labels == k)], normalise=False)
        for k in (0, 1)
    ]
    both = _found(latents[keep], labels[keep], normalise=False)
    assert both["viv_mle"].options["smallest_class"] == 25
    for name in SCALARS:
        expected = (alone[0][name].value + alone[1][name].value) / 2
        assert both[name].value == pytest.approx(expected, rel=1e-9)


def test_names_directions_and_options():
    found = _found(*_set())
    assert set(found) == {
        *SCALARS,
        *(f"{name}_corrected" for name in ("viv", "viv_mle", "viv_dct")),
        *(f"curve_t{step}0" for step in range(1, 11)),
        "curve_t00",
        "viv_marginal",
    }
    assert found["viv"].higher_is_better is False
    assert found["anisotropy"].higher_is_better is True
    assert found["separability"].higher_is_better is None
    assert found["viv"].options["stderr"] == "half-sampling of images"
    assert found["viv"].flags == ()
    assert found["curve_t100"].value == pytest.approx(1, rel=1e-12)
    assert found["curve_t00"].value == pytest.approx(found["tau"].value, rel=1e-9)


# too few samples, bad input


def test_the_least_number_of_samples():
    assert minimum_samples(32, 256) == 12
    assert minimum_samples(64, 256) == 8
    assert minimum_samples(16, 16) == 6


def test_eleven_samples_at_256_by_32_are_refused_and_twelve_are_not():
    latents = torch.randn(12, 32, 16, 16, generator=_generator())
    labels = torch.full((12,), 7)
    with pytest.raises(MeasurementError, match=r"fewer than 12 samp.*class 7 has 11.*per class$"):
        _found(latents[:11], labels[:11])  # there is no class that could be skipped
    found = _found(latents, labels)
    assert found["viv"].stderr is None
    assert "one class: unconditional" in found["viv"].flags
    assert "rank-deficient: a class has no more samples than channels" in found["viv_dct"].flags


def test_classes_too_small_to_halve_are_flagged_and_not_corrected():
    least = minimum_samples(C, S)
    latents, labels = _set(each=2 * least - 1)
    found = _found(latents, labels)
    assert "viv_corrected" not in found
    assert found["viv"].options["stderr"] == "between classes"
    by_class = [
        _found(latents[labels == k], labels[labels == k], normalise=False)["viv"].value
        for k in labels.unique()
    ]
    plain = _found(latents, labels, normalise=False)["viv"]
    error = np.std(by_class, ddof=1) / len(by_class) ** 0.5
    assert plain.stderr == pytest.approx(error, rel=1e-6)
    assert any("too small to halve" in flag for flag in found["viv"].flags)
    assert "viv_corrected" in _found(*_set(each=2 * least))


def test_a_dead_position_is_flagged_as_rank_deficient():
    latents, labels = _set(each=60)
    whole = _found(latents, labels)
    latents[:, :, 0, 0] = latents[:, :, 0, 1] * 2  # no variance of its own
    found = _found(latents, labels)
    assert "rank-deficient covariance factors in 3 classes" in found["viv"].flags
    assert 0 < found["viv"].value < whole["viv"].value


def test_bad_input_is_refused():
    latents, labels = _set()
    with pytest.raises(MeasurementError, match="out of range: negative at images"):
        _found(latents, labels - 1)
    with pytest.raises(MeasurementError, match="one per image"):
        _found(latents, labels[:-1])
    with pytest.raises(MeasurementError, match="fewer than"):
        _found(latents, torch.arange(len(labels)))
    collapsed = latents.clone()
    collapsed[labels == 1] = latents[1]
    with pytest.raises(MeasurementError, match="class of image 1 are identical"):
        _found(collapsed, labels)
    latents[0, 0, 0, 0] = torch.nan
    with pytest.raises(MeasurementError, match="not finite"):
        _found(latents, labels)
