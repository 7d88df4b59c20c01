"""The Fisher perspective: measurements of oracles, of Gaussian fits, and what is refused."""

import math

import pytest
import torch

from diffusability.diffusion.sit import SiT
from diffusability.errors import MeasurementError
from diffusability.fisher.denoiser import from_oracle, from_velocity
from diffusability.fisher.deviation import Rate, fir_deviation
from diffusability.fisher.gaussian import Gaussian, gaussian_information, standard_normal
from diffusability.fisher.information import FisherInformation, embedded
from diffusability.metrics.fisher import measure_fisher, measure_gaussian_fisher
from diffusability.metrics.measurement import Measurement
from tests.unit.fisher_examples import covariance, mixture, normal


def by_name(measurements: list[Measurement]) -> dict[str, Measurement]:
    return {m.metric: m for m in measurements}


class TestDenoiser:
    def test_an_oracle_is_measured_as_it_is(self) -> None:
        gmm, v = mixture(), (0.1, 0.12, 0.14)
        x = gmm.sample(5000, torch.Generator().manual_seed(0))
        seen = by_name(measure_fisher(x, from_oracle(gmm), v, seed=3, probes="exact"))
        for level in v:
            exact = gmm.information(level)
            for name, value in (
                ("fi", exact.fi),
                ("fi_score", exact.fi),
                ("fi_held_out", exact.fi),
                ("fir", exact.fir),
                ("mmse_rate", exact.mmse_rate),
            ):
                at = seen[f"fisher.{name}_v{level:g}"]
                assert abs(at.value - value) < 3 * at.stderr
                assert at.flags == ()
                pure = seen[f"fisher.{name}_per_dim_v{level:g}"]
                power = {"fir": 2, "mmse_rate": 0}.get(name, 1)
                assert pure.value == pytest.approx(at.value * level**power / 3)
                assert pure.stderr == pytest.approx(at.stderr * level**power / 3)
        first, last = seen["fisher.fi_v0.1"], seen["fisher.fi_v0.14"]
        mismatch = first.options["curve_mismatch"]
        assert abs(mismatch["value"]) < 3 * mismatch["stderr"] + 1e-3
        assert "curve_mismatch" not in last.options
        assert first.options["dtype"] == "float64"

    def test_a_wrong_model_is_flagged_in_every_row(self) -> None:
        x = standard_normal(2).sample(3000, torch.Generator().manual_seed(0))
        narrow = Gaussian(torch.zeros(2), 0.2 * torch.eye(2))
        for at in measure_fisher(x, from_oracle(narrow), (0.2,), seed=0, sigma_range=(1, 2)):
            assert "model-error: A - B is not 0" in at.flags
            assert "extrapolation: sigma outside the trained range" in at.flags

    def test_few_data_carry_no_bound(self) -> None:
        # 15 draws of a plane have a smaller variance than the plane in some direction
        wide = Gaussian(torch.zeros(2), 9 * torch.eye(2))
        x = standard_normal(2).sample(15, torch.Generator().manual_seed(0))
        flags = measure_fisher(x, from_oracle(wide), (0.2,), seed=0)[0].flags
        assert not any("Gaussian bound" in flag for flag in flags)

    def test_a_backbone_of_the_study(self) -> None:
        network = SiT(latent_channels=2, grid=(2, 2), num_classes=3, width=16, depth=1, heads=2)
        network.initialise(torch.Generator().manual_seed(0))
        x, labels = normal(30, 2, 2, 2).float(), torch.arange(30) % 3
        seen = measure_fisher(
            x, from_velocity(network.eval()), (0.5, 1.0), seed=0, labels=labels, probes=2
        )
        assert len(seen) == 20
        assert {m.options["dtype"] for m in seen} == {"float32"}
        # SiT starts at velocity 0: D = t y, G = t I
        t = 1 / (1 + 0.5**0.5)
        assert by_name(seen)["fisher.mmse_rate_v0.5"].value == pytest.approx(8 * t**2, rel=1e-5)

    @pytest.mark.parametrize("v", [(), (0.0, 1.0), (1.0, 0.5)])
    def test_levels_must_increase(self, v: tuple[float, ...]) -> None:
        with pytest.raises(MeasurementError, match="must be positive and increase"):
            measure_fisher(normal(5, 2), from_oracle(standard_normal(2)), v, seed=0)


class TestGaussianFit:
    def latents(self, count: int = 400) -> torch.Tensor:
        x = Gaussian(torch.ones(8), 3 * covariance(8)).sample(
            count, torch.Generator().manual_seed(1)
        )
        return x.view(count, 2, 2, 2)

    def test_raw_values_are_those_of_the_sample_covariance(self) -> None:
        latents, v = self.latents(), 0.3
        seen = by_name(measure_gaussian_fisher(latents, [v]))
        values = torch.linalg.eigvalsh(torch.cov(latents.flatten(1).T))
        exact = gaussian_information(values, v)
        for name, value in (
            ("fi", v * exact.fi / 8),
            ("fir", v**2 * exact.fir / 8),
            ("mmse_rate", exact.mmse_rate / 8),
        ):
            assert seen[f"fisher.gaussian_{name}_v0.3_raw"].value == pytest.approx(value, rel=1e-10)

    def test_scale_is_nothing_to_the_normalised_values(self) -> None:
        a, b = (by_name(measure_gaussian_fisher(c * self.latents(), [0.3])) for c in (1, 7))
        name = "fisher.gaussian_fir_v0.3"
        assert a[name].value == pytest.approx(b[name].value, rel=1e-10)
        assert a[f"{name}_raw"].value != pytest.approx(b[f"{name}_raw"].value, rel=0.1)

    def test_error_is_that_of_repeats(self) -> None:
        name = "fisher.gaussian_fi_v0.3_raw"
        many = self.latents(40 * 200).view(40, 200, 2, 2, 2)
        seen = [by_name(measure_gaussian_fisher(part, [0.3]))[name] for part in many]
        values = torch.tensor([m.value for m in seen])
        errors = torch.tensor([m.stderr for m in seen])
        assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.3)

    def test_classes_have_their_own_gaussians(self) -> None:
        a, b = self.latents(), 0.1 * self.latents() + 5
        latents, labels = torch.cat((a, b)), torch.arange(2).repeat_interleave(400)
        seen = by_name(measure_gaussian_fisher(latents, [0.3], labels=labels))
        alone = [by_name(measure_gaussian_fisher(x, [0.3])) for x in (a, b)]
        name = "fisher.gaussian_fir{}_v0.3_raw"
        mean = sum(x[name.format("")].value for x in alone) / 2
        assert seen[name.format("_conditional")].value == pytest.approx(mean, rel=1e-10)

    def test_few_images_are_flagged_and_their_empty_directions_counted(self) -> None:
        latents, labels = self.latents(6).repeat(2, 1, 1, 1), torch.arange(12) % 3
        conditional = by_name(measure_gaussian_fisher(latents, [1e-9], labels=labels, blocks=2))
        at = conditional["fisher.gaussian_fi_conditional_v1e-09_raw"]
        assert at.flags == ("rank-deficient",)
        # two distinct images a class: one direction with variance, seven without
        assert at.value == pytest.approx(7 / 8, rel=1e-4)

    def test_refusals(self) -> None:
        with pytest.raises(MeasurementError, match="two images a block"):
            measure_gaussian_fisher(self.latents(30), [0.3])
        with pytest.raises(MeasurementError, match="positive v"):
            measure_gaussian_fisher(self.latents(), [0.0])


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
