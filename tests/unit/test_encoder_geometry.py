"""Geometry of encoders: the distance-preserving loss, bi-Lipschitz constants, power spectra."""

import math

import pytest
import torch

from diffusability.errors import MeasurementError
from diffusability.fisher.spectrum import image_spectrum, spectral_slope, vector_spectrum
from diffusability.metrics.geometry import distance_quotients
from diffusability.tokenizers.geometry_preservation import geometry_preservation_loss
from tests.oracles.distributions import GaussianMixture, score_jacobian
from tests.unit.fisher_examples import FLOAT, isometry, mixture, normal


class TestGeometryPreservation:
    def test_rigid_motions_cost_nothing(self) -> None:
        x = normal(50, 8)
        moved = x @ isometry(12, 8).T + normal(12, seed=4)
        assert float(geometry_preservation_loss(x, moved)) < 1e-20
        assert float(geometry_preservation_loss(x.float(), moved.float())) < 1e-6

    @pytest.mark.parametrize(("scale", "loss"), [(0.9, 0.0376), (1.1, 0.0316)])
    def test_known_values_of_scalings(self, scale: float, loss: float) -> None:
        x = normal(400, 8)
        assert float(geometry_preservation_loss(x, scale * x)) == pytest.approx(loss, rel=0.05)

    def test_all_pairs_by_a_loop_and_in_any_order(self) -> None:
        x, z = normal(6, 3), normal(6, 2, seed=1)
        total = 0.0
        for i in range(6):
            for j in range(6):
                if i != j:
                    after, before = (z[i] - z[j]).square().sum(), (x[i] - x[j]).square().sum()
                    total += math.log((1 + after) / (1 + before)) ** 2
        loss = float(geometry_preservation_loss(x, z))
        assert loss == pytest.approx(total / 30, rel=1e-12)
        order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
        assert float(geometry_preservation_loss(x[order], z[order])) == pytest.approx(loss)

    def test_gradient_of_coinciding_latents_is_finite(self) -> None:
        z = torch.zeros(4, 2, dtype=FLOAT, requires_grad=True)
        geometry_preservation_loss(normal(4, 3), z).backward()
        assert bool(z.grad.isfinite().all())

    def test_no_pairs(self) -> None:
        with pytest.raises(MeasurementError, match="no pairs"):
            geometry_preservation_loss(normal(1, 3), normal(1, 3))


class TestDistanceQuotients:
    def test_a_linear_map_of_the_plane(self) -> None:
        x = normal(500, 2)
        matrix = isometry(2, 2) * torch.tensor([0.5, 1.5], dtype=FLOAT) @ isometry(2, 2, seed=1)
        quotients = distance_quotients(x, x @ matrix.T)
        assert len(quotients) == 500 * 499 // 2
        assert float(quotients.min()) == pytest.approx(0.5, abs=1e-2)
        assert float(quotients.max()) == pytest.approx(1.5, abs=1e-2)

    @pytest.mark.parametrize("seed", range(5))
    def test_never_outside_the_singular_values(self, seed: int) -> None:
        matrix = normal(7, 5, seed=seed)
        values = torch.linalg.svdvals(matrix)
        x = normal(60, 5, seed=seed + 10)
        quotients = distance_quotients(x, x @ matrix.T)
        assert float(quotients.min()) >= float(values.min()) - 1e-9
        assert float(quotients.max()) <= float(values.max()) + 1e-9

    def test_equal_data_have_no_quotient(self) -> None:
        x = torch.tensor([[0.0], [0.0], [1.0]], dtype=FLOAT)
        quotients = distance_quotients(x, torch.tensor([[0.0], [3.0], [0.0]], dtype=FLOAT))
        torch.testing.assert_close(
            quotients, torch.tensor([torch.nan, 0, 3], dtype=FLOAT), equal_nan=True
        )

    def test_other_numbers_of_latents_are_refused(self) -> None:
        with pytest.raises(MeasurementError, match="do not belong together"):
            distance_quotients(normal(3, 2), normal(4, 2))


class TestSpectrum:
    def test_white_noise_is_flat(self) -> None:
        _, power = image_spectrum(normal(400, 3, 32, 32))
        assert float((power - 1).abs().max()) < 0.03
        frequency, line = vector_spectrum(normal(20_000, 64))
        assert float((line - 1).abs().max()) < 0.05
        assert frequency.tolist() == pytest.approx([k / 64 for k in range(1, 33)])

    def natural(self) -> torch.Tensor:
        """Return 200 images whose amplitude falls as 1/f."""
        f = torch.fft.fftfreq(32, dtype=FLOAT)
        amplitude = 1 / torch.hypot(f[:, None], f[None]).clamp(min=1 / 32)
        return torch.fft.ifft2(torch.fft.fft2(normal(200, 1, 32, 32)) * amplitude).real

    def test_slope_is_that_of_the_field_and_falls_to_nothing_when_shuffled(self) -> None:
        images = self.natural()
        assert spectral_slope(*image_spectrum(images)) == pytest.approx(-2, abs=0.15)
        order = torch.randperm(1024, generator=torch.Generator().manual_seed(0))
        shuffled = images.flatten(1)[:, order].view_as(images)
        assert abs(spectral_slope(*image_spectrum(shuffled))) < 0.1

    def test_information_does_not_see_the_order(self) -> None:
        gmm, order = mixture(4), torch.tensor([2, 0, 3, 1])
        spread = gmm.vectors * gmm.values[:, None] @ gmm.vectors.mT
        shuffled = GaussianMixture(gmm.weights, gmm.means[:, order], spread[:, order][:, :, order])
        x = gmm.sample(200, torch.Generator().manual_seed(0))
        y = x + math.sqrt(0.2) * normal(200, 4)
        rows, mixed = score_jacobian(gmm, y, 0.2), score_jacobian(shuffled, y[:, order], 0.2)
        for one, other in zip(rows, mixed, strict=True):
            assert float(one.square().sum() - other.square().sum()) == pytest.approx(0, abs=1e-9)
        first, second = gmm.score(y, 0.2), shuffled.score(y[:, order], 0.2)
        torch.testing.assert_close(first.norm(dim=1), second.norm(dim=1), rtol=1e-9, atol=0)

    def test_a_sine_has_one_line(self) -> None:
        wave = torch.sin(2 * math.pi * 5 * torch.arange(40, dtype=FLOAT) / 40)
        _, power = vector_spectrum(wave[None])
        assert int(power.argmax()) == 4
        assert float(power[4]) == pytest.approx(
            20, rel=1e-9
        )  # variance 1, one of 40 lines and its mirror
        assert float(power.sum() - power[4]) < 1e-20

    def test_constants_are_refused(self) -> None:
        with pytest.raises(MeasurementError, match="constant image"):
            image_spectrum(torch.ones(2, 1, 4, 4))
