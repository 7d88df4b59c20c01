"""Uniformity: the three statistics by hand, known densities, and the t-SNE pipeline."""

import math
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from diffusability.errors import MeasurementError
from diffusability.metrics import uniformity
from diffusability.metrics.latent_set import LatentSet
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.uniformity import (
    _Cells,
    _disjoint_rounds,
    _errors,
    density_cv,
    gini,
    measure_uniformity,
    normalised_entropy,
    point_densities,
)
from diffusability.stages.image_metrics import KL, _posterior
from diffusability.stages.latent_metrics import uniformity as measure_stage
from diffusability.study.metrics.perspectives import UniformityMetric
from diffusability.tokenizers.posterior import LOGVAR_RANGE

NAMES = ("density_cv", "gini", "normalised_entropy")


def measure(latents: torch.Tensor, **changes) -> dict[str, Measurement]:
    given = {"seed": 0, "points": 120, "repeats": 2, "perplexity": 20.0, "iterations": 250}
    results = measure_uniformity(latents, **(given | changes))
    return {r.metric.removeprefix("uniformity."): r for r in results}


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestStatistics:
    def test_equal_densities_are_uniform(self) -> None:
        f = np.full(50, 0.3)
        assert density_cv(f) == pytest.approx(0, abs=1e-12)
        assert gini(f) == pytest.approx(0, abs=1e-12)
        assert normalised_entropy(f) == pytest.approx(1, abs=1e-8)

    def test_by_hand(self) -> None:
        f = np.array([3.0, 1.0])
        assert density_cv(f) == pytest.approx(0.5)  # population std 1, mean 2
        assert gini(f) == pytest.approx(0.25)  # (-1 + 3) / (2 * 4)
        assert normalised_entropy(f) == pytest.approx(
            -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)), abs=1e-8
        )

    def test_one_point_holds_everything(self) -> None:
        f = np.zeros(100)
        f[7] = 1.0
        assert gini(f) == pytest.approx(0.99)
        assert density_cv(f) == pytest.approx(math.sqrt(99))
        assert normalised_entropy(f) == pytest.approx(0, abs=1e-8)

    def test_exponential_densities(self) -> None:
        f = np.random.default_rng(0).exponential(size=200_000)
        assert density_cv(f) == pytest.approx(1.0, abs=0.01)
        assert gini(f) == pytest.approx(0.5, abs=0.005)

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
    def test_scale_and_order_do_not_matter_and_gini_is_the_mean_difference(
        self, seed: int, scale: float
    ) -> None:
        f = np.random.default_rng(seed).gamma(2.0, size=15)
        for statistic in (density_cv, gini, normalised_entropy):
            assert statistic(scale * f[::-1]) == pytest.approx(statistic(f), rel=1e-9)
        loop = sum(abs(a - b) for a in f for b in f) / (2 * 15**2 * f.mean())
        assert gini(f) == pytest.approx(loop, rel=1e-10)


class TestDensities:
    def test_agree_with_the_loop(self) -> None:
        x = np.random.default_rng(1).normal(size=(30, 2)) * [1.0, 3.0]
        covariance = np.cov(x.T) * 30 ** (-2 / 6)  # Scott: bandwidth n^(-1/(d+4))
        inverse = np.linalg.inv(covariance)
        norm = 2 * math.pi * math.sqrt(np.linalg.det(covariance)) * 30
        loop = [sum(math.exp(-0.5 * (p - q) @ inverse @ (p - q)) for q in x) / norm for p in x]
        np.testing.assert_allclose(point_densities(x), loop, rtol=1e-10)

    def test_of_a_normal_cloud(self) -> None:
        # At its own points the density of N(0, I_2) is uniform on (0, top): CV = 1/sqrt(3),
        # Gini = 1/3, entropy = 1 - (E[u ln u] / E[u] - ln E[u]) / ln n. The kernel (Scott) turns
        # the cloud into a wider normal, which moves the density's distribution only slightly.
        n = 4000
        f = point_densities(np.random.default_rng(2).normal(size=(n, 2)))
        assert density_cv(f) == pytest.approx(1 / math.sqrt(3), rel=0.05)
        assert gini(f) == pytest.approx(1 / 3, rel=0.05)
        expected = 1 - (math.log(2) - 0.5) / math.log(n)
        assert normalised_entropy(f) == pytest.approx(expected, abs=0.003)

    def test_points_on_a_line_are_refused(self) -> None:
        with pytest.raises(MeasurementError, match="collinear"):
            point_densities(np.linspace(0, 1, 20)[:, None] * np.ones((1, 2)))


