"""The learned Fisher curves: measurements of oracles, of models, and what is refused."""

import math

import pytest
import torch

from diffusability.diffusion.flow import sample_time
from diffusability.diffusion.latent_diffusion import LatentDiffusion
from diffusability.diffusion.load import backbone_spec
from diffusability.diffusion.transformer import SiT
from diffusability.errors import MeasurementError
from diffusability.fisher.backbone_denoiser import backbone_denoiser
from diffusability.fisher.denoiser import from_velocity
from diffusability.fisher.deviation import Rate, fir_deviation
from diffusability.fisher.gaussian import Gaussian, standard_normal
from diffusability.fisher.information import FisherInformation, embedded, log_weights
from diffusability.metrics.learned_fisher import measure_learned_fisher
from diffusability.metrics.measurement import Measurement
from tests.oracles.closed_forms import gaussian_curve
from tests.oracles.distributions import from_oracle
from tests.oracles.gaussian_flow import GaussianFlow
from tests.unit.fisher_examples import mixture, normal
from tests.unit.networks import diffusion

ENTRY = backbone_spec({"arch": "sit", "width": 16, "depth": 1, "heads": 2, "train": {"steps": 1}})


def by_name(measurements: list[Measurement]) -> dict[str, Measurement]:
    return {m.metric: m for m in measurements}


