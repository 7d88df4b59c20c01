"""The Fisher perspective without training: closed forms, invariances, and what is refused."""

import json
import math

import pytest
import torch
from torch import Tensor

from diffusability.data.shapes import load_shapes
from diffusability.errors import MeasurementError
from diffusability.fisher.deviation import DEVIATIONS, Rate, fir_deviation
from diffusability.fisher.gaussian import Gaussian
from diffusability.fisher.information import log_weights
from diffusability.fisher.oracle import Product
from diffusability.fisher.sample_estimators import (
    ClassGaussians,
    empirical_gains,
    gaussian_gains,
    principal_coordinates,
    sample_spectra,
)
from diffusability.fisher.toy_oracles import activation_oracle
from diffusability.metrics import sample_fisher
from diffusability.metrics.fisher import measure_fisher
from diffusability.metrics.fisher_curves import PixelCurves, curve_deviations, shares
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.sample_fisher import ESTIMATORS, Sample, pixel_curves
from diffusability.metrics.strata import in_proportion, interleaved_blocks
from diffusability.scoring.table import is_unconditional
from diffusability.study.entries.pixel_dataset import ShapesDataset
from tests.oracles.closed_forms import gaussian_curve
from tests.oracles.distributions import GaussianMixture
from tests.unit.fisher_examples import covariance, isometry, mixture, normal

V = (0.1, 0.5, 2.0)
LEVELS = torch.tensor(V, dtype=torch.float64)


def classes(count: int) -> Tensor:
    return torch.arange(count) % 3


def curves(x: Tensor, labels: Tensor, blocks: int = 5) -> PixelCurves:
    chosen = torch.arange(len(x))
    return pixel_curves(x, chosen, labels, v=V, blocks=blocks, samples=64, seed=0)


def measured(
    x: Tensor, labels: Tensor, pixels: Tensor | None = None, blocks: int = 5
) -> dict[str, Measurement]:
    of_pixels = curves(x if pixels is None else pixels, labels, blocks)
    found, not_applicable = measure_fisher(x, labels, of_pixels, V, blocks=blocks, samples=64)
    assert all(name.endswith("_empirical") for name, _ in not_applicable)
    return {m.metric: m for m in found}


class TestIsotropic:
    """Independent unit normals: v FI / n = v/(1+v), v^2 FIR / n its square, rate 1/(1+v)^2."""

    seen = measured(normal(2000, 2, 2, 4), classes(2000))

    @pytest.mark.parametrize(
        "ending", ["", "_unconditional", "_gaussian", "_zscored", "_unconditional_zscored"]
    )
    @pytest.mark.parametrize("v", V)
    def test_closed_form(self, ending: str, v: float) -> None:
        share = v / (1 + v)
        exact = {"fi": share, "fir": share**2, "mmse_rate": (1 - share) ** 2}
        for name, value in exact.items():
            at = self.seen[f"fisher.curve_{name}{ending}_v{v:g}"]
            assert at.stderr is not None
            assert abs(at.value - value) < 3 * at.stderr + 0.01 * value
            power = {"fi": 1, "fir": 2, "mmse_rate": 0}[name]
            assert at.options["total"] == pytest.approx(at.value * 16 / v**power)
            assert at.stderr < 0.02 * value

    def test_classes_that_are_one_distribution_are_no_deviation(self) -> None:
        for name in DEVIATIONS:
            for ending in ("", "_unconditional", "_gaussian", "_empirical", "_raw", "_zscored"):
                assert self.seen[f"fisher.{name}{ending}"].value == pytest.approx(0, abs=1e-9)
            assert self.seen[f"fisher.{name}_empirical"].options["v"] == [2.0]  # not loose there
            assert self.seen[f"fisher.{name}"].stderr == pytest.approx(0, abs=1e-9)

    def test_scalars_are_means_over_log_v(self) -> None:
        weights = log_weights(V)
        for name in ("fir", "mmse_rate_deviation", "fi_unconditional"):
            values = [self.seen[f"fisher.curve_{name}_v{v:g}"].value for v in V]
            mean = sum(w * value for w, value in zip(weights, values, strict=True))
            assert self.seen[f"fisher.{name}"].value == pytest.approx(mean, rel=1e-12, abs=1e-15)

    def test_directions(self) -> None:
        assert self.seen["fisher.fi"].higher_is_better is None
        assert self.seen["fisher.fir"].higher_is_better is False
        assert self.seen["fisher.fir_deviation_scaled"].higher_is_better is False


