"""The Fisher perspective without training: closed forms, re-statements, and what is refused."""

import json
import math

import pytest
import torch
from torch import Tensor

from diffusability.data.shapes import load_shapes
from diffusability.errors import MeasurementError
from diffusability.fisher.deviation import DEVIATIONS, Rate, fir_deviation
from diffusability.fisher.gaussian import Gaussian, gaussian_curve, gaussian_information
from diffusability.fisher.information import log_weights
from diffusability.metrics.cosine_transform import cosine_transform
from diffusability.metrics.fisher import measure_fisher
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.mixture_fisher import overlap_samples
from diffusability.metrics.mixture_velocity import KroneckerMixture
from diffusability.metrics.stationary_fisher import (
    StationaryCurves,
    curve_deviations,
    interleaved_blocks,
    stationary_curves,
)
from diffusability.study.dataset import ShapesDataset
from tests.oracles.distributions import GaussianMixture
from tests.unit.fisher_examples import covariance, normal

V = (0.1, 0.5, 2.0)


def classes(count: int) -> Tensor:
    return torch.arange(count) % 3


def curves(x: Tensor, labels: Tensor, blocks: int = 5) -> StationaryCurves:
    return stationary_curves(x, torch.arange(len(x)), labels, v=V, blocks=blocks)


def measured(
    x: Tensor, labels: Tensor, pixels: Tensor | None = None, blocks: int = 5
) -> dict[str, Measurement]:
    of_pixels = curves(x if pixels is None else pixels, labels, blocks)
    generator = torch.Generator().manual_seed(0)
    found, not_applicable = measure_fisher(
        x, labels, of_pixels, V, generator=generator, blocks=blocks, samples=64
    )
    assert not not_applicable
    return {m.metric: m for m in found}


def small_mixture(distance: float) -> KroneckerMixture:
    """Return three classes of 2 x 1 dimensions, `distance` apart in units of their spread."""
    rows = torch.stack([covariance(2, seed=k) for k in range(3)])
    values, vectors = torch.linalg.eigh(rows)
    ones = torch.ones(3, 1, 1, dtype=torch.float64)
    return KroneckerMixture(
        distance * normal(3, 2, 1, seed=7), values, vectors, ones[:, :, 0], ones
    )


class TestIsotropic:
    """Independent unit normals: v FI / n = v/(1+v), v^2 FIR / n its square, rate 1/(1+v)^2."""

    x = normal(6000, 2, 2, 4)
    seen = measured(x, classes(6000))

    @pytest.mark.parametrize("ending", ["", "_unconditional", "_dct", "_unconditional_dct"])
    @pytest.mark.parametrize("v", V)
    def test_closed_form(self, ending: str, v: float) -> None:
        share = v / (1 + v)
        exact = {"fi": share, "fir": share**2, "mmse_rate": (1 - share) ** 2}
        for name, value in exact.items():
            at = self.seen[f"fisher.curve_{name}{ending}_v{v:g}"]
            assert at.stderr is not None
            # eigenvalues of a sample of 2000 spread, which biases a mean over 16 dimensions
            assert abs(at.value - value) < 3 * at.stderr + 0.01 * value
            power = {"fi": 1, "fir": 2, "mmse_rate": 0}[name]
            assert at.options["total"] == pytest.approx(at.value * 16 / v**power)
            assert at.stderr < 0.02 * value

    def test_classes_that_are_one_distribution_are_no_deviation(self) -> None:
        for name in DEVIATIONS:
            assert self.seen[f"fisher.{name}"].value == 0
            assert self.seen[f"fisher.{name}_unconditional"].value == 0
            assert self.seen[f"fisher.{name}"].stderr == 0

    def test_scalars_are_means_over_log_v(self) -> None:
        weights = log_weights(V)
        for name in ("fir", "mmse_rate_deviation", "fi_unconditional"):
            values = [self.seen[f"fisher.curve_{name}_v{v:g}"].value for v in V]
            mean = sum(w * value for w, value in zip(weights, values, strict=True))
            assert self.seen[f"fisher.{name}"].value == pytest.approx(mean, rel=1e-12)

    def test_directions(self) -> None:
        assert self.seen["fisher.fi"].higher_is_better is None
        assert self.seen["fisher.fir"].higher_is_better is False
        assert self.seen["fisher.fir_deviation_scaled"].higher_is_better is False


