"""Oracles: closed forms, published four-digit values, and derivatives of their own densities."""

import math

import pytest
import torch

from diffusability.errors import MeasurementError
from diffusability.fisher.gaussian import Gaussian, gaussian_information, standard_normal
from diffusability.fisher.information import FisherInformation, embedded, rescaled
from diffusability.fisher.oracle import Oracle, Product, Subspace
from diffusability.fisher.toy_oracles import Arc, Pushforward
from tests.oracles.distributions import (
    Circle,
    EmpiricalMeasure,
    GaussianMixture,
    TwoAtoms,
    score_jacobian,
)
from tests.unit.fisher_examples import FLOAT, ORACLES, covariance, isometry, mixture, normal


def to_digits_of(printed: str, value: float) -> str:
    """Print a value with as many decimals as a printed one has."""
    return f"{value:.{len(printed.split('.')[1])}f}"


@pytest.fixture(params=ORACLES.values(), ids=ORACLES.keys())
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return request.param


class TestEveryOracle:
    """What holds for any distribution."""

    @pytest.mark.parametrize("v", [0.1, 0.7])
    def test_rate_is_minus_the_derivative(self, oracle: Oracle, v: float) -> None:
        h = 1e-3 * v
        low, high, at = (oracle.information(v + d) for d in (-h, h, 0.0))
        assert at.fir == pytest.approx((low.fi - high.fi) / (2 * h), rel=5e-6)
        assert at.mmse_rate == pytest.approx((high.mmse - low.mmse) / (2 * h), rel=5e-6)

    def test_identities_between_the_four_numbers(self, oracle: Oracle) -> None:
        at, n, v = oracle.information(0.3), oracle.dim, 0.3
        assert at.dim == n
        assert at.mmse == pytest.approx(n * v - v**2 * at.fi, rel=1e-9)
        assert at.mmse_rate == pytest.approx(n - 2 * v * at.fi + v**2 * at.fir, rel=1e-9)

    def test_general_bounds(self, oracle: Oracle) -> None:
        x = oracle.sample(4000, torch.Generator().manual_seed(1))
        for v in (0.05, 1.0):
            at = oracle.information(v)
            assert at.fi <= oracle.dim / v * (1 + 1e-12)
            assert at.fir >= at.fi**2 / oracle.dim * (1 - 1e-12)
            least = gaussian_information(
                torch.linalg.eigvalsh(torch.cov(x.T).view(oracle.dim, -1)), v
            )
            assert at.fi >= least.fi * 0.95  # the sample's covariance is not the exact one
            assert at.fir >= least.fir * 0.9

    def test_posterior_is_the_derivative_of_the_denoiser(self, oracle: Oracle) -> None:
        v = 0.4
        x = oracle.sample(5, torch.Generator().manual_seed(2))
        y = x + math.sqrt(v) * normal(5, oracle.dim, seed=3)
        mean, spread = oracle.posterior(y, v)
        assert torch.equal(oracle.denoise(y, v), mean)
        for j in range(oracle.dim):
            step = torch.zeros(oracle.dim, dtype=FLOAT)
            step[j] = 1e-4
            slope = (oracle.denoise(y + step, v) - oracle.denoise(y - step, v)) / 2e-4
            torch.testing.assert_close(spread[:, :, j] / v, slope, rtol=1e-6, atol=1e-7)
            bend = (oracle.score(y + step, v) - oracle.score(y - step, v)) / 2e-4
            torch.testing.assert_close(
                score_jacobian(oracle, y, v)[:, :, j], bend, rtol=1e-6, atol=1e-6
            )

    def test_draws_have_the_information_that_is_stated(self, oracle: Oracle) -> None:
        v, count = 0.5, 20_000
        x = oracle.sample(count, torch.Generator().manual_seed(4))
        y = x + math.sqrt(v) * normal(count, oracle.dim, seed=5)
        fi = oracle.score(y, v).square().sum(1)
        mmse = (x - oracle.denoise(y, v)).square().sum(1)
        at = oracle.information(v)
        for seen, exact in ((fi, at.fi), (mmse, at.mmse)):
            assert abs(float(seen.mean()) - exact) < 4 * float(seen.std()) / math.sqrt(count)


