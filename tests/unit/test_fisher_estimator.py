"""Estimators: unbiased on every oracle, exact conversions, probe laws, and honest errors."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from diffusability.diffusion.transformer import LightningDiT, SiT
from diffusability.errors import MeasurementError
from diffusability.fisher.checks import flags_of
from diffusability.fisher.denoiser import (
    Denoiser,
    from_edm,
    from_noise_prediction,
    from_velocity,
)
from diffusability.fisher.estimator import FisherSamples, probe_directions, sample_fisher
from diffusability.fisher.gaussian import Gaussian, standard_normal
from diffusability.fisher.information import (
    FisherInformation,
    alpha_bar_of_variance,
    flow_time_of_variance,
    rescaled,
)
from diffusability.fisher.oracle import Oracle, Subspace
from tests.oracles.distributions import from_oracle, from_score, score_jacobian
from tests.unit.fisher_examples import FLOAT, ORACLES, covariance, isometry, mixture, normal
from tests.unit.networks import diffusion

FORMS = ("score", "divergence", "held_out")


def draw(oracle: Oracle, count: int, seed: int = 0) -> torch.Tensor:
    return oracle.sample(count, torch.Generator().manual_seed(seed))


def sample(oracle: Oracle, v: float, count: int = 4000, **changes) -> FisherSamples:
    given = {"seed": 5} | changes
    return sample_fisher(from_oracle(oracle), draw(oracle, count), v, **given)


def assert_within(samples: FisherSamples, exact: FisherInformation, width: float = 3) -> None:
    truth = dict.fromkeys(FORMS, exact.fi)
    truth |= {"fir": exact.fir, "mmse_rate": exact.mmse_rate, "mmse": exact.mmse}
    for name, value in truth.items():
        seen = samples.estimate(name)
        assert abs(seen.value - value) <= width * seen.stderr + 1e-9 * abs(value), name


class TestUnbiased:
    @pytest.mark.parametrize("name", ORACLES)
    @pytest.mark.parametrize("probes", [2, "exact"])
    def test_every_quantity_on_every_oracle(self, name: str, probes: int | str) -> None:
        oracle = ORACLES[name]
        assert_within(sample(oracle, 0.3, 10_000, probes=probes), oracle.information(0.3))

    def test_three_forms_of_a_mixture_agree_and_keep_the_bounds(self) -> None:
        gmm, v = mixture(), 0.3
        at = sample(gmm, v, 20_000, probes="exact")
        exact = gmm.information(v)
        assert_within(at, exact)
        spread = torch.cov(draw(gmm, 20_000).T)
        assert flags_of(at, eigenvalues=torch.linalg.eigvalsh(spread)) == ()
        # FIR against a central difference of FI with the same noise
        low, high = (sample(gmm, v * f, 20_000, probes="exact") for f in (0.98, 1.02))
        slope = (low.estimate("divergence").value - high.estimate("divergence").value) / (0.04 * v)
        assert slope == pytest.approx(at.estimate("fir").value, rel=0.01)

    def test_standard_error_is_that_of_repeats(self) -> None:
        gmm, v, count, probes = mixture(), 0.3, 100, 2
        x = draw(gmm, 400 * count)
        seen = sample_fisher(from_oracle(gmm), x, v, seed=1, probes=probes).fir.view(400, count)
        repeats = float(seen.mean(1).std())
        # second level: variance of one probe given the Jacobian, 2 (|M|^2 - sum M_ii^2), M = J^T J
        y = x + math.sqrt(v) * normal(len(x), 3, seed=77)
        J = score_jacobian(gmm, y, v)
        M = J.mT @ J
        probe = 2 * (M.square().sum((1, 2)) - M.diagonal(dim1=1, dim2=2).square().sum(1))
        formula = math.sqrt(
            (float(J.square().sum((1, 2)).var()) + float(probe.mean()) / probes) / count
        )
        assert formula == pytest.approx(repeats, rel=0.05)
        stated = seen.std(1).square().mean().sqrt() / math.sqrt(count)
        assert float(stated) == pytest.approx(repeats, rel=0.05)


class TestProbes:
    MATRIX = normal(16, 16, seed=3)

    def probe(self, count: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return probe_directions(torch.zeros(count, 16, dtype=FLOAT), 0, False, generator)

    def test_mean_and_variance_of_a_matrix_that_is_not_symmetric(self) -> None:
        A = self.MATRIX
        r = self.probe(40_000)
        values = (r @ A.T).square().sum(1)
        norm = float(A.square().sum())
        M = A.T @ A
        variance = 2 * float(M.square().sum() - M.diagonal().square().sum())
        assert abs(float(values.mean()) - norm) < 4 * math.sqrt(variance / 40_000)
        assert float(values.var()) == pytest.approx(variance, rel=0.02)
        # r A A r is another quantity: tr(A^2)
        square = torch.einsum("bi,ij,bj->b", r, A @ A, r)
        error = 4 * float(square.std()) / 200
        assert abs(float(square.mean()) - float((A @ A).trace())) < error
        assert abs(float((A @ A).trace()) - norm) > 10 * error

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_basis_is_exact(self, dtype: torch.dtype) -> None:
        A = self.MATRIX.to(dtype)
        x = normal(3, 16).to(dtype)
        v = 0.5
        at = sample_fisher(lambda y, v, labels=None: y @ A.T, x, v, seed=0, probes="exact")
        eye = torch.eye(16, dtype=dtype)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-13
        jacobian = float((A - eye).square().sum()) / v**2
        assert at.fir.tolist() == pytest.approx([jacobian] * 3, rel=tolerance)
        assert at.mmse_rate.tolist() == pytest.approx([float(A.square().sum())] * 3, rel=tolerance)
        assert at.divergence.tolist() == pytest.approx(
            [(16 - float(A.trace())) / v] * 3, rel=tolerance
        )


class TestConversions:
    """One distribution, four parameterisations, one denoiser."""

    oracle = mixture()
    y = normal(6, 3, seed=2)

    def network(self, kind: str) -> Denoiser:
        """Return the exact denoiser by way of a network of a kind, from the posterior of x_t."""
        oracle = self.oracle

        def edm(y: torch.Tensor, sigma: torch.Tensor, labels: object) -> torch.Tensor:
            return oracle.denoise(y, float(sigma[0]) ** 2)

        def noise(x: torch.Tensor, alpha_bar: torch.Tensor, labels: object) -> torch.Tensor:
            # the score of sqrt(abar) x + noise of variance 1 - abar, from the oracle scaled
            a = float(alpha_bar[0])
            scaled = Subspace(oracle, torch.eye(3, dtype=FLOAT), math.sqrt(a))
            return -math.sqrt(1 - a) * scaled.score(x, 1 - a)

        def velocity(x: torch.Tensor, t: torch.Tensor, labels: object) -> torch.Tensor:
            # E[x1 - x0 | x_t], x0 = (x_t - t x1) / (1 - t), from the oracle scaled by t
            s = float(t[0])
            x1 = Subspace(oracle, torch.eye(3, dtype=FLOAT), s).denoise(x, (1 - s) ** 2) / s
            return x1 - (x - s * x1) / (1 - s)

        return {
            "edm": from_edm(edm),
            "noise": from_noise_prediction(noise),
            "velocity": from_velocity(velocity),
            "score": from_score(oracle.score),
        }[kind]

    @pytest.mark.parametrize("kind", ["edm", "noise", "velocity", "score"])
    @pytest.mark.parametrize("v", [0.05, 1.0, 7.0])
    def test_every_parameterisation_is_the_posterior_mean(self, kind: str, v: float) -> None:
        seen = self.network(kind)(self.y, v)
        torch.testing.assert_close(seen, self.oracle.denoise(self.y, v), rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("kind", ["edm", "noise", "velocity", "score"])
    def test_and_so_is_its_information(self, kind: str) -> None:
        x = draw(self.oracle, 50)
        exact = sample_fisher(from_oracle(self.oracle), x, 0.2, seed=1)
        seen = sample_fisher(self.network(kind), x, 0.2, seed=1)
        torch.testing.assert_close(seen.fir, exact.fir, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(seen.divergence, exact.divergence, rtol=1e-12, atol=1e-12)

    def test_variance_preserving_information(self) -> None:
        # FI_VE = abar FI_t and FIR_VE = abar^2 FIR_t
        v = 0.4
        a = alpha_bar_of_variance(v)
        preserving = Subspace(self.oracle, torch.eye(3, dtype=FLOAT), math.sqrt(a)).information(
            1 - a
        )
        exploding = rescaled(preserving, a**-0.5)
        exact = self.oracle.information(v)
        assert exploding.v == pytest.approx(v, rel=1e-12)
        assert exact.fi == pytest.approx(a * preserving.fi, rel=1e-12)
        assert exact.fir == pytest.approx(a**2 * preserving.fir, rel=1e-12)
        assert exploding.fir == pytest.approx(exact.fir, rel=1e-12)

    def test_levels(self) -> None:
        for v in (1e-3, 0.7, 50.0):
            t, a = flow_time_of_variance(v), alpha_bar_of_variance(v)
            assert ((1 - t) / t) ** 2 == pytest.approx(v, rel=1e-12)  # of x_t / t
            assert (1 - a) / a == pytest.approx(v, rel=1e-12)  # of x_t / sqrt(abar)


class TestForwardMode:
    def test_against_finite_differences(self) -> None:
        generator = torch.Generator().manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.GELU(), torch.nn.Linear(32, 6))
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(std=0.4, generator=generator)
        for dtype, step, tolerance in ((torch.float64, 1e-4, 1e-6), (torch.float32, 1e-3, 1e-3)):
            net = model.to(dtype)
            x, r = normal(20, 6).to(dtype), normal(20, 6, seed=1).sign().to(dtype)
            tangent = torch.func.jvp(net, (x,), (r,))[1]
            if dtype == torch.float64:
                quotient = (net(x + step * r) - net(x - step * r)) / (2 * step)
            else:
                quotient = (net(x + step * r) - net(x)) / step
            error = float(((tangent - quotient).norm() / tangent.norm()).detach())
            assert error < tolerance

    def test_attention_has_a_forward_derivative(self) -> None:
        def attend(y: torch.Tensor, v: float, labels: object = None) -> torch.Tensor:
            tokens = y.view(len(y), 1, 4, 4)
            return scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)

        x = normal(3, 16)
        at = sample_fisher(attend, x, 0.5, seed=0, probes="exact")
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=FLOAT)
        for k, point in enumerate(x + math.sqrt(0.5) * noise):
            G = torch.autograd.functional.jacobian(lambda p: attend(p[None], 0.5)[0], point)
            assert float(at.mmse_rate[k]) == pytest.approx(float(G.square().sum()), rel=1e-10)

    @pytest.mark.parametrize("architecture", [SiT, LightningDiT])
    def test_the_studys_backbones(self, architecture: type) -> None:
        network = diffusion(architecture, 2, (2, 2), 3, width=16, depth=1, heads=2)
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.1 * normal(*weight.shape, seed=weight.numel()).float()
        network = network.double().eval()
        labels = torch.tensor([0, 3])
        at = sample_fisher(
            from_velocity(network),
            normal(2, 2, 2, 2),
            0.5,
            seed=0,
            probes="exact",
            labels=labels,
        )
        assert at.dim == 8
        torch.testing.assert_close(  # Stein's identity does not hold datum by datum
            at.fir, (8 - 2 * (8 - 0.5 * at.divergence) + at.mmse_rate) / 0.25
        )

    def test_batches_change_nothing(self) -> None:
        whole, parts = (sample(mixture(), 0.2, 50, batch_size=b) for b in (50, 7))
        torch.testing.assert_close(whole.fir, parts.fir, rtol=1e-12, atol=0)

    def test_common_random_numbers_in_a_larger_space(self) -> None:
        # E|G|^2 is unchanged by an isometric embedding, up to the noise of the normal directions
        inner = Gaussian(normal(3), covariance(3))
        outer = Subspace(inner, isometry(5, 3))
        a, b = sample(inner, 0.2, 20, probes="exact"), sample(outer, 0.2, 20, probes="exact")
        torch.testing.assert_close(a.mmse_rate, b.mmse_rate, rtol=1e-12, atol=0)
        assert b.fir.mean() - a.fir.mean() == pytest.approx(2 / 0.04, rel=1e-9)


class TestRefusals:
    @pytest.mark.parametrize("changes", [{"probes": 0}, {"draws": 0}])
    def test_nothing_to_average(self, changes: dict[str, int]) -> None:
        with pytest.raises(MeasurementError, match="must all be positive"):
            sample(mixture(), 0.1, 10, **changes)

    def test_no_noise(self) -> None:
        with pytest.raises(MeasurementError, match="must all be positive"):
            sample(mixture(), 0.0, 10)

    def test_a_large_exact_jacobian(self) -> None:
        with pytest.raises(MeasurementError, match="exact Jacobian of 65 dimensions"):
            sample(standard_normal(65), 0.1, 10, probes="exact")

    def test_one_datum_has_no_error(self) -> None:
        with pytest.raises(MeasurementError, match="no standard error"):
            sample(mixture(), 0.1, 1).estimate("fir")


class TestChecks:
    oracle = Gaussian(normal(3), covariance(3))
    eigenvalues = torch.linalg.eigvalsh(covariance(3))

    def flags(self, denoiser: Denoiser, v: float = 0.2, **changes) -> tuple[str, ...]:
        samples = sample_fisher(denoiser, draw(self.oracle, 4000), v, seed=5)
        return flags_of(samples, eigenvalues=self.eigenvalues, **changes)

    @pytest.mark.parametrize("v", [1e-3, 0.2, 5.0])
    def test_the_truth_has_no_flag(self, v: float) -> None:
        assert self.flags(from_oracle(self.oracle), v, sigma_range=(1e-3, 10)) == ()

    def test_a_model_of_too_narrow_data(self) -> None:
        narrow = Gaussian(self.oracle.mean, 0.3 * self.oracle.covariance)
        found = self.flags(from_oracle(narrow))
        assert "model-error: A - B is not 0" in found
        assert "model-error: (A - C) / B > 0.1" in found

    def test_a_model_of_too_wide_data_breaks_the_bounds(self) -> None:
        wide = Gaussian(self.oracle.mean, 9 * self.oracle.covariance)
        found = self.flags(from_oracle(wide))
        assert "impossible value: FI below the Gaussian bound" in found
        assert "impossible value: FIR below the Gaussian bound" in found

    def test_a_model_that_pushes_away(self) -> None:
        found = self.flags(lambda y, v, labels=None: -0.5 * y)
        assert "impossible value: FI > n / v" in found
        assert "model-error: denoising is worse than doing nothing" in found

    def test_levels_that_were_not_trained(self) -> None:
        found = self.flags(from_oracle(self.oracle), 0.2, sigma_range=(1.0, 2.0))
        assert found == ("extrapolation: sigma outside the trained range",)

    def test_a_defect_is_told_from_a_model_error(self) -> None:
        samples = sample(self.oracle, 0.2)
        broken = replace(samples, divergence=1.2 * samples.divergence)
        assert "defect: (A + C) / 2 is not B" in flags_of(broken)
        wrong = Gaussian(self.oracle.mean + 1, 0.3 * self.oracle.covariance)
        assert not any(flag.startswith("defect") for flag in self.flags(from_oracle(wrong)))