class TestStationary:
    def test_values_are_those_of_the_covariances_of_each_frequency(self) -> None:
        x, labels = normal(60, 2, 2, 2) * torch.tensor([1.0, 3.0])[:, None, None] + 5, classes(60)
        found = curves(x, labels)
        std = x.permute(1, 0, 2, 3).flatten(1).std(1)
        spectra = cosine_transform(x / std[:, None, None]).flatten(2)  # (N, C, S)
        for k, row in enumerate([found.unconditional[0], None]):
            wanted = torch.zeros(len(V), 3, dtype=torch.float64)
            groups = [spectra] if k == 0 else [spectra[labels == c] for c in range(3)]
            for group in groups:
                values = torch.cat(
                    [
                        torch.linalg.eigvalsh(torch.cov(group[:, :, s].T, correction=0))
                        for s in range(4)
                    ]
                )
                for i, v in enumerate(V):
                    at = gaussian_information(values, v)
                    pure = (
                        torch.tensor([v * at.fi, v**2 * at.fir, at.mmse_rate], dtype=torch.float64)
                        / 8
                    )
                    wanted[i] += pure / len(groups)
            row = found.conditional[0] if row is None else row
            assert torch.allclose(row, wanted, rtol=1e-9)

    def test_leaving_a_block_out_is_leaving_its_images_out(self) -> None:
        x, labels = normal(60, 2, 2, 2) + classes(60)[:, None, None, None], classes(60)
        found, block = curves(x, labels), interleaved_blocks(labels, 5)
        for b in (0, 3):
            rest = block != b
            alone = curves(x[rest], labels[rest])
            assert torch.allclose(found.conditional[1 + b], alone.conditional[0], rtol=1e-9)
            assert torch.allclose(found.unconditional[1 + b], alone.unconditional[0], rtol=1e-9)

    def test_order_of_images_counts_for_errors_alone(self) -> None:
        x, labels = normal(90, 2, 2, 2), classes(90)
        order = torch.randperm(90, generator=torch.Generator().manual_seed(1))
        a, b = measured(x, labels), measured(x[order], labels[order])
        for name in a:
            assert a[name].value == pytest.approx(b[name].value, rel=1e-9, abs=1e-12)

    def test_fi_and_fir_are_bounds_of_the_full_covariance(self) -> None:
        x = Gaussian(torch.zeros(8), covariance(8)).sample(400, torch.Generator().manual_seed(0))
        found = curves(x.view(400, 2, 2, 2), torch.zeros(400, dtype=torch.int64))
        std = x.view(400, 2, 4).permute(1, 0, 2).flatten(1).std(1)
        whole = torch.cov((x.view(400, 2, 4) / std[:, None]).flatten(1).T, correction=0)
        full = gaussian_curve(torch.linalg.eigvalsh(whole), V)
        assert bool((found.unconditional[0, :, :2] < full[:, :2]).all())

    def test_json_keeps_every_digit(self) -> None:
        found = curves(normal(30, 1, 2, 2), classes(30))
        back = StationaryCurves.from_json(json.loads(json.dumps(found.to_json())))
        assert torch.equal(back.conditional, found.conditional)
        assert torch.equal(back.unconditional, found.unconditional)
        assert torch.equal(back.sizes, found.sizes)
        assert (back.dim, back.flags) == (found.dim, found.flags)

    def test_few_images_are_flagged(self) -> None:
        few = curves(normal(12, 4, 2, 2), classes(12))
        assert few.flags[0].startswith("rank-deficient")
        assert few.sizes.tolist() == [3, 3, 3, 3]  # five blocks were asked for
        with pytest.raises(MeasurementError, match="a class of 2 images"):
            curves(normal(6, 4, 2, 2), classes(6))