def haar(x: Tensor) -> Tensor:
    """Return one orthonormal Haar step of (N, 1, 4, 4) images: (N, 4, 2, 2)."""
    a, b, c, d = x[:, 0, ::2, ::2], x[:, 0, ::2, 1::2], x[:, 0, 1::2, ::2], x[:, 0, 1::2, 1::2]
    return torch.stack((a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d), dim=1) / 2


IMAGES = (normal(240, 3) @ normal(3, 16, seed=1)).tanh().view(240, 1, 4, 4) + 0.1 * normal(
    240, 1, 4, 4, seed=2
)
PLANE = (normal(240, 5, seed=3) @ isometry(16, 5).T).view(240, 1, 4, 4)
SHUFFLE = torch.randperm(16, generator=torch.Generator().manual_seed(0))
ISOMETRIES = {
    "permuted pixels": IMAGES.flatten(1)[:, SHUFFLE].view(240, 1, 4, 4),
    "rotated": (IMAGES.flatten(1) @ isometry(16, 16, seed=4)).view(240, 4, 2, 2),
    "haar": haar(IMAGES),
    "embedded": (IMAGES.flatten(1) @ isometry(36, 16, seed=5).T).view(240, 1, 6, 6) + 3.0,
    "scaled": 7 * IMAGES,
}


class TestInvariance:
    @pytest.mark.parametrize("name", ISOMETRIES)
    def test_an_isometry_times_a_number_is_no_deviation_of_the_geometry(self, name: str) -> None:
        seen = measured(ISOMETRIES[name], classes(240), IMAGES)
        dims = ISOMETRIES[name][0].numel() - 16
        for ending in ESTIMATORS:
            rate = seen[f"fisher.mmse_rate_deviation{ending}"].value
            assert rate == pytest.approx(0, abs=1e-9)
            for v in V if ending in ("", "_unconditional") else ():
                at = seen[f"fisher.curve_fir_deviation_scaled{ending}_v{v:g}"].value
                assert at == pytest.approx(dims / 16, abs=1e-9)  # Lemma B.1
        raw = seen["fisher.mmse_rate_deviation_unconditional_raw"].value
        assert (raw < 1e-9) == (name != "scaled")

    def test_z_scores_do_not_keep_isometries(self) -> None:
        seen = measured(ISOMETRIES["haar"], classes(240), IMAGES)
        assert seen["fisher.mmse_rate_deviation_zscored"].value > 0.01

    def test_fewer_dimensions_that_hold_everything_are_no_deviation(self) -> None:
        flat = (PLANE.flatten(1) @ isometry(16, 5)).view(240, 5, 1, 1)
        seen = measured(flat, classes(240), PLANE)
        for ending in ("", "_unconditional", "_gaussian"):
            assert seen[f"fisher.mmse_rate_deviation{ending}"].value == pytest.approx(0, abs=1e-9)
        atoms = [
            Sample(x, torch.arange(240), classes(240), blocks=5, samples=64, seed=0).curves(
                LEVELS.expand(6, -1), ["_empirical"]
            )
            for x in (flat, PLANE)
        ]
        gains = [curve.gains["_empirical"] for curve in atoms]
        assert torch.allclose(*gains, rtol=1e-6, atol=1e-9)
        for v in V:
            at = seen[f"fisher.curve_fir_deviation_scaled_v{v:g}"].value
            assert at == pytest.approx((16 - 5) / 16, abs=1e-9)

    def test_what_a_projection_leaves_out_has_its_closed_form(self) -> None:
        values = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.3, 0.2], dtype=torch.float64)
        x = Gaussian(torch.zeros(6), torch.diag(values)).sample(2000, torch.Generator())
        seen = measured(x[:, :3].reshape(-1, 3, 1, 1), classes(2000), x.view(-1, 6, 1, 1))
        for scale, stretch in (("", 8 / 7), ("_raw", 1.0)):
            level = LEVELS * 8 / 6
            whole, part = (
                gaussian_curve(e, level.tolist()) for e in (values, stretch * values[:3])
            )
            exact = 1 - 3 * part[:, 2] / (6 * whole[:, 2])
            weights = torch.tensor(log_weights(V), dtype=torch.float64)
            at = seen[f"fisher.mmse_rate_deviation_gaussian{scale}"] if not scale else None
            at = at or seen[f"fisher.mmse_rate_deviation{scale}"]
            assert at.value == pytest.approx(float(weights @ exact.abs()), abs=0.02)