class TestDenoiser:
    def test_every_datum_of_a_gaussian_adds_the_same_to_fir_and_data_at_a_kink_add_more(self):
        x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        curve = measure_learned_fisher(
            x, from_oracle(standard_normal(2)), (0.1, 0.5), seed=0, probes="exact"
        )
        level = torch.tensor([0.1, 0.5], dtype=torch.float64)
        exact = float((level / (1 + level)).square().mean())
        torch.testing.assert_close(curve.fir_by_datum, torch.full_like(x[:, 0], exact))

    def test_an_oracle_is_measured_as_it_is(self) -> None:
        gmm, v = mixture(), (0.1, 0.12, 0.14)
        x = gmm.sample(5000, torch.Generator().manual_seed(0))
        curve = measure_learned_fisher(x, from_oracle(gmm), v, seed=3, probes="exact")
        seen = by_name(curve.measurements)
        pure = {}
        for level in v:
            exact = gmm.information(level)
            for name, value, power in (
                ("fi", exact.fi, 1),
                ("fi_score", exact.fi, 1),
                ("fi_held_out", exact.fi, 1),
                ("fir", exact.fir, 2),
                ("mmse_rate", exact.mmse_rate, 0),
            ):
                at = seen[f"fisher.curve_learned_{name}_unconditional_v{level:g}"]
                pure[name, level] = value * level**power / 3
                assert abs(at.value - pure[name, level]) < 3 * at.stderr
                assert at.flags == ()
                assert at.options["total"] == pytest.approx(at.value / level**power * 3)
                assert at.options["total_stderr"] == pytest.approx(at.stderr / level**power * 3)
        for name in ("fi", "fir", "mmse_rate"):
            mean = seen[f"fisher.learned_{name}_unconditional"]
            weighted = zip(log_weights(v), v, strict=True)
            exact_mean = sum(weight * pure[name, level] for weight, level in weighted)
            assert abs(mean.value - exact_mean) < 3 * mean.stderr
        mean = seen["fisher.learned_fir_unconditional"]
        assert float(curve.fir_by_datum.mean()) == pytest.approx(mean.value)
        first = seen["fisher.curve_learned_fi_unconditional_v0.1"]
        assert first.options["dtype"] == "float64"

    def test_the_error_of_a_mean_knows_that_levels_share_their_data(self) -> None:
        gmm, v, means = mixture(), (0.1, 0.2), []
        for seed in range(30):
            x = gmm.sample(60, torch.Generator().manual_seed(seed))
            seen = by_name(measure_learned_fisher(x, from_oracle(gmm), v, seed=seed).measurements)
            means.append(seen["fisher.learned_fir_unconditional"])
        spread = float(torch.tensor([m.value for m in means]).std())
        error = float(torch.tensor([m.stderr for m in means]).square().mean().sqrt())
        assert error == pytest.approx(spread, rel=0.3)

    def test_a_wrong_model_is_flagged_in_every_row(self) -> None:
        x = standard_normal(2).sample(3000, torch.Generator().manual_seed(0))
        narrow = Gaussian(torch.zeros(2), 0.2 * torch.eye(2))
        seen = measure_learned_fisher(
            x, from_oracle(narrow), (0.2,), seed=0, sigma_range=(1, 2)
        ).measurements
        for at in seen:
            ending = "" if "curve" in at.metric else " (v = 0.2)"
            assert f"model-error: A - B is not 0{ending}" in at.flags
            assert f"extrapolation: sigma outside the trained range{ending}" in at.flags

    def test_few_data_carry_no_bound(self) -> None:
        # 15 draws of a plane have a smaller variance than the plane in some direction
        wide = Gaussian(torch.zeros(2), 9 * torch.eye(2))
        x = standard_normal(2).sample(15, torch.Generator().manual_seed(0))
        flags = measure_learned_fisher(x, from_oracle(wide), (0.2,), seed=0).measurements[0].flags
        assert not any("Gaussian bound" in flag for flag in flags)

    def test_variances_along_axes_are_a_bound_where_data_are_many_but_dimensions_too(self) -> None:
        x = normal(300, 4, 4, 4)
        for scale, violated in ((1.0, False), (9.0, True)):
            flow = GaussianFlow(torch.zeros(4, 4, 4), torch.full((4, 4, 4), scale))
            denoiser = from_velocity(lambda y, t, _, f=flow: f.velocity(y, float(t[0])))
            flags = measure_learned_fisher(x, denoiser, (0.2,), seed=0).measurements[0].flags
            assert any("FI below the Gaussian bound" in flag for flag in flags) == violated

    def test_a_backbone_of_the_study(self) -> None:
        network = diffusion(SiT, 2, (2, 2), 3, width=16, depth=1, heads=2)
        x, labels = normal(30, 2, 2, 2).float(), torch.arange(30) % 3
        trained = backbone_denoiser(LatentDiffusion(network.eval()), ENTRY)
        v = (0.5, 1.0)
        seen = measure_learned_fisher(
            x, trained.denoise, v, seed=0, labels=labels, probes=2
        ).measurements
        assert len(seen) == 13
        assert {m.options["dtype"] for m in seen} == {"float32"}
        # SiT starts at velocity 0: D = t y, G = t I
        t = 1 / (1 + 0.5**0.5)
        rate = by_name(seen)["fisher.curve_learned_mmse_rate_v0.5"]
        assert rate.value == pytest.approx(t**2, rel=1e-5)

    def test_without_labels_a_backbone_is_asked_for_its_null_class(self) -> None:
        network = diffusion(SiT, 2, (2, 2), 3, width=16, depth=1, heads=2)
        network.eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator()))
        denoise = backbone_denoiser(LatentDiffusion(network), ENTRY).denoise
        y = normal(5, 2, 2, 2).float()
        null = denoise(y, 0.3, torch.full((5,), 3))
        assert torch.equal(denoise(y, 0.3), null)
        assert not torch.allclose(denoise(y, 0.3, torch.zeros(5, dtype=torch.int64)), null)

    def test_the_trained_range_is_that_of_the_times(self) -> None:
        model = LatentDiffusion(diffusion(SiT, 2, (2, 2), 3, width=16, depth=1, heads=2))
        for time in ("uniform", "logit-normal"):
            t = sample_time(2_000_000, time, torch.Generator().manual_seed(0))
            ends = ((1 - t) / t).quantile(torch.tensor([0.025, 0.975]))
            spec = ENTRY.model_copy(update={"time": time})
            assert backbone_denoiser(model, spec).sigma_range == pytest.approx(
                tuple(ends.tolist()), rel=0.02
            )

    def test_an_exact_velocity_is_measured_as_its_gaussian(self) -> None:
        spread = normal(2, 3, 3, seed=5).exp()
        flow, v = GaussianFlow(normal(2, 3, 3, seed=6), spread), (0.05, 0.5, 5.0)
        x = flow.mean + spread.sqrt() * normal(500, 2, 3, 3, seed=8)
        denoiser = from_velocity(lambda y, t, _: flow.velocity(y, float(t[0])))
        results = [
            by_name(measure_learned_fisher(x, denoiser, v, seed=1, batch_size=size).measurements)
            for size in (64, 500)
        ]
        exact = gaussian_curve(spread.flatten(), v)
        for i, level in enumerate(v):
            for j, name in enumerate(("fi", "fir", "mmse_rate")):
                metric = f"fisher.curve_learned_{name}_unconditional_v{level:g}"
                at = results[0][metric]
                # a diagonal Jacobian has no probe noise: r G r = tr G for signs
                assert abs(at.value - float(exact[i, j])) < 3 * at.stderr + 1e-9
                assert at.flags == ()
                assert at.value == pytest.approx(results[1][metric].value, rel=1e-10)

    @pytest.mark.parametrize("v", [(), (0.0, 1.0), (1.0, 0.5)])
    def test_levels_must_increase(self, v: tuple[float, ...]) -> None:
        with pytest.raises(MeasurementError, match="must be positive and increase"):
            measure_learned_fisher(normal(5, 2), from_oracle(standard_normal(2)), v, seed=0)