class TestGaussian:
    @pytest.mark.parametrize("v", [1e-4, 0.1, 3.0])
    def test_closed_form_of_a_rotated_covariance(self, v: float) -> None:
        eigenvalues = torch.tensor([2.0, 0.5, 0.0], dtype=FLOAT)
        turn = isometry(3, 3)
        at = Gaussian(normal(3), turn * eigenvalues @ turn.T).information(v)
        lam = [2.0, 0.5, 0.0]
        assert at.fi == pytest.approx(sum(1 / (a + v) for a in lam), rel=1e-9)
        assert at.fir == pytest.approx(sum(1 / (a + v) ** 2 for a in lam), rel=1e-9)
        assert at.mmse == pytest.approx(sum(a * v / (a + v) for a in lam), rel=1e-9)
        assert at.mmse_rate == pytest.approx(sum((a / (a + v)) ** 2 for a in lam), rel=1e-9)

    def test_rate_is_minus_the_derivative_to_nine_digits(self) -> None:
        oracle, v, h = Gaussian(normal(3), covariance(3)), 0.3, 3e-4
        fi = {k: oracle.information(v + k * h).fi for k in (-2, -1, 1, 2)}
        slope = (fi[-2] - 8 * fi[-1] + 8 * fi[1] - fi[2]) / (12 * h)  # error h^4
        assert oracle.information(v).fir == pytest.approx(-slope, rel=1e-9)

    def test_linear_image(self) -> None:
        W = normal(2, 3, seed=1)
        source = Gaussian(normal(3), covariance(3))
        image = source.image(W, normal(2, seed=2))
        torch.testing.assert_close(image.covariance, W @ source.covariance @ W.T)
        x = source.sample(50_000, torch.Generator().manual_seed(0)) @ W.T + normal(2, seed=2)
        torch.testing.assert_close(x.mean(0), image.mean, rtol=0, atol=0.03)