class TestGaussian:
    @pytest.mark.parametrize(("n", "count"), [(16, 40), (64, 100), (256, 200)])
    def test_a_sample_gives_the_gains_of_its_distribution(self, n: int, count: int) -> None:
        values = torch.arange(1, n + 1, dtype=torch.float64) ** -1.5
        values *= n / values.sum()
        x = normal(count, n) * values.sqrt()
        spectra, degrees = sample_spectra(principal_coordinates(x), classes(count), 3)
        gains, small = gaussian_gains(spectra, degrees, LEVELS.expand(4, -1))
        share = values / (values + LEVELS[:, None])
        exact = torch.stack((share.sum(1), share.square().sum(1)), dim=1)
        assert torch.allclose(gains[0], exact, rtol=0.06)
        naive = spectra[0] / (spectra[0] + LEVELS[:, None])
        worst = (1 - naive.sum(1) / exact[:, 0]).abs().max()
        assert worst > 2 * (1 - gains[0, :, 0] / exact[:, 0]).abs().max()
        assert not bool(small[0].any())

    def test_the_square_is_the_derivative_of_the_trace(self) -> None:
        spectra, degrees = sample_spectra(principal_coordinates(normal(60, 20)), classes(60), 2)
        step = 1e-5
        at, _ = gaussian_gains(spectra, degrees, LEVELS.expand(3, -1))
        near, _ = gaussian_gains(spectra, degrees, (LEVELS * (1 + step)).expand(3, -1))
        slope = (near[..., 0] - at[..., 0]) / step  # v d tr G / dv
        assert torch.allclose(at[..., 1], at[..., 0] + slope, rtol=1e-3)

    def test_more_directions_than_images_can_tell_are_flagged(self) -> None:
        seen = measured(normal(30, 4, 4, 4), classes(30), blocks=2)
        assert seen["fisher.fir"].flags == ("data-limited: a bound at v <= 2",)
        few = measured(normal(180, 4, 4, 4), classes(180))
        small, large = (few[f"fisher.curve_fir_v{v}"].flags for v in ("0.1", "2"))
        assert small
        assert not large  # only the noise variances that are too small are flagged
        assert (
            seen["fisher.fir"].value
            > measured(normal(3000, 4, 4, 4), classes(3000))["fisher.fir"].value
        )
        with pytest.raises(MeasurementError, match="a class of 2 images"):
            measured(normal(6, 4, 2, 2), classes(6))

    def test_leaving_a_block_out_is_leaving_its_images_out(self) -> None:
        x, labels = normal(60, 2, 2, 2) + classes(60)[:, None, None, None], classes(60)
        found, block = curves(x, labels).scaled, interleaved_blocks(labels, 5)
        for b in (0, 3):
            rest = block != b
            alone = curves(x[rest], labels[rest]).scaled
            for name in ("", "_gaussian"):
                assert torch.allclose(found.gains[name][1 + b], alone.gains[name][0], rtol=1e-9)

    def test_order_of_images_counts_for_errors_and_draws_alone(self) -> None:
        x, labels = normal(90, 2, 2, 2), classes(90)
        order = torch.randperm(90, generator=torch.Generator().manual_seed(1))
        a, b = measured(x, labels), measured(x[order], labels[order])
        for name in ("fisher.fi", "fisher.fir", "fisher.mmse_rate_gaussian", "fisher.fi_zscored"):
            assert a[name].value == pytest.approx(b[name].value, rel=1e-9)

    def test_json_keeps_every_digit(self) -> None:
        found = curves(normal(30, 1, 2, 2), classes(30))
        back = PixelCurves.from_json(json.loads(json.dumps(found.to_json())))
        for name in ESTIMATORS:
            assert torch.equal(back.scaled.gains[name], found.scaled.gains[name])
        assert torch.equal(back.sizes, found.sizes)
        assert (back.dim, back.variance, back.v) == (found.dim, found.variance, found.v)

    def test_coordinates_keep_distances(self) -> None:
        for shape in ((40, 5), (5, 40)):
            x = normal(*shape)
            points = principal_coordinates(x)
            assert torch.allclose(torch.cdist(points, points), torch.cdist(x, x), atol=1e-6)
            assert torch.allclose(points.T @ points, torch.diag(points.square().sum(0)), atol=1e-9)