class TestPixels:
    def test_one_random_pixel_of_different_images(self) -> None:
        # The value says where it comes from: image, row, column; channel 1 mirrors channel 0.
        image, row, column = torch.meshgrid(
            torch.arange(40), torch.arange(4), torch.arange(5), indexing="ij"
        )
        code = (100 * image + 10 * row + column).float()
        latents = torch.stack([code, -code], dim=1)  # (40, 2, 4, 5)
        images = np.random.default_rng(1).permutation(40)[:30]
        random = np.random.default_rng(0)
        cells = random.integers(4, size=30), random.integers(5, size=30)
        data = LatentSet(latents)
        drawn = _Cells(data, None, None).draw(images, cells, random)  # (30, 2), z-scored
        mean, std = data.statistics.mean.numpy(), data.statistics.std.numpy()
        pixels = drawn * std + mean
        np.testing.assert_allclose(pixels[:, 0], -pixels[:, 1], atol=1e-9)
        found = pixels[:, 0].round().astype(int)
        assert (found // 100).tolist() == images.tolist()
        assert (found // 10 % 10).tolist() == cells[0].tolist()
        assert (found % 10).tolist() == cells[1].tolist()

    def test_draws_of_the_posterior_and_mirrored_images(self) -> None:
        mean = normal(4000, 3, 2, 2, seed=1) * torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1) + 4
        logvar = torch.tensor([0.25, 9.0, 1e-6]).log().view(3, 1, 1).expand_as(mean)
        data = LatentSet(mean)
        images = np.arange(4000)
        zeros = np.zeros(4000, dtype=np.int64)
        drawn = _Cells(data, logvar, None).draw(images, (zeros, zeros), np.random.default_rng(0))
        # divided by the spread of draws, so that they have variance one
        np.testing.assert_allclose(drawn.std(axis=0), 1, rtol=0.04)
        share = torch.tensor([1, 4, 0.25]) / torch.tensor([1.25, 13, 0.250001])  # of the means
        found = np.corrcoef(np.hstack([drawn, mean[:, :, 0, 0].numpy()]).T).diagonal(3) ** 2
        np.testing.assert_allclose(found, share, atol=0.05)
        mirrored = (mean + 1000, logvar)
        both = _Cells(data, logvar, mirrored).draw(images, (zeros, zeros), np.random.default_rng(0))
        turned = both[:, 0] > 100
        assert turned.mean() == pytest.approx(0.5, abs=0.04)
        assert (turned == (both[:, 2] > 100)).all()


class TestRounds:
    @pytest.mark.parametrize(
        ("points", "sizes"), [(10, [4]), (30, [3, 1]), (50, [2, 2]), (51, [1] * 4), (100, [1] * 4)]
    )
    def test_repeats_share_no_image_while_there_are_enough(
        self, points: int, sizes: list[int]
    ) -> None:
        rounds = _disjoint_rounds(100, points, 4, np.random.default_rng(0))
        assert [dealt.shape for dealt in rounds] == [(size, points) for size in sizes]
        for dealt in rounds:
            assert len(np.unique(dealt)) == dealt.size
            assert set(dealt.ravel()) <= set(range(100))


def test_the_error_of_a_spread_is_that_of_normal_repeats() -> None:
    values = np.array([1.0, 2.0, 4.0, 5.0])  # two rounds of two
    spread, of_spread, of_mean = _errors(values, [2, 2], 0.0)
    assert spread == pytest.approx(0.5**0.5)  # variances 1/2 and 1/2 within rounds
    assert of_spread == pytest.approx(spread / (2 * 2) ** 0.5)
    assert of_mean == pytest.approx(spread / 4**0.5)


class TestPipeline:
    latents = normal(150, 4, 3, 3, seed=1)

    def test_names_directions_and_spread(self) -> None:
        found = measure(self.latents)
        assert list(found) == [n for name in NAMES for n in (name, f"{name}_spread")]
        assert [found[n].higher_is_better for n in NAMES] == [False, False, True]
        for name in NAMES:
            assert found[name].stderr == pytest.approx(found[f"{name}_spread"].value / 2**0.5)
            assert found[f"{name}_spread"].value > 0
            assert found[name].n == 2
        assert 0.9 < found["normalised_entropy"].value < 1

    def test_seeds_reproduce_and_differ(self) -> None:
        first = measure(self.latents)
        assert measure(self.latents) == first
        assert measure(self.latents, seed=1)["gini"].value != first["gini"].value

    def test_parallel_repeats_are_the_serial_ones(self) -> None:
        with joblib.parallel_config(backend="multiprocessing"):  # starts in a tenth of the time
            parallel = measure(self.latents, n_jobs=2)
        assert parallel == measure(self.latents)

    def test_a_repeat_computes_in_one_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = []

        class Observed(uniformity.TSNE):
            def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
                found.extend(library["num_threads"] for library in threadpool_info())
                return vectors[:, :2]

        monkeypatch.setattr(uniformity, "TSNE", Observed)
        with threadpool_limits(2):
            measure(self.latents)
        assert set(found) == {1}

    def test_channel_scale_and_offset_do_not_matter(self) -> None:
        scaled = self.latents.double() * torch.tensor([1.0, 4.0, 0.25, 2.0])[:, None, None] + 8
        first, second = measure(self.latents.double()), measure(scaled)
        # t-SNE amplifies rounding; the same draws must still give nearly the same statistics.
        for name in NAMES:
            assert second[name].value == pytest.approx(first[name].value, rel=0.05)

    def test_clusters_are_less_uniform_than_one_cloud(self) -> None:
        random = np.random.default_rng(0)
        sizes = random.choice(6, p=[0.6, 0.2, 0.1, 0.05, 0.03, 0.02], size=200)
        centres = torch.from_numpy(random.normal(size=(6, 4)) * 8).float()
        clustered = centres[sizes][:, :, None, None] + 0.1 * normal(200, 4, 2, 2, seed=2)
        cloud = normal(200, 4, 2, 2, seed=3)
        options = {"points": 200, "iterations": 500}
        one, many = measure(cloud, **options), measure(clustered, **options)
        assert many["density_cv"].value > one["density_cv"].value
        assert many["gini"].value > one["gini"].value
        assert many["normalised_entropy"].value < one["normalised_entropy"].value

    def test_flags(self) -> None:
        assert measure(self.latents)["gini"].flags == ("repeats-overlap",)
        assert measure(self.latents, points=70)["gini"].flags == ()
        limited = measure(self.latents, points=500)["gini"]
        assert limited.flags == ("points-limited-to-images", "repeats-overlap")
        assert limited.options["points"] == 150

    def test_bad_input_is_refused(self) -> None:
        for changes in ({"repeats": 1}, {"perplexity": 200.0}, {"iterations": 100}):
            with pytest.raises(MeasurementError, match="uniformity needs"):
                measure(self.latents, **changes)
        with pytest.raises(MeasurementError, match="not finite"):
            measure(self.latents / 0)
        with pytest.raises(MeasurementError, match="one channel"):
            measure(self.latents[:, :1])
        constant = self.latents.clone()
        constant[:, 1:] = 3.0
        with pytest.raises(MeasurementError, match="one channel"):
            measure(constant)


class Projection:
    """Stands where t-SNE does, which takes 1,000 times as long: the plane of two channels."""

    def __init__(self, **options: object) -> None:
        del options

    def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
        return vectors[:, :2]


def coverage(images: int, repetitions: int, side: int = 1, **options) -> dict[str, float]:
    """Return the share of 95 % intervals of a mean that hold the mean over all repetitions."""
    given = {"points": 30, "repeats": 10, "perplexity": 10.0} | options
    runs = [
        measure(normal(images, 2, side, side, seed=s), seed=s, **given) for s in range(repetitions)
    ]
    shares = {}
    for name in NAMES:
        values = np.array([run[name].value for run in runs])
        errors = np.array([run[name].stderr for run in runs])
        shares[name] = float(np.mean(np.abs(values - values.mean()) < 1.96 * errors))
    return shares


class TestStandardErrors:
    @pytest.mark.release
    @pytest.mark.parametrize("images", [300, 120])  # all disjoint, and rounds of 4, 4 and 2
    def test_cover(self, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uniformity, "TSNE", Projection)
        assert all(0.90 <= share <= 0.98 for share in coverage(images, 200).values())

    @pytest.mark.release
    def test_are_bounds_where_images_say_more_than_one_repeat_takes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uniformity, "TSNE", Projection)
        assert all(share >= 0.90 for share in coverage(120, 60, side=4).values())

    @pytest.mark.slow
    def test_cover_with_tsne(self) -> None:
        assert all(0.90 <= share <= 0.98 for share in coverage(300, 400).values())

    @pytest.mark.slow
    def test_are_bounds_with_tsne_where_repeats_share_images(self) -> None:
        # most of a repeat's scatter is t-SNE's own and of interactions, which shared images spare
        assert all(share >= 0.90 for share in coverage(120, 200).values())