class TestMixture:
    @pytest.mark.parametrize("distance", [0.5, 2.0])
    def test_quadrature(self, distance: float) -> None:
        mixture = small_mixture(distance)
        covariances = mixture.row_vectors * mixture.row_values[:, None] @ mixture.row_vectors.mT
        oracle = GaussianMixture(torch.ones(3), mixture.means[:, :, 0], covariances)
        generator = torch.Generator().manual_seed(0)
        draws = overlap_samples(mixture, V, samples=8000, generator=generator)
        alone = gaussian_curve(mixture.row_values, V).mean(dim=0)  # (V, 3)
        for i, v in enumerate(V):
            at = oracle.information(v)
            exact = torch.tensor([v * at.fi, v**2 * at.fir, at.mmse_rate], dtype=torch.float64) / 2
            error = draws[:, i].std(dim=0) / 8000**0.5
            gap = (alone[i] + draws[:, i].mean(dim=0) - exact).abs()
            assert bool((gap < 3 * error + 1e-6).all())

    def test_classes_apart_add_nothing(self) -> None:
        generator = torch.Generator().manual_seed(0)
        far = overlap_samples(small_mixture(1e4), V, samples=50, generator=generator)
        assert float(far.abs().max()) < 1e-12

    def test_not_knowing_the_class_lowers_fi_to_no_less_than_a_gaussians(self) -> None:
        mixture, generator = small_mixture(1.0), torch.Generator().manual_seed(0)
        draws = overlap_samples(mixture, V, samples=2000, generator=generator)
        assert bool((draws[..., 0] <= 0).all())
        centred = mixture.means[:, :, 0] - mixture.means[:, :, 0].mean(0)
        within = mixture.row_vectors * mixture.row_values[:, None] @ mixture.row_vectors.mT
        total = within.mean(0) + centred.T @ centred / 3
        bound = gaussian_curve(torch.linalg.eigvalsh(total), V)
        value = gaussian_curve(mixture.row_values, V).mean(0) + draws.mean(0)
        error = draws.std(0) / 2000**0.5
        assert bool((value[:, :2] > bound[:, :2] - 3 * error[:, :2]).all())

    def test_two_samples_are_the_least(self) -> None:
        with pytest.raises(MeasurementError, match="two samples"):
            overlap_samples(small_mixture(1.0), V, samples=1, generator=torch.Generator())


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
        data = load_shapes(ShapesDataset(kind="shapes", size=16, train=20, val=10))
        chosen = data.split("all")
        labels, images = data.labels[chosen] % 3, data.images[chosen]
        pixels = stationary_curves(data.images, chosen, labels, v=V, blocks=3)
        found, not_applicable = measure_fisher(
            images.float() / 127.5 - 1,
            labels,
            pixels,
            V,
            generator=torch.Generator().manual_seed(0),
            blocks=3,
        )
        seen = {m.metric: m.value for m in found}
        assert max(seen[f"fisher.{name}"] for name in DEVIATIONS) < 1e-6
        # 256 positions and 3 channels: the Kronecker fit is declared, not attempted
        assert {name for name, _ in not_applicable} == {
            f"fisher.{name}{condition}"
            for name in ("fi", "fir", "mmse_rate")
            for condition in ("", "_unconditional")
        }
        assert "needs 89 images per class" in not_applicable[0][1]

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


def test_weights_of_a_mean_over_log_v() -> None:
    weights = log_weights((0.1, 1.0, 100.0))
    assert weights == pytest.approx([1 / 6, 1 / 2, 1 / 3])
    assert log_weights((0.3,)) == [1.0]


def test_curves_of_other_images_are_refused() -> None:
    x, labels = normal(60, 2, 2, 2), classes(60)
    for pixels in (curves(x[:57], labels[:57]), curves(x, labels, 4)):
        with pytest.raises(MeasurementError, match="are of other images"):
            measure_fisher(x, labels, pixels, V, generator=torch.Generator(), blocks=5)
    with pytest.raises(MeasurementError, match="must be positive and increase"):
        measure_fisher(x, labels, curves(x, labels), (1.0, 0.5), generator=torch.Generator())


def test_classes_too_small_to_leave_images_out_have_no_error() -> None:
    x, labels = normal(18, 2, 1, 2), classes(18)
    seen = measured(x, labels, blocks=2)
    assert seen["fisher.fir"].stderr is None
    assert "classes too small to leave images out: no standard error" in seen["fisher.fir"].flags
    assert math.isfinite(seen["fisher.fir_unconditional"].value)
