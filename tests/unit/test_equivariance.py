"""Equivariance: exact encoders, unrelated latents, loops, declared cells, coverage."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusability.errors import MeasurementError
from diffusability.metrics.equivariance import Transform, measure_equivariance

ROTATIONS = tuple(Transform("rotate", a) for a in (90, 180, 270))
FLIP = Transform("flip", 0)
HALF = Transform("scale", 0.5)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def identity(images: torch.Tensor) -> torch.Tensor:
    return images


def pooled(images: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(images, 4)


def cells(encode, images: torch.Tensor, transforms, batch_size: int = 100):
    measurements, not_applicable = measure_equivariance(
        encode, images.split(batch_size), transforms=transforms
    )
    found = {m.metric.removeprefix("equivariance."): m for m in measurements}
    return found, dict(not_applicable)


def test_transforms_by_hand() -> None:
    grid = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert ROTATIONS[0].apply(grid)[0, 0].tolist() == [[2, 4], [1, 3]]  # counter-clockwise
    assert ROTATIONS[1].apply(grid)[0, 0].tolist() == [[4, 3], [2, 1]]
    assert ROTATIONS[2].apply(grid)[0, 0].tolist() == [[3, 1], [4, 2]]
    assert FLIP.apply(grid)[0, 0].tolist() == [[2, 1], [4, 3]]
    assert HALF.apply(grid)[0, 0].tolist() == [[2.5]]
    assert [t.name for t in (*ROTATIONS, FLIP, HALF)] == [
        "rotate90",
        "rotate180",
        "rotate270",
        "flip",
        "scale0.5",
    ]


def test_identity_encoder_is_exact() -> None:
    found, not_applicable = cells(identity, normal(5, 3, 8, 8, seed=1), (*ROTATIONS, FLIP, HALF))
    assert not not_applicable
    assert set(found) == {
        f"{cell}_{kind}"
        for cell in ("rotate90", "rotate180", "rotate270", "rotate", "flip", "scale0.5")
        for kind in ("error", "cosine")
    }
    assert all(abs(m.value) < 1e-12 and m.stderr < 1e-12 for m in found.values())
    assert all(m.higher_is_better is False for m in found.values())


def test_pooling_commutes_with_rotation_and_flip() -> None:
    found, _ = cells(pooled, normal(4, 3, 16, 16, seed=1), (*ROTATIONS, FLIP))
    assert all(abs(m.value) < 1e-12 for m in found.values())


def test_unrelated_latents_have_error_two_and_cosine_one() -> None:
    generator = torch.Generator().manual_seed(0)

    def unrelated(images: torch.Tensor) -> torch.Tensor:
        shape = (len(images), 4, images.shape[2] // 4, images.shape[3] // 4)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return noise * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None] + 10

    centred = lambda x: unrelated(x) - 10  # noqa: E731
    found, _ = cells(unrelated, normal(400, 3, 16, 16, seed=1), (*ROTATIONS, FLIP))
    for name in ("rotate_error", "flip_error"):
        assert found[name].value == pytest.approx(2.0, abs=4 * found[name].stderr)
        assert found[name].stderr < 0.03
    found, _ = cells(centred, normal(400, 3, 16, 16, seed=1), (FLIP,))
    assert found["flip_cosine"].value == pytest.approx(1.0, abs=4 * found["flip_cosine"].stderr)


def test_agrees_with_the_loop() -> None:
    weight = normal(2, 3, 4, 4, seed=9)
    encode = lambda x: F.conv2d(x, weight, stride=4).tanh() + 0.5  # noqa: E731
    images = normal(6, 3, 16, 16, seed=2)
    found, _ = cells(encode, images, (ROTATIONS[0], HALF), batch_size=4)
    for transform in (ROTATIONS[0], HALF):
        z, target = transform.apply(encode(images)), encode(transform.apply(images))
        mean = [float(target[:, c].mean()) for c in range(2)]
        error = spread = 0.0
        cosines = []
        for n in range(6):
            for i in range(target.shape[2]):
                for j in range(target.shape[3]):
                    a, b = z[n, :, i, j].numpy(), target[n, :, i, j].numpy()
                    error += ((a - b) ** 2).sum()
                    spread += ((b - np.array(mean)) ** 2).sum()
                    cosines.append(a @ b / np.sqrt((a @ a) * (b @ b)))
        assert found[f"{transform.name}_error"].value == pytest.approx(error / spread, rel=1e-10)
        assert found[f"{transform.name}_cosine"].value == pytest.approx(
            1 - np.mean(cosines), rel=1e-10
        )


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 10))
def test_neither_order_nor_batch_nor_dtype_matters(seed: int, batch: int) -> None:
    images = normal(9, 3, 16, 16, seed=seed).bfloat16()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    encode = lambda x: F.conv2d(x.double(), normal(2, 3, 4, 4, seed=9), stride=4)  # noqa: E731
    one, _ = cells(encode, images, (*ROTATIONS, FLIP))
    two, _ = cells(encode, images[order].double(), (*ROTATIONS, FLIP), batch_size=batch)
    for name, m in one.items():
        assert two[name].value == pytest.approx(m.value, rel=1e-10)
        assert two[name].stderr == pytest.approx(m.stderr, rel=1e-8)


def test_the_value_of_a_family_is_the_mean() -> None:
    weight = normal(2, 3, 4, 4, seed=9)
    encode = lambda x: F.conv2d(x, weight, stride=4)  # noqa: E731
    one, _ = cells(encode, normal(9, 3, 16, 16, seed=2), ROTATIONS)
    members = [one[f"rotate{a}_error"].value for a in (90, 180, 270)]
    assert one["rotate_error"].value == pytest.approx(np.mean(members), rel=1e-12)


def test_sizes_that_are_not_whole_are_declared() -> None:
    found, not_applicable = cells(
        pooled, normal(4, 3, 12, 12, seed=1), (HALF, Transform("scale", 0.75), FLIP)
    )
    assert set(not_applicable) == {"scale0.5", "scale0.75", "scale"}
    assert "not whole" in not_applicable["scale0.5"]
    assert "scale0.5" in not_applicable["scale"]
    assert set(found) == {"flip_error", "flip_cosine"}


def test_a_family_with_one_impossible_member_is_declared_and_the_others_measured() -> None:
    found, not_applicable = cells(
        identity, normal(4, 3, 6, 6, seed=1), (HALF, Transform("scale", 0.75))
    )
    assert set(not_applicable) == {"scale0.75", "scale"}
    assert set(found) == {"scale0.5_error", "scale0.5_cosine"}


def test_an_encoder_of_fixed_size_declares_scales_only() -> None:
    positions = normal(1, 3, 8, 8, seed=3)
    found, not_applicable = cells(
        lambda x: x + positions, normal(4, 3, 8, 8, seed=1), (*ROTATIONS, HALF)
    )
    assert set(not_applicable) == {"scale0.5"}
    assert "does not accept (4, 4) images" in not_applicable["scale0.5"]
    assert found["rotate_error"].value > 0


def test_a_grid_that_does_not_follow_the_image_is_declared() -> None:
    _, not_applicable = cells(
        lambda x: F.adaptive_avg_pool2d(x, 4), normal(4, 3, 8, 8, seed=1), (HALF,)
    )
    assert "gives a (4, 4) grid" in not_applicable["scale0.5"]


def test_a_failing_encoder_is_not_an_impossible_cell() -> None:
    def broken(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken weights")

    with pytest.raises(RuntimeError, match="broken weights"):
        cells(broken, normal(4, 3, 8, 8, seed=1), (HALF,))

    calls = []

    def broken_later(images: torch.Tensor) -> torch.Tensor:
        calls.append(images)
        if len(calls) > 1:
            raise RuntimeError("broken later")
        return images

    with pytest.raises(RuntimeError, match="broken later"):
        cells(broken_later, normal(4, 3, 8, 8, seed=1), (FLIP,))

    def out_of_memory(images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] < 8:
            raise torch.OutOfMemoryError("out of memory")
        return images

    with pytest.raises(torch.OutOfMemoryError):
        cells(out_of_memory, normal(4, 3, 8, 8, seed=1), (HALF,))


@pytest.mark.release
def test_standard_errors_cover() -> None:
    weight = normal(2, 3, 4, 4, seed=9)
    encode = lambda x: F.conv2d(x, weight, stride=4)  # noqa: E731
    results = []
    for seed in range(250):
        amplitude = 0.5 + torch.rand(40, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
        images = normal(40, 3, 8, 8, seed=seed) * amplitude
        results.append(cells(encode, images, ROTATIONS)[0])
    for name in ("rotate_error", "rotate90_cosine"):
        values = np.array([r[name].value for r in results])
        errors = np.array([r[name].stderr for r in results])
        share = np.mean(np.abs(values - values.mean()) < 1.96 * errors)
        assert 0.90 <= share <= 0.98, name


def test_bad_input_is_refused() -> None:
    images = normal(4, 3, 8, 8, seed=1)
    with pytest.raises(MeasurementError, match="two images"):
        cells(identity, images[:1], (FLIP,))
    with pytest.raises(MeasurementError, match="not finite|finite"):
        cells(lambda x: x / 0, images, (FLIP,))
    with pytest.raises(MeasurementError, match="have collapsed"):
        cells(torch.zeros_like, images, (FLIP,))
    for bad in (("rotate", 45), ("scale", 2.0), ("shear", 1), ("flip", 1)):
        with pytest.raises(MeasurementError, match="unknown transform"):
            Transform(*bad)