@pytest.mark.parametrize(
    ("encodes", "logvar", "posterior"),
    [(True, LOGVAR_RANGE[0], "draw"), (False, LOGVAR_RANGE[0], "mean"), (True, -3.0, "draw")],
)
def test_the_latent_of_a_deterministic_encoder_is_its_draw(
    tmp_path: Path, encodes: bool, logvar: float, posterior: str
) -> None:
    mean = normal(60, 3, 2, 2, seed=0)
    latents = SimpleNamespace(mean=mean, logvar=torch.full_like(mean, logvar), mirrored=None)
    data = SimpleNamespace(split=lambda _: torch.arange(60))
    inputs = SimpleNamespace(
        data=data, latents=latents, encodes=encodes, stream=lambda _: 0, rounding=lambda _: ()
    )
    options = {"points": 60, "repeats": 2, "perplexity": 10.0, "iterations": 250}
    cells, _ = measure_stage(inputs, UniformityMetric(**options), tmp_path)
    assert {cell.options["posterior"] for cell in cells} == {posterior}
    found = {cell.metric.removeprefix("uniformity."): cell.value for cell in cells}
    plain = {name: m.value for name, m in measure(mean, **options).items()}
    assert (found == plain) == (logvar == LOGVAR_RANGE[0])


def test_a_deterministic_posterior_has_no_variance_in_whatever_unit() -> None:
    mean = 1e-7 * normal(8, 3, 2, 2, seed=0)
    latents = SimpleNamespace(mean=mean, logvar=torch.full_like(mean, LOGVAR_RANGE[0]))
    (share,), ((metric, _),) = _posterior(latents)
    assert (share.metric, share.value, share.stderr, metric) == (
        "reconstruction.posterior_variance_share",
        0.0,
        0.0,
        KL,
    )