class TestTwoAtoms:
    @pytest.mark.parametrize(
        ("v", "fi", "fir"),
        [
            (0.1, "9.7588685", "108.2307466"),
            (0.3, "2.2028683", "11.080580"),
            (1.0, "0.5504005", "0.4173563"),
            (3.0, "0.2508404", "0.0636453"),
        ],
    )
    def test_known_values(self, v: float, fi: str, fir: str) -> None:
        at = TwoAtoms().information(v)
        assert to_digits_of(fi, at.fi) == fi
        assert to_digits_of(fir, at.fir) == fir

    def test_rate_against_derivative_and_value(self) -> None:
        v, h = 0.1, 1e-5
        atoms = TwoAtoms()
        slope = (atoms.information(v - h).fi - atoms.information(v + h).fi) / (2 * h)
        assert atoms.information(v).fir == pytest.approx(slope, rel=1e-6)
        # log-concavity would give FIR <= n / v^2
        assert atoms.information(v).fir > 1 / v**2
        assert atoms.information(v).mmse_rate == pytest.approx(0.13053376, rel=1e-7)

    def test_mmse_formulas(self) -> None:
        v = 0.1
        at = TwoAtoms().information(v)
        assert at.mmse == pytest.approx(v - v**2 * at.fi, rel=1e-9)
        z = torch.linspace(-9, 9, 20_001, dtype=FLOAT)
        weights = torch.exp(-z.square() / 2)
        tanh = (weights * torch.tanh(1 / v + z / math.sqrt(v))).sum() / weights.sum()
        assert at.mmse == pytest.approx(1 - float(tanh), abs=1e-8)

    def test_is_the_empirical_measure_of_two_points(self) -> None:
        points = EmpiricalMeasure(torch.tensor([[-1.0], [1.0]]))
        y = normal(6, 1)
        for a, b in zip(points.posterior(y, 0.2), TwoAtoms().posterior(y, 0.2), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


class TestCircle:
    @pytest.mark.parametrize(
        ("v", "fi", "fir"),
        [
            (0.01, "99.486912", "10001.3718"),
            (0.1, "9.301159", "101.27548"),
            (0.5, "2.131584", "2.835394"),
            (2.0, "0.800741", "0.321559"),
        ],
    )
    def test_known_values(self, v: float, fi: str, fir: str) -> None:
        at = Circle(1.0).information(v)
        assert to_digits_of(fi, at.fi) == fi
        assert to_digits_of(fir, at.fir) == fir
        assert at.mmse == pytest.approx(2 * v - v**2 * at.fi, rel=1e-7)
        h = 1e-4 * v
        slope = Circle(1.0).information(v - h).fi - Circle(1.0).information(v + h).fi
        assert at.fir == pytest.approx(slope / (2 * h), rel=1e-7)

    def test_is_many_points_on_the_circle(self) -> None:
        angle = torch.arange(200, dtype=FLOAT) * (2 * math.pi / 200)
        points = EmpiricalMeasure(torch.stack((angle.cos(), angle.sin()), dim=1))
        y = normal(6, 2)
        for a, b in zip(points.posterior(y, 0.3), Circle(1.0).posterior(y, 0.3), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)

    def test_centre_is_no_exception(self) -> None:
        mean, spread = Circle(2.0).posterior(torch.zeros(1, 2, dtype=FLOAT), 0.5)
        torch.testing.assert_close(mean, torch.zeros(1, 2, dtype=FLOAT))
        torch.testing.assert_close(
            spread.diagonal(dim1=1, dim2=2).sum(), torch.tensor(4.0).double()
        )


class TestMixture:
    def test_score_and_hessian_are_those_of_the_density(self) -> None:
        gmm, v = mixture(), 0.3
        spreads = gmm.vectors * gmm.values[:, None] @ gmm.vectors.mT + v * torch.eye(3, dtype=FLOAT)
        density = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(gmm.weights),
            torch.distributions.MultivariateNormal(gmm.means, spreads),
        )
        for y in normal(4, 3, seed=8):
            slope = torch.func.grad(density.log_prob)(y)
            bend = torch.func.hessian(density.log_prob)(y)
            torch.testing.assert_close(gmm.score(y[None], v)[0], slope, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(
                score_jacobian(gmm, y[None], v)[0], bend, rtol=1e-12, atol=1e-12
            )

    def test_one_component_is_the_gaussian(self) -> None:
        gaussian = Gaussian(normal(3), covariance(3))
        one = GaussianMixture(torch.ones(1), gaussian.mean[None], gaussian.covariance[None])
        exact, seen = gaussian.information(0.2), one.information(0.2)
        for name in ("fi", "fir", "mmse", "mmse_rate"):
            assert getattr(seen, name) == pytest.approx(getattr(exact, name), rel=1e-12)

    def test_many_dimensions_are_refused(self) -> None:
        with pytest.raises(MeasurementError, match="quadrature of a mixture in 5 dimensions"):
            mixture(5).information(0.1)


class TestEmpirical:
    def test_plug_in_and_held_out_forms_bracket_the_truth(self) -> None:
        # J is convex in the density, so a finite sample raises it; held-out errors lower it
        v, count = 0.1, 5000
        x = normal(2 * count, 2, seed=11)
        fit = EmpiricalMeasure(x[:count])
        truth = standard_normal(2).information(v).fi
        z = math.sqrt(v) * normal(count, 2, seed=12)
        plug_in = fit.score(x[:count] + z, v).square().sum(1)
        error = (x[count:] - fit.denoise(x[count:] + z, v)).square().sum(1)
        # the mean of |z|^2 / v^2 is taken from the same draws, which removes its noise
        held_out = (z.square().sum(1) - error) / v**2
        assert float(plug_in.mean()) > truth - 3 * float(plug_in.std()) / math.sqrt(count)
        assert float(held_out.mean()) < truth + 3 * float(held_out.std()) / math.sqrt(count)
        assert float(plug_in.mean()) == pytest.approx(1.942, rel=0.05)
        assert float(held_out.mean()) == pytest.approx(1.763, rel=0.15)

    def test_small_noise_sees_separate_atoms(self) -> None:
        points = EmpiricalMeasure(normal(12, 2, seed=1))
        at = points.information(1e-6)
        assert at.fi == pytest.approx(2e6, rel=1e-9)
        size = points.effective_sample_size(points.points + 1e-6, 1e-6)
        torch.testing.assert_close(size, torch.ones(12, dtype=FLOAT))


class TestPushforward:
    def test_identity_and_scaling(self) -> None:
        for c in (1.0, 0.25, 2.0):
            oracle = Pushforward(lambda x, c=c: c * x, breaks=(), lipschitz=c)
            exact = gaussian_information(torch.tensor([c**2]), 0.01)
            seen = oracle.information(0.01)
            for name in ("fi", "fir", "mmse", "mmse_rate"):
                assert getattr(seen, name) == pytest.approx(getattr(exact, name), rel=1e-10)

    def test_sign_is_two_atoms(self) -> None:
        y = normal(6, 1)
        sign = Pushforward(torch.sign)
        for a, b in zip(sign.posterior(y, 0.3), TwoAtoms().posterior(y, 0.3), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


class TestArc:
    def test_large_radius_is_the_line(self) -> None:
        at = Arc(1e4).information(0.1)
        line = embedded(standard_normal(1).information(0.1), 2)
        assert at.fi == pytest.approx(line.fi, rel=1e-8)
        assert at.fir == pytest.approx(line.fir, rel=1e-8)

    def test_small_radius_is_the_circle(self) -> None:
        # wrapped five times round, a normal angle is uniform to e^(-12)
        at, ring = Arc(0.2).information(0.1), Circle(0.2).information(0.1)
        assert at.fi == pytest.approx(ring.fi, rel=1e-5)
        assert at.mmse_rate == pytest.approx(ring.mmse_rate, rel=1e-4)


class TestLaws:
    def test_lemma_b1_pointwise(self) -> None:
        gmm, U, v = mixture(), isometry(7, 3), 0.2
        outer = Subspace(gmm, U)
        y = normal(5, 7, seed=4)
        inner, rest = score_jacobian(gmm, y @ U, v), score_jacobian(outer, y, v)
        fir = inner.square().sum((1, 2)) + 4 / v**2
        torch.testing.assert_close(rest.square().sum((1, 2)), fir, rtol=1e-9, atol=0)
        gain = outer.posterior(y, v)[1].square().sum((1, 2))
        inner_gain = gmm.posterior(y @ U, v)[1].square().sum((1, 2))
        torch.testing.assert_close(gain, inner_gain, rtol=1e-12, atol=0)

    def test_lemma_b1_on_average(self) -> None:
        inner = Circle(1.0).information(0.2)
        outer = Subspace(Circle(1.0), isometry(5, 2)).information(0.2)
        assert outer.fi == pytest.approx(inner.fi + 3 / 0.2, rel=1e-12)
        assert outer.fir == pytest.approx(inner.fir + 3 / 0.04, rel=1e-12)
        assert outer.mmse_rate == pytest.approx(inner.mmse_rate, rel=1e-12)

    @pytest.mark.parametrize("scale", [0.5, 3.0])
    def test_scale(self, scale: float) -> None:
        a, z = Circle(1.0).information(0.2), Circle(scale).information(0.2 * scale**2)
        law = rescaled(a, scale)
        for name in ("v", "fi", "fir", "mmse", "mmse_rate"):
            assert getattr(law, name) == pytest.approx(getattr(z, name), rel=1e-10)
        assert a.fi == pytest.approx(scale**2 * z.fi, rel=1e-12)
        assert a.fir == pytest.approx(scale**4 * z.fir, rel=1e-12)

    def test_product_adds(self) -> None:
        a, b = TwoAtoms().information(0.3), Circle(1.0).information(0.3)
        both = Product([TwoAtoms(), Circle(1.0)]).information(0.3)
        assert both == FisherInformation(
            0.3, 3, a.fi + b.fi, a.fir + b.fir, a.mmse + b.mmse, a.mmse_rate + b.mmse_rate
        )

    def test_sums_of_different_noise_and_smaller_spaces_are_refused(self) -> None:
        with pytest.raises(ValueError, match="differ"):
            TwoAtoms().information(0.1) + TwoAtoms().information(0.2)
        with pytest.raises(ValueError, match="cannot be embedded"):
            embedded(Circle(1.0).information(0.1), 1)

    def test_a_map_that_is_no_isometry_is_refused(self) -> None:
        with pytest.raises(MeasurementError, match="not an isometry"):
            Subspace(Circle(1.0), 1.1 * isometry(4, 2))
