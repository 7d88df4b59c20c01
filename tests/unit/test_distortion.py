"""Epsilon, kappa and the parts of the FIR deviation, on encoders whose theory is known."""

import math

import pandas as pd
import pytest
import torch
from torch import Tensor

from diffusability.data.images import thinned
from diffusability.errors import MeasurementError
from diffusability.figures.distortion import parts_by_noise
from diffusability.fisher.oracle import normal_rule
from diffusability.fisher.toy_oracles import cylinder_oracle
from diffusability.metrics.distortion import PARTS, expand, measure_distortion
from tests.oracles.closed_forms import gaussian_curve
from tests.unit.fisher_examples import isometry, normal

V = (0.1, 0.5, 2.0)
PLANE = normal(600, 2).view(600, 2, 1, 1)
NO_CLASS = torch.zeros(600, dtype=torch.int64)


def flat(function):
    """Return a function of (B, n) as an encoder of images."""
    return lambda x: function(x.flatten(1))[:, :, None, None]


def cylinder(radius: float):
    def wrap(x: Tensor) -> Tensor:
        angle = x[:, 0] / radius
        return torch.stack((radius * angle.sin(), x[:, 1], radius * angle.cos()), dim=1)

    return flat(wrap)


def measured(encode, images: Tensor = PLANE, **options: int) -> dict[str, float]:
    labels = torch.zeros(len(images), dtype=torch.int64)
    return {m.metric: m.value for m in measure_distortion(encode, images, labels, V, **options)}


@pytest.mark.parametrize("dim", [2, 5])
def test_an_isometry_has_a_dimension_penalty_alone(dim: int) -> None:
    columns = isometry(dim, 2)
    seen = measured(flat(lambda x: 3 * x @ columns.T), neighbours=2)
    for name in ("epsilon", "kappa", "fir_tangential", "fir_curvature", "fir_curvature_empirical"):
        assert seen[f"distortion.{name}"] == pytest.approx(0, abs=1e-6)
    assert seen["distortion.fir_dimension"] == (dim - 2) / 2


def test_too_few_images_leave_the_dimension_penalty_exact() -> None:
    few = PLANE[:12]
    rows = measure_distortion(cylinder(1.5), few, torch.zeros(12, dtype=torch.int64), [1e-3, 1.0])
    parts = ("dimension", "tangential")
    flags = {part: {m.flags for m in rows if f"fir_{part}" in m.metric} for part in parts}
    assert flags["dimension"] == {()}
    assert any(flags["tangential"])


def test_a_linear_map_has_a_tangential_part_alone_and_its_closed_form() -> None:
    images = normal(2000, 2).view(2000, 2, 1, 1)
    stretch = torch.tensor([1.2, 0.8], dtype=torch.float64)
    seen = measured(flat(lambda x: x * stretch), images, neighbours=2)
    # one number gives the latents the total variance of the images
    squares = stretch.square() * 2 / stretch.square().sum()
    assert seen["distortion.epsilon"] == pytest.approx(float((squares - 1).abs().max()), abs=0.02)
    assert seen["distortion.kappa"] == pytest.approx(0, abs=1e-6)
    assert seen["distortion.fir_curvature"] == pytest.approx(0, abs=1e-9)
    for i, v in enumerate(V):
        exact = gaussian_curve(squares, V)[i, 1] - gaussian_curve(torch.ones(2), V)[i, 1]
        at = seen[f"distortion.curve_fir_tangential_v{v:g}"]
        assert at == pytest.approx(float(exact), abs=0.005)


def test_a_bent_plane_is_curved_alone_and_has_its_remainder() -> None:
    radius = 1.5
    at = expand(cylinder(radius), PLANE, anchors=torch.arange(0, 600, 20), neighbours=2)
    spreads = [x.var(0, correction=0).sum() for x in (PLANE.flatten(1), at.latents)]
    assert float(spreads[0]) == pytest.approx(float(spreads[1]))
    back = at.tangents / float(at.tangents[0, 0, 0])
    assert torch.allclose(back, torch.eye(2, dtype=torch.float64).expand(30, 2, 2), atol=1e-6)
    h, w = normal_rule((), 0.5)
    across, along = radius * (h / radius).sin() - h, radius * (1 - (h / radius).cos())
    curved = across.square() + along.square()
    best = float(at.remainders.min() / at.tangents[0, 0, 0])
    assert best == pytest.approx(float(w @ curved), rel=0.15)  # around the centre of the data


def test_the_parts_add_up_to_the_deviation_of_the_bent_plane() -> None:
    images = normal(1500, 2).view(1500, 2, 1, 1)
    seen = measured(cylinder(1.0), images, neighbours=2)
    oracle, raw = cylinder_oracle(1.0), {}
    x = cylinder(1.0)(images).flatten(1)
    scale = float(images.flatten(1).var(0).sum() / x.var(0).sum())
    for v in V:
        at = oracle.information(v / scale)
        raw[v] = (v / scale) ** 2 * at.fir / 2 - (v / (1 + v)) ** 2
        total = sum(seen[f"distortion.curve_fir_{part}_empirical_v{v:g}"] for part in PARTS)
        assert total == pytest.approx(raw[v], abs=0.06)


def test_theorem_3_5_holds_on_toys_with_one_constant() -> None:
    worst = 0.0
    for inverse in (0.1, 0.4, 0.8):
        oracle, kappa = cylinder_oracle(1 / inverse), math.sqrt(1.5) * inverse
        for v in (0.01, 0.1, 0.5):
            fir = oracle.information(v).fir
            deviation = v**2 * abs(fir - 2 / (1 + v) ** 2 - 1 / v**2) / 3
            worst = max(worst, deviation / (kappa / math.sqrt(v)))
    for eps in (0.05, 0.5):
        for v in V:
            share = [gaussian_curve(torch.full((2,), s), V)[V.index(v), 1] for s in (1 + eps, 1.0)]
            worst = max(worst, abs(float(share[0] - share[1])) / eps)
    assert worst < 0.3