class TestMixture:
    @pytest.mark.parametrize("distance", [0.5, 2.0])
    def test_quadrature(self, distance: float) -> None:
        covariances = torch.stack([covariance(2, seed=k) for k in range(3)])
        values, vectors = torch.linalg.eigh(covariances)
        means = distance * normal(3, 2, seed=7)
        oracle = GaussianMixture(torch.ones(3), means, covariances)
        generator = torch.Generator().manual_seed(0)
        mixed = ClassGaussians(means, values, vectors)
        draws = mixed.overlap(LEVELS, mixed.draw(8000, generator))
        alone = values[:, None] / (values[:, None] + LEVELS[:, None])  # (K, V, 2)
        alone = torch.stack((alone.sum(-1), alone.square().sum(-1)), dim=-1).mean(0)
        for i, v in enumerate(V):
            at = oracle.information(v)
            exact = torch.tensor([2 - v * at.fi, at.mmse_rate], dtype=torch.float64)
            error = draws[:, i].std(dim=0) / 8000**0.5
            gap = (alone[i] + draws[:, i].mean(dim=0) - exact).abs()
            assert bool((gap < 3 * error + 1e-6).all())
            assert bool((draws[:, i, 0] >= 0).all())  # not knowing the class lowers FI

    def test_classes_apart_add_nothing(self) -> None:
        x = normal(300, 2) + 1e4 * classes(300)[:, None]
        mixed = ClassGaussians.of(x, classes(300))
        draws = mixed.draw(50, torch.Generator())
        assert float(mixed.overlap(LEVELS, draws).abs().max()) < 1e-12

    def test_classes_of_two_images_have_the_covariance_of_all(self) -> None:
        x = normal(60, 4)
        few = ClassGaussians.of(x, torch.arange(60) // 2)
        centred = x.view(30, 2, 4) - x.view(30, 2, 4).mean(1, keepdim=True)
        within = torch.einsum("kbi,kbj->ij", centred, centred) / 30
        mean = (few.vectors * few.values[:, None] @ few.vectors.mT).mean(0)
        assert float((mean - within).norm() / within.norm()) < 0.5

    def test_a_sample_of_a_mixture_has_its_curves(self) -> None:
        oracle = mixture(3)
        even = GaussianMixture(
            torch.ones(3), oracle.means, oracle.vectors * oracle.values[:, None] @ oracle.vectors.mT
        )
        x = even.sample(900, torch.Generator().manual_seed(0))
        labels = even.responsibilities(x, 1e-6).argmax(dim=1)
        sample = Sample(
            x.view(-1, 3, 1, 1), torch.arange(900), labels, blocks=2, samples=500, seed=0
        )
        found = shares(sample.curves(LEVELS.expand(3, -1)).gains["_unconditional"], 3)
        for i, v in enumerate(V):
            at = even.information(v)
            assert float(found[0, i, 0]) == pytest.approx(v * at.fi / 3, abs=0.03)
            assert float(found[0, i, 1]) == pytest.approx(v**2 * at.fir / 3, abs=0.04)

    def test_equal_classes_add_only_the_error_of_their_means(self) -> None:
        """All classes are one Gaussian: knowing them tells nothing, and the mixture is it."""
        x, labels = normal(2000, 16, 1, 1), torch.arange(2000)
        for per_class in (100, 20):
            found = {m.metric: m for m in measure_fisher(x, labels % (2000 // per_class))[0]}
            lost = 0.5 - found["fisher.curve_fi_unconditional_v1"].value
            assert 0 < lost < 0.35 / per_class + 0.003

    @pytest.mark.parametrize("pixels", [False, True])
    def test_too_many_classes_for_the_images_have_no_mixture(self, pixels: bool) -> None:
        x, labels = normal(900, 4, 1, 1), torch.arange(900) % 100
        space = curves(x, labels, 10) if pixels else None
        found, without = measure_fisher(x, labels, space, V, blocks=10)
        assert not [m.metric for m in found if "_unconditional" in m.metric]
        reasons = {name: reason for name, reason in without if "_unconditional" in name}
        assert "fisher.fir_unconditional" in reasons
        assert "fisher.fir_deviation_scaled_unconditional" in reasons
        assert "fewer than 10" in reasons["fisher.fi_unconditional"]
        others = {"fisher.fi", "fisher.fi_gaussian", "fisher.fi_empirical"}
        assert others <= {m.metric for m in found}

    def test_what_classes_overlap_is_fitted_without_each_block_too(self) -> None:
        labels, blocks = classes(300), interleaved_blocks(classes(300), 5)
        x = normal(3, 2, seed=1)[labels] + normal(300, 2)
        sample = Sample(
            x.view(-1, 2, 1, 1), torch.arange(300), labels, blocks=5, samples=40, seed=3
        )
        levels = LEVELS * torch.arange(1, 7)[:, None]  # (1 + B, V)
        gains = sample.curves(levels).gains
        points = principal_coordinates(x)
        generator = torch.Generator().manual_seed(3)
        draws = ClassGaussians.of(points, labels).draw(40, generator)
        for b in (0, 4):
            rest = blocks != b
            overlap = ClassGaussians.of(points[rest], labels[rest]).overlap(levels[1 + b], draws)
            alone = gains["_unconditional"][1 + b] - overlap[torch.arange(40) % 5 != b].mean(0)
            assert torch.allclose(alone, gains[""][1 + b], rtol=1e-9)


class TestEmpirical:
    def test_the_bounds_hold_a_distribution_of_any_shape(self) -> None:
        oracle = Product([activation_oracle("relu")] * 2)
        x = principal_coordinates(oracle.sample(1200, torch.Generator().manual_seed(0)))
        at = empirical_gains(x, LEVELS, torch.arange(1200), torch.Generator().manual_seed(1))
        for i, v in enumerate(V):
            exact = oracle.information(v)
            trace = 2 - v * exact.fi
            least, most = at.gains[:, i, 0], at.most[:, i]
            assert float(least.mean()) < trace + 3 * float(least.std()) / 1200**0.5
            assert float(most.mean()) > trace - 3 * float(most.std()) / 1200**0.5
            assert float(at.gains[:, i, 1].mean()) == pytest.approx(exact.mmse_rate, abs=0.08)
            # one Gaussian misses most of what the kink does
            gap = (
                gaussian_curve(torch.linalg.eigvalsh(torch.cov(x.T)), (v,))[0, 0] * 2 - v * exact.fi
            )
            if v == 0.1:
                assert abs(float(gap)) > 5 * abs(float(least.mean()) - trace)

    def test_the_covariance_is_that_of_the_weights(self) -> None:
        x, v = principal_coordinates(normal(30, 3)), 0.4
        generator = torch.Generator().manual_seed(0)
        at = empirical_gains(x, torch.tensor([v]), torch.arange(30), generator)
        z = torch.randn(3, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64).T
        for i in (0, 17):
            w = (-(x[i] + v**0.5 * z[i] - x).square().sum(1) / (2 * v)).softmax(0)
            inner = (x - w @ x).T * w @ (x - w @ x) / v
            assert float(at.gains[i, 0, 0]) == pytest.approx(float(inner.trace()), rel=1e-6)
            assert float(at.gains[i, 0, 1]) == pytest.approx(float(inner.square().sum()), rel=1e-6)

    def test_noise_is_added_to_images_of_every_class_whatever_their_order(self) -> None:
        labels = torch.arange(1100) % 10
        # classes that every eighth image is of are narrow, the others wide
        x = normal(1100, 2, 1, 1) * torch.where(labels % 2 == 0, 0.1, 2.0).view(-1, 1, 1, 1)
        by_class = labels.argsort(stable=True)
        found = [measured(x[order], labels[order]) for order in (torch.arange(1100), by_class)]
        for name in ("fi", "mmse_rate"):
            cyclic, sorted_ = (seen[f"fisher.{name}_empirical"] for seen in found)
            error = math.hypot(cyclic.stderr or 0, sorted_.stderr or 0)
            assert abs(cyclic.value - sorted_.value) < 4 * error
            assert error < 0.05

    def test_bounds_far_apart_are_flagged(self) -> None:
        seen = measured(normal(60, 4, 2, 2), classes(60))
        assert seen["fisher.fir_empirical"].flags == ("loose: bounds of v FI / n differ at v <= 2",)
        at = seen["fisher.curve_fi_empirical_v0.5"]
        assert at.options["fi_at_least"] < 1 / 3 < at.options["fi_at_most"] == at.value


class TestDeviation:
    def test_readings_are_those_of_the_definition(self) -> None:
        pixel, latent = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0)).double()
        found = curve_deviations(pixel, latent, 30, 8)
        for row, (a, b) in zip(found, zip(pixel, latent, strict=True), strict=True):
            v = 0.3
            at = fir_deviation(Rate(30 * a[1] / v**2, 30), Rate(8 * b[1] / v**2, 8), v, 2)
            wanted = [at.relative.value, at.scaled.value, at.per_dimension.value]
            assert row[1:4].tolist() == pytest.approx([float(w) for w in wanted], rel=1e-9)
            assert float(row[0]) == pytest.approx(abs(1 - float(b[0] / a[0])))
            assert float(row[4]) == pytest.approx(abs(1 - float(8 * b[2] / (30 * a[2]))))

    def test_images_themselves_deviate_by_nothing_but_rounding(self) -> None:
        data = load_shapes(ShapesDataset(kind="shapes", size=16, train=40, val=20))
        chosen = data.split("all")
        labels, images = data.labels[chosen] % 3, data.images[chosen]
        pixels = pixel_curves(data.images, chosen, labels, v=V, blocks=3, samples=32, seed=0)
        found, not_applicable = measure_fisher(
            images.float() / 127.5 - 1, labels, pixels, V, blocks=3, samples=32
        )
        seen = {m.metric: m.value for m in found}
        endings = ("", "_unconditional", "_gaussian", "_raw", "_zscored")
        assert max(seen[f"fisher.{name}{e}"] for name in DEVIATIONS for e in endings) < 1e-5
        assert all(name.endswith("_empirical") for name, _ in not_applicable)

    def test_errors_are_those_of_repeats(self) -> None:
        root = normal(4, 4, seed=3)
        # deviations far from 0, where the absolute value does not fold them
        names = ("fisher.fir_deviation_scaled", "fisher.fir", "fisher.fi_unconditional")
        repeats = []
        for seed in range(20):
            pixels = (normal(300, 4, seed=seed) @ root).view(300, 1, 2, 2)
            latents = pixels.flatten(1)[:, :2].view(300, 2, 1, 1) + 0.3 * normal(
                300, 2, 1, 1, seed=1099 + seed
            )
            repeats.append(measured(latents, classes(300), pixels))
        for name in names:
            values = torch.tensor([r[name].value for r in repeats])
            errors = torch.tensor([r[name].stderr for r in repeats])
            assert float(errors.square().mean().sqrt()) == pytest.approx(
                float(values.std()), rel=0.4
            )


class TestSubset:
    @pytest.mark.parametrize(
        "sizes",
        [[100, 100, 100], [270, 30], [1, 5, 94], [3] * 50],
        ids=lambda sizes: str(sizes[:3]),
    )
    @pytest.mark.parametrize("drawn", [False, True])
    def test_every_class_has_its_share(self, sizes: list[int], drawn: bool) -> None:
        labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
        generator = torch.Generator().manual_seed(1) if drawn else None
        chosen = in_proportion(labels, 60, generator)
        assert len(chosen.unique()) == 60
        counts = torch.bincount(labels[chosen], minlength=len(sizes))
        assert float((counts - 60 * torch.tensor(sizes) / len(labels)).abs().max()) <= 1
        assert torch.equal(in_proportion(labels, 1000, generator), torch.arange(len(labels)))

    def test_draws_do_not_depend_on_the_order_of_images(self) -> None:
        labels, times = torch.arange(100) % 10, torch.zeros(100)
        for seed in range(400):
            times[in_proportion(labels, 13, torch.Generator().manual_seed(seed))] += 1
        assert float((times / 400 - 0.13).abs().max()) < 0.08  # 4.5 binomial deviations

    def test_more_images_than_are_compared_have_the_curves_of_all(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        labels = (torch.arange(3000) % 10 == 0).long()  # 90 % and 10 %
        x = normal(3000, 4, 1, 1) * torch.tensor([0.2, 1.0])[labels].view(-1, 1, 1, 1)
        monkeypatch.setattr(sample_fisher, "IMAGES", 3000)
        whole = {m.metric: m for m in measure_fisher(x, labels)[0]}
        monkeypatch.setattr(sample_fisher, "IMAGES", 600)
        monkeypatch.setattr(sample_fisher, "_EMPIRICAL_IMAGES", 300)
        part = {m.metric: m for m in measure_fisher(x, labels)[0]}
        for name in ("fi", "fir", "mmse_rate"):
            for ending in ("", "_unconditional", "_gaussian"):
                known, found = whole[f"fisher.{name}{ending}"], part[f"fisher.{name}{ending}"]
                assert found.value == pytest.approx(known.value, abs=0.01)
        at = Sample(x, torch.arange(3000), labels, blocks=5, samples=8, seed=0)
        assert float(at.variance[0]) == pytest.approx(float(x.var(0, correction=0).sum()))
        rest = x[interleaved_blocks(labels, 5) != 2]
        assert float(at.variance[3]) == pytest.approx(float(rest.var(0, correction=0).sum()))

    @pytest.mark.parametrize("images", [300, 500])
    def test_classes_of_one_or_two_compared_images_are_in_all_blocks(
        self, images: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        labels = torch.arange(3000) % 300
        x = normal(3000, 5, 1, 1)
        errors = []
        for most, count in ((images, 300), (images, 10), (3000, 10)):
            monkeypatch.setattr(sample_fisher, "IMAGES", most)
            monkeypatch.setattr(sample_fisher, "_EMPIRICAL_IMAGES", most)
            seen = {m.metric: m for m in measure_fisher(x, labels % count, v=(1.0,))[0]}
            errors.append(seen["fisher.fi_gaussian"].stderr)
        many, few, whole = errors
        assert 0.5 * few < many < 2 * few
        assert whole < few


def test_weights_of_a_mean_over_log_v() -> None:
    weights = log_weights((0.1, 1.0, 100.0))
    assert weights == pytest.approx([1 / 6, 1 / 2, 1 / 3])
    assert log_weights((0.3,)) == [1.0]


def test_curves_of_other_images_are_refused() -> None:
    x, labels = normal(60, 2, 2, 2), classes(60)
    for pixels in (curves(x[:57], labels[:57]), curves(x, labels, 4)):
        with pytest.raises(MeasurementError, match="are of other images"):
            measure_fisher(x, labels, pixels, V, blocks=5)
    with pytest.raises(MeasurementError, match="must be positive and increase"):
        measure_fisher(x, labels, curves(x, labels), (1.0, 0.5))
    with pytest.raises(MeasurementError, match="60 equal images"):
        curves(torch.zeros(60, 1, 2, 2), labels)


def test_latents_alone_are_enough() -> None:
    x = normal(60, 2, 2, 2)
    found, without = measure_fisher(x)
    seen = {m.metric: m for m in found}
    assert {f"fisher.{name}" for name in DEVIATIONS} <= {name for name, _ in without}
    assert {reason for _, reason in without} == {"there are no images to compare with"}
    for name in ("fi", "fir", "mmse_rate"):
        one = seen[f"fisher.{name}_gaussian"].value
        assert seen[f"fisher.{name}"].value == pytest.approx(one)  # one class
        assert seen[f"fisher.{name}_unconditional"].value == pytest.approx(one)
        assert math.isfinite(seen[f"fisher.{name}_empirical"].value)
        for ending in ESTIMATORS:
            assert is_unconditional(seen[f"fisher.{name}{ending}"].to_json()) == (ending == "")
        assert is_unconditional(seen[f"fisher.{name}_zscored"].to_json())
        assert is_unconditional(seen[f"fisher.curve_{name}_v0.1"].to_json())
    of_pixels = curves(x, torch.zeros(60, dtype=torch.int64))
    for labels, flagged in ((None, True), (classes(60), False)):
        pixels = of_pixels if flagged else curves(x, labels)
        rows = measure_fisher(x, labels, pixels, V, blocks=5)[0]
        assert flagged == any(is_unconditional(m.to_json()) for m in rows)
        deviation = next(m for m in rows if m.metric == "fisher.fir_deviation_scaled_raw")
        assert is_unconditional(deviation.to_json()) == flagged
