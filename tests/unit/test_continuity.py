"""Neighbours against brute force, interpolation by hand, and the distance of interpolations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from diffusability.errors import MeasurementError
from diffusability.metrics.continuity import (
    choose_neighbours,
    interpolate,
    interpolated_latents,
    measure_interpolation_frechet,
)
from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.metrics.frechet import frechet_distance
from diffusability.metrics.nearest_neighbours import NeighbourTable, nearest_neighbours


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def brute_force(
    queries: torch.Tensor,
    pool: torch.Tensor,
    k: int,
    distance: str,
    allowed: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    indices, distances = [], []
    for i, q in enumerate(queries.double().flatten(1).numpy()):
        row = []
        for j, p in enumerate(pool.double().flatten(1).numpy()):
            if distance == "l2":
                value = math.sqrt(((q - p) ** 2).sum())
            else:
                value = 1 - (q @ p) / math.sqrt((q @ q) * (p @ p))
            if allowed[i, j]:
                row.append((value, j))
        row = sorted(row)[:k]
        indices.append([j for _, j in row])
        distances.append([v for v, _ in row])
    return np.array(indices), np.array(distances)


class TestNeighbours:
    @pytest.mark.parametrize("distance", ["cosine", "l2"])
    @pytest.mark.parametrize("block_size", [7, 1000])
    def test_agree_with_brute_force(self, distance: str, block_size: int) -> None:
        queries, pool = normal(23, 4, 2, 2, seed=1), normal(61, 4, 2, 2, seed=2)
        table = nearest_neighbours(
            queries, pool, neighbours=5, distance=distance, block_size=block_size
        )
        indices, distances = brute_force(queries, pool, 5, distance, np.ones((23, 61), dtype=bool))
        np.testing.assert_array_equal(table.indices, indices)
        np.testing.assert_allclose(table.distances, distances, rtol=1e-10, atol=1e-14)
        squared = (queries[:, None].double() - pool[table.indices].double()).square()
        torch.testing.assert_close(
            table.mean_squared_differences, squared.flatten(2).mean(dim=2), rtol=1e-12, atol=0
        )

    @settings(max_examples=15, deadline=None)
    @given(
        seed=st.integers(0, 1000),
        block=st.integers(1, 50),
        distance=st.sampled_from(["cosine", "l2"]),
    )
    def test_neither_order_nor_batch_nor_dtype_matters(
        self, seed: int, block: int, distance: str
    ) -> None:
        latents = normal(40, 6, seed=seed).bfloat16()
        options = {"neighbours": 4, "distance": distance, "exclude_self": True}
        expected = nearest_neighbours(latents, latents, **options)
        order = torch.randperm(40, generator=rng(seed))
        moved = latents[order].double()
        found = nearest_neighbours(moved, moved, block_size=block, **options)
        torch.testing.assert_close(
            found.distances, expected.distances[order], rtol=1e-10, atol=1e-14
        )
        assert torch.equal(order[found.indices], expected.indices[order])

    @pytest.mark.parametrize("distance", ["cosine", "l2"])
    def test_same_class_without_self(self, distance: str) -> None:
        latents = normal(40, 6, seed=3)
        labels = torch.arange(40) % 3
        table = nearest_neighbours(
            latents,
            latents,
            neighbours=4,
            distance=distance,
            query_labels=labels,
            pool_labels=labels,
            exclude_self=True,
            block_size=8,
        )
        allowed = (labels[:, None] == labels[None]).numpy() & ~np.eye(40, dtype=bool)
        indices, _ = brute_force(latents, latents, 4, distance, allowed)
        np.testing.assert_array_equal(table.indices, indices)
        assert table.same_class

    @pytest.mark.parametrize("distance", ["cosine", "l2"])
    def test_queries_that_are_a_part_of_the_pool_are_not_their_own_neighbours(
        self, distance: str
    ) -> None:
        pool, outside = normal(30, 6, seed=5), normal(4, 6, seed=6)
        rows = torch.randperm(30, generator=rng(7))[:8]
        queries = torch.cat([pool[rows], outside])
        own = torch.cat([rows, torch.full((4,), -1)])
        table = nearest_neighbours(
            queries, pool, neighbours=3, distance=distance, exclude_self=own, block_size=4
        )
        allowed = (own[:, None] != torch.arange(30)[None]).numpy()
        np.testing.assert_array_equal(
            table.indices, brute_force(queries, pool, 3, distance, allowed)[0]
        )

    def test_every_other_latent_can_be_asked_for(self) -> None:
        latents = normal(6, 3, seed=4)
        table = nearest_neighbours(latents, latents, neighbours=5, exclude_self=True)
        for i, row in enumerate(table.indices.tolist()):
            assert sorted(row) == [j for j in range(6) if j != i]

    @pytest.mark.parametrize("distance", ["cosine", "l2"])
    def test_near_ties_are_ordered_exactly(self, distance: str) -> None:
        # Angles differ in the 9th digit, far below the resolution of float32.
        angle = torch.tensor([0.3 + 1e-9 * k for k in (3, 1, 2, 0)], dtype=torch.float64)
        pool = torch.stack([angle.cos(), angle.sin()], dim=1)
        query = torch.tensor([[1.0, 0.0]])
        table = nearest_neighbours(query, pool, neighbours=4, distance=distance)
        assert table.indices.tolist() == [[3, 1, 2, 0]]

    def test_a_common_offset_does_not_blur_l2(self) -> None:
        # Uncentred float32 products would be rounded by more than neighbours differ.
        queries, pool = (normal(n, 32, seed=n) + 4096 for n in (10, 3000))
        found = nearest_neighbours(queries, pool, neighbours=3, distance="l2")
        expected = torch.cdist(
            queries.double(), pool.double(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        torch.testing.assert_close(found.indices, expected.topk(3, largest=False).indices)

    def test_table_survives_safetensors(self, tmp_path) -> None:
        table = nearest_neighbours(normal(5, 3, seed=1), normal(9, 3, seed=2), neighbours=2)
        save_file(table.to_tensors(), tmp_path / "t.safetensors")
        back = NeighbourTable.from_tensors(
            load_file(tmp_path / "t.safetensors"), table.to_metadata()
        )
        assert torch.equal(back.indices, table.indices)
        assert (back.distance, back.same_class) == ("cosine", False)

    def test_bad_input_is_refused(self) -> None:
        x = normal(6, 3, seed=1)
        for bad, match in (
            ({"pool": normal(6, 2, seed=1)}, "one shape"),
            ({"pool": x / 0}, "not finite"),
            ({"pool": torch.zeros(6, 3)}, "no direction"),
            ({"neighbours": 7}, "only 6 pool latents"),
            ({"neighbours": 6, "exclude_self": True}, "only 5 pool latents"),
            ({"pool": x[:5], "exclude_self": True}, "is not the 6 queries"),
            ({"exclude_self": torch.arange(6) + 1}, "is not the 6 queries"),
            ({"query_labels": torch.zeros(6)}, "labels of queries and of the pool"),
            ({"query_labels": torch.zeros(5), "pool_labels": torch.zeros(6)}, "do not fit"),
            ({"distance": "l1"}, "neither"),
        ):
            with pytest.raises(MeasurementError, match=match):
                nearest_neighbours(**({"queries": x, "pool": x, "neighbours": 2} | bad))


class TestChoice:
    table = NeighbourTable(
        indices=torch.tensor([[4, 7, 9]]).repeat(20_000, 1),
        distances=torch.tensor([[0.1, 0.2, 0.3]]).double().repeat(20_000, 1),
        mean_squared_differences=torch.tensor([[0.0, 1.0, 2.0]]).double().repeat(20_000, 1),
        distance="l2",
        same_class=False,
    )

    def test_nearest(self) -> None:
        chosen = choose_neighbours(self.table, choice="nearest", generator=rng())
        assert set(chosen.tolist()) == {4}

    def test_weighted_draws_with_softmax_of_minus_the_difference(self) -> None:
        chosen = choose_neighbours(self.table, choice="weighted", generator=rng())
        weights = np.exp([0.0, -1.0, -2.0])
        for index, share in zip((4, 7, 9), weights / weights.sum(), strict=True):
            assert float((chosen == index).double().mean()) == pytest.approx(share, abs=0.015)

    def test_is_reproducible(self) -> None:
        draws = [choose_neighbours(self.table, choice="weighted", generator=rng(3)) for _ in "ab"]
        assert torch.equal(*draws)


class TestInterpolation:
    @pytest.mark.parametrize("mode", ["linear", "slerp"])
    def test_endpoints(self, mode: str) -> None:
        a, b = normal(4, 3, 2, 2, seed=1), normal(4, 3, 2, 2, seed=2)
        torch.testing.assert_close(interpolate(a, b, alpha=0.0, mode=mode), a)
        torch.testing.assert_close(interpolate(a, b, alpha=1.0, mode=mode), b)

    def test_linear_is_the_straight_line(self) -> None:
        a, b = normal(4, 3, seed=1), normal(4, 3, seed=2)
        torch.testing.assert_close(
            interpolate(a, b, alpha=0.25, mode="linear"), 0.75 * a + 0.25 * b
        )

    def test_slerp_by_hand(self) -> None:
        a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        angle = 0.3 * math.pi / 2
        expected = torch.tensor([[math.cos(angle), math.sin(angle)]])
        torch.testing.assert_close(interpolate(a, b, alpha=0.3, mode="slerp"), expected)

    @settings(max_examples=40, deadline=None)
    @given(alpha=st.floats(0, 1), seed=st.integers(0, 1000))
    def test_slerp_keeps_the_norm_and_the_speed(self, alpha: float, seed: int) -> None:
        a, b = (
            torch.nn.functional.normalize(normal(1, 12, seed=seed + k).double(), dim=1) * 3
            for k in (0, 1)
        )
        z = interpolate(a, b, alpha=alpha, mode="slerp")
        assert float(z.norm()) == pytest.approx(3.0, rel=1e-9)
        whole = math.acos(float((a * b).sum()) / 9)
        part = math.acos(min(1.0, float((a * z).sum()) / 9))
        assert part == pytest.approx(alpha * whole, abs=1e-6)

    def test_parallel_latents_take_the_straight_line(self) -> None:
        a = normal(2, 5, seed=1)
        for b in (a, 2 * a, -a):
            torch.testing.assert_close(
                interpolate(a, b, alpha=0.25, mode="slerp"), 0.75 * a + 0.25 * b
            )

    def test_bad_input_is_refused(self) -> None:
        a = normal(2, 3, seed=1)
        for bad in ({"b": a[:, :2]}, {"alpha": 1.5}, {"mode": "cubic"}):
            with pytest.raises(MeasurementError, match=r"cannot interpolate \(2, 3\) and"):
                interpolate(**({"a": a, "b": a, "alpha": 0.5, "mode": "linear"} | bad))

    def test_latents_between_queries_and_neighbours(self) -> None:
        queries, pool = normal(7, 2, seed=1), normal(9, 2, seed=2)
        chosen = torch.tensor([3, 1, 4, 1, 5, 8, 2])
        rows = torch.tensor([6, 0, 2])
        batches = list(
            interpolated_latents(
                queries, pool, chosen, alpha=0.5, mode="linear", rows=rows, batch_size=2
            )
        )
        assert [len(batch) for batch in batches] == [2, 1]
        expected = (queries[rows] + pool[[2, 3, 4]]) / 2
        torch.testing.assert_close(torch.cat(batches), expected)


class TestInterpolationFrechet:
    latents = normal(200, 3, 1, 1, seed=1)
    table = nearest_neighbours(latents, latents, neighbours=4, distance="l2", exclude_self=True)

    def measure(self, **changes):
        given = {
            "decode": lambda z: z * 2,
            "extract": lambda x: x.flatten(1),
            "reference": FeatureMoments.from_features(
                self.latents.flatten(1) * 2, extractor="probe"
            ),
            "generator": rng(),
            "shards": 10,
        }
        return measure_interpolation_frechet(
            self.latents, self.latents, self.table, **(given | changes)
        )

    def test_alpha_zero_is_the_distance_of_the_reconstructions(self) -> None:
        assert self.measure(alpha=0.0).value < 1e-9
        moved = self.measure(alpha=0.0, decode=lambda z: z * 2 + 1)
        assert moved.value == pytest.approx(3.0, rel=1e-6)

    def test_is_the_distance_of_the_midpoints(self) -> None:
        result = self.measure(choice="nearest", interpolation="linear")
        middle = (self.latents + self.latents[self.table.indices[:, 0]]) / 2
        generated = FeatureMoments.from_features(middle.flatten(1) * 2, extractor="probe")
        reference = FeatureMoments.from_features(self.latents.flatten(1) * 2, extractor="probe")
        assert result.value == pytest.approx(frechet_distance(reference, generated), rel=1e-5)
        assert result.metric == "continuity.ifd_probe"
        assert result.higher_is_better is False
        assert result.stderr > 0
        assert (result.options["choice"], result.options["neighbours"]) == ("nearest", 4)

    def test_batch_size_does_not_matter(self) -> None:
        a, b = self.measure(batch_size=3), self.measure(batch_size=200)
        assert a.value == pytest.approx(b.value, rel=1e-9)
        assert a.stderr == pytest.approx(b.stderr, rel=1e-7)

    def test_own_images_leave_the_reference_with_their_queries(self) -> None:
        """Where nothing is interpolated both sets are one, whichever images are left out."""
        images = self.latents.flatten(1) * 2
        given, joint = (self.measure(alpha=0.0, originals=o) for o in (None, images))
        assert joint.value == given.value
        assert given.stderr > 1e-3
        assert joint.stderr < 1e-9
        with pytest.raises(MeasurementError, match="150 features are not those"):
            self.measure(originals=images[:150])

    def test_queries_that_are_their_own_pool_are_flagged(self) -> None:
        assert "queries-are-the-pool" in self.measure().flags
        other = self.latents.roll(1, dims=0)
        apart = measure_interpolation_frechet(
            self.latents,
            other,
            nearest_neighbours(self.latents, other, neighbours=4),
            decode=lambda z: z,
            extract=lambda x: x.flatten(1),
            reference=FeatureMoments.from_features(self.latents.flatten(1), extractor="probe"),
            generator=rng(),
        )
        assert apart.flags == ()

    def test_a_stale_table_is_refused(self) -> None:
        with pytest.raises(MeasurementError, match="recompute the neighbours"):
            measure_interpolation_frechet(
                self.latents[:50],
                self.latents,
                self.table,
                decode=lambda z: z,
                extract=lambda x: x.flatten(1),
                reference=FeatureMoments.from_features(self.latents.flatten(1), extractor="probe"),
                generator=rng(),
            )
        with pytest.raises(MeasurementError, match="shards"):
            self.measure(shards=1)


def coverage(repetitions: int, own: bool) -> float:
    """Return the share of 95 % intervals that hold the mean over all repetitions.

    Queries are drawn anew, the pool of their neighbours stays. Real images are the queries' own,
    or very many others.
    """
    pool = normal(500, 8, 1, 1, seed=10**6)
    many = FeatureMoments.from_features(normal(10**5, 8, seed=10**6 + 1), extractor="probe")
    runs = []
    for seed in range(repetitions):
        queries = normal(300, 8, 1, 1, seed=seed)
        images = bent(queries).flatten(1)
        few = FeatureMoments.from_features(images, extractor="probe")
        runs.append(
            measure_interpolation_frechet(
                queries,
                pool,
                nearest_neighbours(queries, pool, neighbours=10),
                decode=bent,
                extract=lambda x: x.flatten(1),
                reference=few if own else many,
                originals=images if own else None,
                generator=rng(seed),
            )
        )
    values = np.array([run.value for run in runs])
    errors = np.array([run.stderr for run in runs])
    return float(np.mean(np.abs(values - values.mean()) < 1.96 * errors))


def bent(z: torch.Tensor) -> torch.Tensor:
    return z + 0.3 * z.square()


@pytest.mark.release
@pytest.mark.parametrize("own", [False, True])
def test_standard_error_covers(own: bool) -> None:
    assert 0.90 <= coverage(200, own) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_standard_error_covers_over_many_repetitions(own: bool) -> None:
    assert 0.90 <= coverage(2000, own) <= 0.98


def test_the_pool_is_read_once_in_the_search() -> None:
    made = torch.Generator().manual_seed(0)
    queries, pool = (torch.randn(n, 2, 2, 2, generator=made) for n in (90, 70))

    class Rows:
        """A pool that counts what is read of it."""

        shape, read = pool.shape, 0

        def __len__(self) -> int:
            return len(pool)

        def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
            self.read += len(rows)
            return pool[rows]

    counted = Rows()
    table = nearest_neighbours(queries, counted, neighbours=3, block_size=8)
    candidates = 3 + 8  # read again for their float64 distances
    assert counted.read == len(pool) + candidates * len(queries)
    alone = nearest_neighbours(queries, pool, neighbours=3, block_size=8)
    assert torch.equal(table.indices, alone.indices)