def test_the_constant_of_theorem_3_5_is_of_the_largest_epsilon_below_one() -> None:
    def stretched(by: float) -> dict[str, float]:
        return measured(flat(lambda x: x * torch.tensor([by, 1.0])), neighbours=2)

    seen = stretched(math.sqrt(1.5))  # no curvature, and one epsilon at every image
    rest = [sum(seen[f"distortion.curve_fir_{part}_v{v:g}"] for part in PARTS[1:]) for v in V]
    constant = max(map(abs, rest)) / seen["distortion.epsilon"]
    assert seen["distortion.theorem_constant"] == pytest.approx(constant, rel=1e-6)
    uneven = flat(lambda x: torch.stack((x[:, 0] ** 3, x[:, 1]), dim=1))
    assert "distortion.theorem_constant" not in measured(uneven, neighbours=2)


def test_errors_and_refusals() -> None:
    found = measure_distortion(cylinder(1.0), PLANE[:60], NO_CLASS[:60], V, neighbours=2)
    rows = {m.metric: m for m in found}
    assert rows["distortion.kappa"].stderr > 0
    assert rows["distortion.fir_curvature"].stderr > 0
    assert rows["distortion.epsilon"].higher_is_better is False
    assert rows["distortion.fir_curvature"].flags == ()
    assert rows["distortion.fir_curvature_empirical"].flags[0].startswith("loose: bounds")
    assert rows["distortion.fir_curvature"].higher_is_better is None
    with pytest.raises(MeasurementError, match="8 neighbours each"):
        measured(cylinder(1.0), PLANE[:8])
    with pytest.raises(MeasurementError, match="collapsed"):
        measured(flat(lambda x: 0 * x))


def test_too_many_classes_for_the_images_are_taken_as_one() -> None:
    images = PLANE[:60]
    alone, many = (
        {m.metric: m for m in measure_distortion(cylinder(1.0), images, labels, V, neighbours=2)}
        for labels in (NO_CLASS[:60], torch.arange(60))
    )
    part = "distortion.fir_tangential"
    assert many[part].value == alone[part].value
    assert many[part].flags == (*alone[part].flags, "one class: unconditional")
    assert "one class: unconditional" in many["distortion.curve_fir_curvature_v2"].flags
    assert many["distortion.curve_fir_dimension_v2"].flags == ()
    assert alone["distortion.epsilon"].n == 16  # anchors, which the error is over


def test_duplicate_images_give_no_direction() -> None:
    stretch = torch.tensor([1.4, 0.7, 0.7, 0.7], dtype=torch.float64)
    # near images differ in three directions
    near, far = normal(40, 3) @ isometry(4, 3).T, 5 + normal(20, 4, seed=1)
    images = torch.cat((near, far))
    encode = flat(lambda x: x * stretch)
    first = torch.tensor([0])
    for twice in (0, 1):  # the anchor, and its neighbour
        nearest = (near - near[0]).norm(dim=1).argsort()
        more = torch.cat((images, images[nearest[twice]].expand(3, -1)))
        at, known = (
            expand(encode, x[:, :, None, None], anchors=first, neighbours=3) for x in (more, images)
        )
        scale = (known.latents[0] / at.latents[0]).square()[0]
        found, exact = (torch.linalg.eigvalsh(each.tangents[0]) for each in (at, known))
        assert torch.allclose(scale * found, exact, rtol=1e-6)


def test_anchors_are_of_every_class_whatever_the_order_of_images() -> None:
    labels = torch.arange(96) % 12
    chosen = thinned(torch.arange(96), 16, labels)  # every sixth is of two classes
    assert torch.equal(chosen, chosen.sort().values)
    assert set(torch.bincount(labels[chosen], minlength=12).tolist()) == {1, 2}
    by_class = labels.sort().values
    assert torch.equal(thinned(torch.arange(96), 16, by_class), thinned(torch.arange(96), 16))
    x, offset = normal(96, 2), torch.where(labels % 6 == 0, 0.0, 3.0)[:, None]
    bent = flat(lambda x: torch.cat((x, (x[:, :1] - 2).relu().square()), dim=1))
    images = (x + offset)[:, :, None, None]
    rows = {m.metric: m for m in measure_distortion(bent, images, labels, V, anchors=16)}
    assert rows["distortion.epsilon"].options["least"] < rows["distortion.epsilon"].value / 2


def test_the_figure_adds_the_parts_up() -> None:
    rows = [
        {"metric": m.metric, "value": m.value, "tokenizer": "a"}
        for m in measure_distortion(cylinder(1.0), PLANE[:60], NO_CLASS[:60], V, neighbours=2)
    ]
    found = parts_by_noise(pd.DataFrame(rows))
    assert len(found) == 2 * len(V)
    assert set(found["ending"]) == {"", "_empirical"}
    seen = {row["metric"]: row["value"] for row in rows}
    one = found[(found["ending"] == "") & (found["v"] == 0.5)].iloc[0]
    for part in PARTS:
        assert one[part] == seen[f"distortion.curve_fir_{part}_v0.5"]


def test_large_images_are_encoded_and_pushed_a_few_at_a_time() -> None:
    sizes = []

    def encode(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images[:, :, :1, :2]

    images = torch.randn(6, 1, 512, 512, generator=torch.Generator().manual_seed(0))
    at = expand(encode, images, anchors=torch.tensor([0]), neighbours=2)
    assert sizes == [4, 2, 4, 4]  # 16 images of 256 x 256 pixels; then two directions, six steps
    assert at.linear.shape == (6, 2)
