"""Fréchet distance: moments that merge, closed forms, scipy's square root, standard errors."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from diffusability.errors import MeasurementError
from diffusability.metrics.feature_moments import (
    FeatureMoments,
    merge_moments,
    moments_of_batches,
    read_adm_reference,
)
from diffusability.metrics.frechet import (
    FrechetReference,
    frechet_distance,
    measure_frechet,
)
from diffusability.statistics import delete_block_stderr

COUNT = 10_000


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(features: torch.Tensor) -> FeatureMoments:
    return FeatureMoments.from_features(features, extractor="probe", resolution=8)


def gaussian(mean: torch.Tensor, covariance: torch.Tensor, count: int = COUNT) -> FeatureMoments:
    return FeatureMoments.from_covariance(
        mean.double(), covariance.double(), count=count, extractor="probe", resolution=8
    )


def random_covariance(dim: int, seed: int) -> torch.Tensor:
    root = normal(dim, 2 * dim, seed=seed)
    return root @ root.T / (2 * dim)


def shards(features: torch.Tensor, count: int) -> list[FeatureMoments]:
    return [moments(part) for part in features.tensor_split(count)]


class TestMoments:
    def test_mean_and_covariance_are_numpys(self) -> None:
        x = normal(50, 4, seed=1) * 3 + 7
        m = moments(x)
        np.testing.assert_allclose(m.mean, x.numpy().mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(m.covariance(), np.cov(x.numpy(), rowvar=False), rtol=1e-12)

    @settings(max_examples=30, deadline=None)
    @given(
        cuts=st.lists(st.integers(1, 59), min_size=1, max_size=6, unique=True),
        seed=st.integers(0, 1000),
    )
    def test_batches_and_order_do_not_matter(self, cuts: list[int], seed: int) -> None:
        x = normal(60, 3, seed=seed) + 100
        whole = moments(x)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        parts = [moments(part) for part in x[order].tensor_split(sorted(cuts))]
        for merged in (merge_moments(parts), merge_moments(parts[::-1])):
            assert merged.count == 60
            torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-13, atol=0)
            torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-10, atol=1e-10)

    @settings(max_examples=30, deadline=None)
    @given(sizes=st.tuples(*[st.integers(1, 9)] * 3), seed=st.integers(0, 1000))
    def test_merge_is_associative_and_without_is_its_inverse(
        self, sizes: tuple[int, int, int], seed: int
    ) -> None:
        a, b, c = (moments(normal(n, 3, seed=seed + k) + k) for k, n in enumerate(sizes))
        left, right = a.merge(b).merge(c), a.merge(b.merge(c))
        torch.testing.assert_close(left.mean, right.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(left.scatter, right.scatter, rtol=1e-11, atol=1e-11)
        rest = left.without(b)
        direct = a.merge(c)
        assert rest.count == direct.count
        torch.testing.assert_close(rest.mean, direct.mean, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(rest.scatter, direct.scatter, rtol=1e-10, atol=1e-10)

    def test_a_large_common_offset_keeps_the_covariance(self) -> None:
        x = normal(400, 3, seed=2)
        shifted = moments_of_batches((x + 1e6).split(7), extractor="probe")
        torch.testing.assert_close(shifted.covariance(), moments(x).covariance(), rtol=1e-8, atol=0)

    def test_update_adds_a_batch_of_any_dtype(self) -> None:
        x = torch.arange(12, dtype=torch.float32).reshape(6, 2)
        m = moments(x[:4]).update(x[4:].to(torch.int64))
        assert m.scatter.dtype == torch.float64
        torch.testing.assert_close(m.scatter, moments(x).scatter)

    def test_survives_safetensors(self, tmp_path) -> None:
        m = moments(normal(10, 3, seed=3))
        save_file(m.to_tensors(), tmp_path / "m.safetensors", metadata=m.to_metadata())
        back = FeatureMoments.from_tensors(load_file(tmp_path / "m.safetensors"), m.to_metadata())
        assert back.digest() == m.digest()
        assert (back.count, back.extractor, back.resolution) == (10, "probe", 8)

    def test_digest_tells_sets_extractors_and_resolutions_apart(self) -> None:
        x = normal(10, 3, seed=3)
        digests = {
            moments(x).digest(),
            moments(x + 1e-9).digest(),
            FeatureMoments.from_features(x, extractor="other", resolution=8).digest(),
            FeatureMoments.from_features(x, extractor="probe", resolution=16).digest(),
        }
        assert len(digests) == 4

    def test_other_extractors_resolutions_and_sizes_are_refused(self) -> None:
        x = normal(10, 3, seed=4)
        for other in (
            FeatureMoments.from_features(x, extractor="other", resolution=8),
            FeatureMoments.from_features(x, extractor="probe", resolution=16),
            moments(x[:, :2]),
        ):
            for act in (moments(x).merge, moments(x).without):
                with pytest.raises(MeasurementError, match="do not belong together"):
                    act(other)
            with pytest.raises(MeasurementError, match="do not belong together"):
                frechet_distance(moments(x), other)

    @pytest.mark.parametrize(
        ("features", "message"),
        [
            (torch.full((4, 2), math.nan), "4 of 4 feature vectors are not finite"),
            (torch.zeros(0, 2), r"expected \(N, D\) features, got \(0, 2\)"),
            (torch.zeros(4), r"got \(4,\)"),
            (torch.zeros(2, 2, 2), r"got \(2, 2, 2\)"),
        ],
    )
    def test_bad_features_are_refused(self, features: torch.Tensor, message: str) -> None:
        with pytest.raises(MeasurementError, match=message):
            moments(features)

    def test_bad_parts_are_refused(self) -> None:
        m = moments(normal(4, 2, seed=5))
        with pytest.raises(MeasurementError, match="cannot remove"):
            m.without(m)
        with pytest.raises(MeasurementError, match="two samples"):
            moments(torch.zeros(1, 2)).covariance()
        with pytest.raises(MeasurementError, match="at least one shard"):
            merge_moments([])
        with pytest.raises(MeasurementError, match="not symmetric"):
            gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
        with pytest.raises(MeasurementError, match="lack"):
            FeatureMoments.from_tensors({"count": torch.tensor(1)}, {})
        with pytest.raises(MeasurementError, match="metric's name"):
            FeatureMoments.from_features(torch.zeros(2, 2), extractor="Plain FID")


class TestDistance:
    def test_shifted_means(self) -> None:
        covariance = random_covariance(3, seed=1)
        a = gaussian(torch.zeros(3), covariance)
        b = gaussian(torch.tensor([1.0, -2.0, 2.0]), covariance)
        assert frechet_distance(a, b) == pytest.approx(9.0, rel=1e-12)

    def test_diagonal_covariances(self) -> None:
        a = gaussian(torch.zeros(3), torch.diag(torch.tensor([1.0, 4.0, 9.0])))
        b = gaussian(torch.zeros(3), torch.diag(torch.tensor([4.0, 4.0, 0.25])))
        assert frechet_distance(a, b) == pytest.approx(1 + 0 + 2.5**2, rel=1e-12)

    def test_commuting_covariances(self) -> None:
        rotation, _ = torch.linalg.qr(normal(5, 5, seed=2))
        p, q = torch.rand(2, 5, generator=torch.Generator().manual_seed(3)).double() + 0.1
        a = gaussian(torch.zeros(5), rotation * p @ rotation.T)
        b = gaussian(torch.zeros(5), rotation * q @ rotation.T)
        expected = float((p.sqrt() - q.sqrt()).square().sum())
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)

    def test_two_by_two_that_do_not_commute(self) -> None:
        # tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for a 2 x 2 M with non-negative spectrum.
        p = torch.tensor([[2.0, 1.0], [1.0, 3.0]]).double()
        q = torch.tensor([[1.0, -0.5], [-0.5, 2.0]]).double()
        product = p @ q
        root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.det(product))))
        expected = float(p.trace() + q.trace()) - 2 * root
        a, b = gaussian(torch.zeros(2), p), gaussian(torch.zeros(2), q)
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)

    def test_covariances_are_divided_by_n_minus_one(self) -> None:
        a = moments(torch.tensor([[-1.0], [1.0]]))  # variance 2 with ddof 1, 1 with ddof 0
        b = gaussian(torch.zeros(1), torch.zeros(1, 1))
        assert frechet_distance(a, b) == pytest.approx(2.0, rel=1e-12)

    @pytest.mark.parametrize("dim", [2, 17, 300])
    def test_agrees_with_scipy_sqrtm_where_well_conditioned(self, dim: int) -> None:
        a = moments(normal(5 * dim, dim, seed=5) * torch.linspace(0.3, 2, dim))
        b = moments(normal(5 * dim, dim, seed=6) @ normal(dim, dim, seed=7) / dim**0.5 + 0.1)
        p, q = a.covariance().numpy(), b.covariance().numpy()
        root = np.trace(scipy.linalg.sqrtm(p @ q)).real
        expected = float((a.mean - b.mean).square().sum()) + np.trace(p) + np.trace(q) - 2 * root
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("counts", [(5, 40), (40, 5), (5, 5), (2, 3)])
    def test_rank_deficient_covariances_agree_with_the_samples(
        self, counts: tuple[int, int]
    ) -> None:
        # With X, Y centred samples over sqrt(n - 1), tr sqrt(S_x S_y) is the nuclear norm of X Y^T.
        x, y = (normal(n, 20, seed=n + 10 * k) for k, n in enumerate(counts))
        centred = [(z - z.mean(dim=0)) / (len(z) - 1) ** 0.5 for z in (x, y)]
        expected = float(torch.linalg.matrix_norm(centred[0] @ centred[1].T, ord="nuc"))
        a, b = moments(x), moments(y)
        found = FrechetReference(a).trace_of_root(b)
        assert found == pytest.approx(expected, rel=1e-9)
        distance = frechet_distance(a, b)
        assert isinstance(distance, float)
        assert math.isfinite(distance)
        assert distance >= 0

    def test_real_and_exact_where_sqrtm_is_complex(self) -> None:
        x, y = (normal(64, 256, seed=s) for s in (8, 9))
        a, b = moments(x), moments(y)
        with np.errstate(all="ignore"):
            root = scipy.linalg.sqrtm(a.covariance().numpy() @ b.covariance().numpy())
        assert np.abs(np.imag(root)).max() > 1e-6, "sqrtm copes; choose a harder case"
        rows = [(z - z.mean(dim=0)) / 63**0.5 for z in (x, y)]
        exact = float(torch.linalg.matrix_norm(rows[0] @ rows[1].T, ord="nuc"))
        found = FrechetReference(a).trace_of_root(b)
        assert found == pytest.approx(exact, rel=1e-11)
        assert abs(np.trace(root).real - exact) > 1e3 * abs(found - exact)
        assert frechet_distance(a, b) > 0
        assert 0 <= frechet_distance(a, a) < 1e-9 * float(a.covariance().trace())

    def test_zero_covariance(self) -> None:
        a = gaussian(torch.zeros(3), torch.zeros(3, 3))
        b = gaussian(torch.ones(3), torch.eye(3))
        assert frechet_distance(a, b) == pytest.approx(6.0)
        assert frechet_distance(b, a) == pytest.approx(6.0)
        assert frechet_distance(a, a) == 0.0

    def test_covariances_that_lack_rank_in_spite_of_many_vectors(self) -> None:
        # Commuting, so tr sqrt(S_a S_b) = 1 * 2 + 1 * 0 + 0 * 3; neither has a Cholesky factor.
        a = gaussian(torch.zeros(3), torch.diag(torch.tensor([1.0, 1.0, 0.0])))
        b = gaussian(torch.zeros(3), torch.diag(torch.tensor([4.0, 0.0, 9.0])))
        assert FrechetReference(a).trace_of_root(b) == pytest.approx(2.0, rel=1e-12)
        assert FrechetReference(b).trace_of_root(a) == pytest.approx(2.0, rel=1e-12)

    @settings(max_examples=20, deadline=None)
    @given(dim=st.integers(1, 8), count=st.integers(2, 30), seed=st.integers(0, 1000))
    def test_symmetric_non_negative_and_zero_on_itself(
        self, dim: int, count: int, seed: int
    ) -> None:
        a = moments(normal(count, dim, seed=seed))
        b = moments(normal(count + 3, dim, seed=seed + 1) * 2)
        assert frechet_distance(a, b) >= 0
        assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-7)
        assert frechet_distance(a, a) < 1e-7 * float(a.covariance().trace())

    def test_panels_wider_than_one(self) -> None:
        p, q = (random_covariance(600, seed=s) for s in (1, 2))
        careful = torch.linalg.svdvals(torch.linalg.cholesky(p).T @ torch.linalg.cholesky(q)).sum()
        reference = FrechetReference(gaussian(torch.zeros(600), p))
        assert reference.trace_of_root(gaussian(torch.zeros(600), q)) == pytest.approx(
            float(careful), rel=1e-10
        )


class TestMeasurement:
    def test_value_name_direction_and_options(self) -> None:
        reference = moments(normal(500, 3, seed=1))
        x = normal(200, 3, seed=2) + 0.3
        result = measure_frechet(reference=reference, generated=shards(x, 8))
        assert result.metric == "generation.fd_probe"
        assert result.value == pytest.approx(frechet_distance(reference, moments(x)), rel=1e-10)
        assert result.higher_is_better is False
        assert (result.n, result.flags) == (200, ())
        assert result.options["reference_count"] == 500
        assert result.options["reference_digest"] == reference.digest()

    def test_standard_error_is_the_jackknife_of_the_samples(self) -> None:
        reference = moments(normal(500, 2, seed=1))
        x = normal(60, 2, seed=2)
        parts = x.tensor_split(6)
        result = measure_frechet(reference=reference, generated=[moments(p) for p in parts])
        rest = [
            frechet_distance(reference, moments(torch.cat(parts[:j] + parts[j + 1 :])))
            for j in range(6)
        ]
        expected = math.sqrt(5 / 6 * sum((r - sum(rest) / 6) ** 2 for r in rest))
        assert result.stderr == pytest.approx(expected, rel=1e-6)

    def test_too_few_images_are_warned_of_and_flagged(self) -> None:
        few, many = normal(8, 8, seed=1), normal(400, 8, seed=2)
        for reference, generated in ((many, few), (few, many)):
            with pytest.warns(UserWarning, match="rank-deficient"):
                result = measure_frechet(
                    reference=moments(reference), generated=shards(generated, 2)
                )
            assert result.flags == ("rank-deficient",)
        at_least = measure_frechet(reference=moments(many), generated=shards(many[:9], 2))
        assert at_least.flags == ()

    def test_one_shard_is_refused(self) -> None:
        m = moments(normal(20, 2, seed=1))
        with pytest.raises(MeasurementError, match="two shards"):
            measure_frechet(reference=m, generated=[m])

    def test_adm_reference(self, tmp_path) -> None:
        covariance = random_covariance(4, seed=1).numpy()
        path = tmp_path / "reference.npz"
        np.savez(path, mu=np.arange(4.0), sigma=covariance)
        m = read_adm_reference(path, count=50, resolution=256)
        np.testing.assert_allclose(m.covariance(), covariance, rtol=1e-12)
        assert (m.extractor, m.resolution, m.count) == ("inception", 256, 50)
        with pytest.raises(MeasurementError, match="lack"):
            read_adm_reference(path, count=50, resolution=256, extractor="inception-spatial")
        with pytest.raises(MeasurementError, match="do not exist"):
            read_adm_reference(tmp_path / "no.npz", count=50, resolution=256)


class TestJackknife:
    def test_of_a_mean_is_the_textbook_error(self) -> None:
        x = normal(40, seed=1)
        total = x.sum()
        left_out = (total - x) / 39
        stderr = delete_block_stderr(float(x.mean()), left_out, torch.ones(40))
        assert stderr == pytest.approx(float(x.std()) / 40**0.5, rel=1e-10)

    def test_unequal_blocks_have_the_right_expectation(self) -> None:
        sizes = torch.tensor([5, 10, 20, 30, 35])
        squares = []
        for seed in range(2000):
            x = normal(100, seed=seed)
            sums = torch.stack([part.sum() for part in x.split(sizes.tolist())])
            left_out = (x.sum() - sums) / (100 - sizes)
            squares.append(delete_block_stderr(float(x.mean()), left_out, sizes) ** 2)
        assert np.mean(squares) == pytest.approx(1 / 100, rel=0.06)

    def test_one_block_is_refused(self) -> None:
        with pytest.raises(MeasurementError, match="two blocks"):
            delete_block_stderr(0.0, torch.zeros(1), torch.ones(1))


def coverage(count: int, dim: int, parts: int, repeats: int) -> tuple[float, float]:
    """Return the share of 95 % intervals that hold the mean, and the error over the true one."""
    reference = gaussian(torch.zeros(dim), torch.eye(dim), count=10**6)
    results = [
        measure_frechet(
            reference=reference,
            generated=shards(normal(count, dim, seed=s) * 1.4 + 0.3, parts),
        )
        for s in range(repeats)
    ]
    values = np.array([r.value for r in results])
    errors = np.array([r.stderr for r in results])
    hits = np.abs(values - values.mean()) < 1.96 * errors
    return float(hits.mean()), float(np.sqrt(np.mean(errors**2)) / values.std(ddof=1))


@pytest.mark.release
def test_standard_error_covers() -> None:
    share, ratio = coverage(count=400, dim=4, parts=20, repeats=250)
    assert 0.90 <= share <= 0.98
    assert ratio == pytest.approx(1.0, abs=0.12)


@pytest.mark.slow
def test_standard_error_covers_near_the_rank_limit() -> None:
    share, ratio = coverage(count=200, dim=64, parts=20, repeats=1000)
    assert 0.90 <= share <= 0.98
    assert ratio == pytest.approx(1.0, abs=0.1)