class TestDeviation:
    """Flat isometric data: every reading has a closed form (fisher.md, 1)."""

    @staticmethod
    def rate(information: FisherInformation, stderr: float = 0.0) -> Rate:
        return Rate(information.fir, information.dim, stderr)

    @pytest.mark.parametrize("d", [2, 5, 10])
    def test_dimensions_alone(self, d: int) -> None:
        D, m, v = 10, 2, 1e-6
        plane = standard_normal(m).information(v)
        at = fir_deviation(self.rate(embedded(plane, D)), self.rate(embedded(plane, d)), v, m)
        assert at.scaled.value == pytest.approx((D - d) / D, abs=1e-10)
        # the plane's own rate, 2 / (1 + v)^2, is all that stands between these and the lines
        assert at.relative.value == pytest.approx((D - d) / (D - m), abs=1e-10)
        assert at.per_dimension.value == pytest.approx(m * (D - d) / (d * (D - m)), abs=1e-10)

    def test_dimensions_are_no_intrinsic_deviation(self) -> None:
        v = 0.01
        plane = standard_normal(2).information(v)
        at = fir_deviation(self.rate(embedded(plane, 10)), self.rate(embedded(plane, 4)), v, 2)
        assert at.intrinsic.value == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize("eps", [0.05, 0.3])
    def test_scale_alone(self, eps: float) -> None:
        v = 0.05
        pixel = standard_normal(2).information(v)
        latent = Gaussian(torch.zeros(2), (1 + eps) * torch.eye(2, dtype=torch.float64))
        at = fir_deviation(self.rate(pixel), self.rate(latent.information(v)), v, 2)
        exact = 1 - ((1 + v) / (1 + eps + v)) ** 2
        for reading in (at.relative, at.per_dimension, at.intrinsic):
            assert reading.value == pytest.approx(exact, abs=1e-10)

    def test_errors_are_those_of_repeats(self) -> None:
        pixel, latent, v = Rate(1010.0, 3, 3.0), Rate(520.0, 2, 2.0), 0.1
        at = fir_deviation(pixel, latent, v, 2)
        draws = [
            fir_deviation(Rate(1010.0 + 3 * a, 3), Rate(520.0 + 2 * b, 2), v, 2)
            for a, b in normal(4000, 2).tolist()
        ]
        for name in ("relative", "scaled", "per_dimension"):
            values = torch.tensor([getattr(d, name).value for d in draws])
            assert getattr(at, name).stderr == pytest.approx(float(values.std()), rel=0.05)

    def test_rates_below_those_of_the_normal_directions_have_no_intrinsic_part(
        self,
    ) -> None:
        at = fir_deviation(Rate(90.0, 3, 1.0), Rate(90.0, 3, 1.0), 0.1, 2)
        assert math.isnan(at.intrinsic.value)
        assert at.relative.value == 0
