"""PSNR and SSIM by hand and against scikit-image; posterior noise and divergence."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.metrics.frechet import frechet_distance
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.reconstruction import (
    measure_posterior,
    measure_reconstruction,
    measure_reconstruction_frechet,
    psnr_per_image,
    ssim_per_image,
    ssim_window,
)


def images(*shape: int, seed: int) -> torch.Tensor:
    return torch.randint(
        0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def smooth(*shape: int, seed: int) -> torch.Tensor:
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.tanh(torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2) * 3)


def noisy(x: torch.Tensor, amount: float, seed: int) -> torch.Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return (x + amount * noise).clamp(-1, 1)


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    return ((x + 1) * 127.5).round().to(torch.uint8)


class TestPsnr:
    def test_by_hand(self) -> None:
        black = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
        other = black.clone()
        other[0] = 255
        other[1, 0, 0, 0] = 51  # MSE = 51^2 / 4, ratio 100
        torch.testing.assert_close(psnr_per_image(black, other), torch.tensor([0.0, 20.0]).double())

    def test_the_range_of_floats_is_two(self) -> None:
        x = torch.zeros(1, 3, 4, 4)
        assert float(psnr_per_image(x, x + 0.2)) == pytest.approx(20.0, abs=1e-5)

    def test_agrees_with_scikit_image(self) -> None:
        a, b = images(3, 3, 9, 7, seed=1), images(3, 3, 9, 7, seed=2)
        expected = [
            peak_signal_noise_ratio(p.numpy(), q.numpy()) for p, q in zip(a, b, strict=True)
        ]
        np.testing.assert_allclose(psnr_per_image(a, b), expected, rtol=1e-12)

    def test_an_exact_image_is_capped_above_any_other(self) -> None:
        a = images(1, 3, 8, 8, seed=1)
        nearly = a.clone()
        nearly[0, 0, 0, 0] ^= 1
        exact = float(psnr_per_image(a, a))
        assert exact == pytest.approx(float(psnr_per_image(a, nearly)))
        assert exact == pytest.approx(10 * math.log10(255**2 * 3 * 64))


class TestSsim:
    @pytest.mark.parametrize("side", [3, 5, 7, 8, 9, 10, 11, 12, 32])
    @pytest.mark.parametrize("kind", ["uint8", "float"])
    def test_agrees_with_scikit_image(self, side: int, kind: str) -> None:
        a = smooth(2, 3, side, side + 2, seed=side)
        b = noisy(a, 0.2, seed=side + 1)
        if kind == "uint8":
            a, b = to_uint8(a), to_uint8(b)
        sigma = 1.5 * ssim_window(a.shape) / 11
        expected = [
            structural_similarity(
                p.double().numpy(),
                q.double().numpy(),
                data_range=255 if kind == "uint8" else 2,
                channel_axis=0,
                gaussian_weights=True,
                sigma=sigma,
                use_sample_covariance=False,
            )
            for p, q in zip(a, b, strict=True)
        ]
        np.testing.assert_allclose(ssim_per_image(a, b), expected, rtol=1e-9)

    def test_by_hand_for_constant_images(self) -> None:
        # No variance: (2 ab + c1) / (a^2 + b^2 + c1), c1 = (0.01 * 255)^2.
        a = torch.full((1, 1, 11, 11), 100, dtype=torch.uint8)
        b = torch.full((1, 1, 11, 11), 50, dtype=torch.uint8)
        c1 = 2.55**2
        expected = (2 * 100 * 50 + c1) / (100**2 + 50**2 + c1)
        assert float(ssim_per_image(a, b)) == pytest.approx(expected, rel=1e-9)

    def test_identity_is_one_and_symmetric(self) -> None:
        a, b = images(2, 3, 16, 16, seed=1), images(2, 3, 16, 16, seed=2)
        torch.testing.assert_close(ssim_per_image(a, a), torch.ones(2).double())
        torch.testing.assert_close(ssim_per_image(a, b), ssim_per_image(b, a))

    def test_window_fits_small_images(self) -> None:
        assert [ssim_window(torch.Size([1, 1, s, 32])) for s in (3, 8, 11, 64)] == [3, 7, 11, 11]


class TestReconstruction:
    def test_mean_error_and_batches(self) -> None:
        a = smooth(9, 3, 16, 16, seed=1)
        b = noisy(a, 0.1, seed=2)
        psnr, ssim, mse = measure_reconstruction([(a, b)])
        each = psnr_per_image(a, b)
        assert psnr.value == pytest.approx(float(each.mean()))
        assert psnr.stderr == pytest.approx(float(each.std()) / 3)
        assert (psnr.metric, psnr.unit, psnr.n) == ("reconstruction.psnr", "dB", 9)
        assert ssim.options == {"data_range": 2.0, "window": 11}
        assert psnr.higher_is_better is True
        assert ssim.higher_is_better is True
        split = measure_reconstruction(zip(a.split(4), b.split(4), strict=True))
        for one, two in zip(split, (psnr, ssim, mse), strict=True):
            assert one.value == pytest.approx(two.value, rel=1e-12)
            assert one.stderr == pytest.approx(two.stderr, rel=1e-10)

    def test_exact_images_are_flagged(self) -> None:
        a = images(3, 1, 8, 8, seed=1)
        b = a.clone()
        b[0] = 255 - b[0]
        psnr, _, _ = measure_reconstruction([(a, b)])
        assert psnr.flags == ("exact-images-2",)

    def test_squared_error_is_of_values_in_minus_one_to_one(self) -> None:
        black = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        other = black.clone()
        other[0] = 255  # wrong by 2 everywhere
        other[1, 0, 0, 0] = 51  # by 0.4 in one of 16 pixels
        mse = measure_reconstruction([(black, other)])[2]
        assert (mse.metric, mse.higher_is_better) == ("reconstruction.mse", False)
        first, second = 4.0, 0.4**2 / 16
        assert mse.value == pytest.approx((first + second) / 2)
        assert mse.stderr == pytest.approx((first - second) / 2)  # of two: half their distance
        a = smooth(3, 3, 8, 8, seed=1)
        floats = measure_reconstruction([(a, a + 0.1)])[2]
        assert floats.value == pytest.approx(0.01, rel=1e-5)

    @pytest.mark.parametrize(
        ("a", "b", "message"),
        [
            (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 5), "must be equal"),
            (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "both as uint8"),
            (torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), math.nan), "not finite"),
            (torch.full((2, 1, 4, 4), 200.0), torch.zeros(2, 1, 4, 4), "rescale them first"),
            (torch.zeros(2, 1, 4, 4).int(), torch.zeros(2, 1, 4, 4).int(), "both as uint8"),
            (torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), "at least two image pairs"),
            (torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2), "at least 3 pixels per side"),
        ],
    )
    def test_bad_pairs_are_refused(self, a: torch.Tensor, b: torch.Tensor, message: str) -> None:
        with pytest.raises(MeasurementError, match=message):
            measure_reconstruction([(a, b)])


class TestPosterior:
    def test_closed_form(self) -> None:
        # Channel means 5 and -3 must not count as variance; var(mu) = 4, sigma^2 = 0.25.
        sign = torch.tensor([1.0, -1.0]).repeat(50)[:, None, None, None]
        mean = torch.tensor([5.0, -3.0])[None, :, None, None] + 2 * sign.expand(100, 2, 3, 3)
        logvar = torch.full((100, 2, 3, 3), math.log(0.25))
        share, kl = measure_posterior([(mean, logvar)])
        assert share.value == pytest.approx(0.25 / 4, rel=1e-6)
        expected = ((25 + 4 + 9 + 4) / 2 + 0.25 - 1 - math.log(0.25)) / 2
        assert kl.value == pytest.approx(expected, rel=1e-6)
        assert kl.unit == "nat/dim"
        assert share.higher_is_better is None

    def test_standard_normal_posterior_has_no_divergence(self) -> None:
        mean = torch.zeros(4, 2, 3, 3)
        mean[0] = 1e-6
        assert measure_posterior([(mean, torch.zeros_like(mean))])[1].value < 1e-10

    def test_batches_do_not_matter(self) -> None:
        generator = torch.Generator().manual_seed(0)
        mean, logvar = torch.randn(2, 30, 4, 3, 3, generator=generator)
        whole = measure_posterior([(mean, logvar)])
        parts = measure_posterior(zip(mean.split(7), logvar.split(7), strict=True))
        for a, b in zip(whole, parts, strict=True):
            assert a.value == pytest.approx(b.value, rel=1e-12)
            assert a.stderr == pytest.approx(b.stderr, rel=1e-10)

    @pytest.mark.release
    def test_standard_errors_cover(self) -> None:
        results = []
        for seed in range(300):
            generator = torch.Generator().manual_seed(seed)
            mean = torch.randn(80, 3, 2, 2, generator=generator) * torch.rand(
                80, 1, 1, 1, generator=generator
            )
            logvar = torch.randn(80, 3, 1, 1, generator=generator).expand(80, 3, 2, 2)
            results.append(measure_posterior([(mean, logvar)]))
        for k in range(2):
            values = np.array([r[k].value for r in results])
            errors = np.array([r[k].stderr for r in results])
            share = np.mean(np.abs(values - values.mean()) < 1.96 * errors)
            assert 0.90 <= share <= 0.98

    def test_bad_posteriors_are_refused(self) -> None:
        x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
        with pytest.raises(MeasurementError, match="must be equal"):
            measure_posterior([(x, x[:, :1])])
        with pytest.raises(MeasurementError, match="not finite"):
            measure_posterior([(x / 0, x)])
        with pytest.raises(MeasurementError, match="do not vary"):
            measure_posterior([(torch.ones_like(x), x)])
        with pytest.raises(MeasurementError, match="two images"):
            measure_posterior([(x[:1], x[:1])])


class TestFrechet:
    """The images and their reconstructions vary together, and may be in the order of classes."""

    @staticmethod
    def measure(originals: torch.Tensor, made: torch.Tensor, seed: int = 0) -> Measurement:
        dealer = torch.Generator().manual_seed(seed)
        return measure_reconstruction_frechet(
            originals, made, extractor="probe", generator=dealer, resolution=8
        )

    @pytest.mark.parametrize("spread", [0.0, 3.0])  # of class means
    def test_the_error_is_the_spread_over_draws_of_images(self, spread: float) -> None:
        # 4 dimensions of 200 images of 10 classes, in the order of classes
        generator = torch.Generator().manual_seed(0)
        means = spread * torch.randn(10, 4, generator=generator)
        found = []
        for repeat in range(80):
            labels = torch.randint(10, (200,), generator=generator).sort().values
            images = means[labels] + torch.randn(200, 4, generator=generator)
            noise = torch.randn(200, 4, generator=generator)
            found.append(self.measure(images, 0.8 * images + 0.3 + 0.2 * noise, repeat))
        spread_of_values = np.std([one.value for one in found], ddof=1)
        stated = math.sqrt(np.mean([one.stderr**2 for one in found]))
        assert 1 / 1.5 < stated / spread_of_values < 1.5

    def test_the_value_is_the_distance_and_the_images_themselves_have_none(self) -> None:
        images, made = (noisy(torch.zeros(60, 3), 1, seed=s).double() for s in (0, 1))
        a, b = (FeatureMoments.from_features(x, extractor="probe") for x in (images, made))
        found = self.measure(images, made)
        assert found.metric == "reconstruction.fd_probe"
        assert found.value == pytest.approx(frechet_distance(a, b), rel=1e-10)
        same = self.measure(images, images)
        assert same.value == pytest.approx(0, abs=1e-12)
        assert same.stderr == pytest.approx(0, abs=1e-12)

    def test_other_images_are_refused(self) -> None:
        with pytest.raises(MeasurementError, match="not the same images"):
            self.measure(torch.zeros(4, 2), torch.zeros(5, 2))
