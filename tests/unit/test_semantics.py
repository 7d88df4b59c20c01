"""Semantic separability: closed forms, loops, properties, errors, coverage."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks import latent_loops as loops
from diffusability.errors import MeasurementError
from diffusability.latents import channel_statistics as blocks
from diffusability.metrics.linear_probe import linear_probe
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.semantics import (
    consistency_range,
    consistency_stderr,
    foreground_mean,
    measure_semantics,
    neighbour_consistency,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _set(
    classes: int = 4, each: int = 12, separation: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    labels = torch.arange(classes * each) % classes
    means = torch.randn(classes, 3, 1, 1, generator=_generator(99))
    noise = torch.randn(classes * each, 3, 4, 5, generator=_generator(seed))
    return separation * means[labels] + noise, labels


def _masks(count: int, seed: int = 1) -> Tensor:
    return (torch.rand(count, 4, 5, generator=_generator(seed)) - 0.4).clamp(min=0)


def _found(
    latents: Tensor, labels: Tensor, masks: Tensor | None = None, **options: object
) -> dict[str, Measurement]:
    options = {"generator": _generator(7), "neighbours": (1, 5)} | options
    return {
        m.metric.removeprefix("semantics."): m
        for m in measure_semantics(latents, labels, masks, **options)[0]
    }


def test_separated_classes_reach_the_ceiling():
    latents, labels = _set(separation=1e4)
    found = _found(latents, labels, neighbours=(1, 5, 10, 20))
    for k in (1, 5, 10):
        assert found[f"lnc{k}"].value == 1
        assert found[f"lnc{k}_l2"].value == 1
        assert found[f"lnc{k}"].stderr == (0 if k < 10 else None)
    assert found["lnc20"].value == pytest.approx(11 / 20)  # eleven others of the class
    assert found["lnc20_corrected"].value == pytest.approx(1)
    assert found["probe"].value == 1


def test_shuffled_labels_are_at_chance():
    latents, labels = _set(classes=4, each=250, separation=3)
    shuffled = labels[torch.randperm(1000, generator=_generator(5))]
    found = _found(latents, shuffled)
    for k in (1, 5):
        plain, corrected = found[f"lnc{k}"], found[f"lnc{k}_corrected"]
        assert plain.options["chance"] == pytest.approx(249 / 999)
        assert plain.value == pytest.approx(249 / 999, abs=3 * plain.stderr)
        assert plain.stderr < 0.02
        assert corrected.value == pytest.approx(0, abs=3 * corrected.stderr)
    assert found["probe"].value == pytest.approx(0.25, abs=4 * found["probe"].stderr)


def test_chance_and_ceiling_of_unequal_classes():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    limits = consistency_range(labels, 2)
    assert limits.chance == pytest.approx((3 * 2 + 2 * 1 + 0) / 6 / 5)
    assert limits.ceiling == pytest.approx((3 * 1 + 2 * 0.5 + 0) / 6)


def test_consistency_of_a_hand_made_line():
    labels = torch.tensor([0, 0, 1, 1])
    neighbours = torch.tensor([[1, 2, 3], [0, 2, 3], [1, 3, 0], [2, 1, 0]])
    assert neighbour_consistency(labels, neighbours, 1).tolist() == [1, 1, 0, 1]
    assert neighbour_consistency(labels, neighbours, 2).tolist() == [0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_the_loops(masked: bool):
    latents, labels = _set()
    masks = _masks(len(labels)) if masked else None
    found = _found(latents, labels, masks)
    raw, scaled = latents.double().numpy(), loops.z_scores(latents.numpy())
    weights = np.ones((len(raw), 4, 5)) if masks is None else masks.double().numpy()

    def pooled(images: np.ndarray, area: bool) -> np.ndarray:
        chosen = weights if area else (weights > 0).astype(float)
        return np.array(
            [(x * w).sum(axis=(1, 2)) / w.sum() for x, w in zip(images, chosen, strict=True)]
        )

    y = labels.numpy()
    for k in (1, 5):
        expected = {
            f"lnc{k}": loops.lnc(pooled(scaled, False), y, k, "cosine"),
            f"lnc{k}_l2": loops.lnc(pooled(scaled, False), y, k, "l2"),
            f"lnc{k}_raw": loops.lnc(pooled(raw, False), y, k, "cosine"),
        }
        if masked:
            expected[f"lnc{k}_area"] = loops.lnc(pooled(scaled, True), y, k, "cosine")
        assert {name: found[name].value for name in expected} == pytest.approx(expected, rel=1e-6)


def test_the_foreground_alone_is_averaged():
    latents = torch.arange(8.0).reshape(1, 2, 2, 2)
    weights = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    assert foreground_mean(latents, weights).tolist() == [[9 / 4, 25 / 4]]
    assert foreground_mean(latents, None).tolist() == [[1.5, 5.5]]


def test_background_does_not_reach_lnc():
    latents, labels = _set()
    masks = _masks(len(labels))
    spoiled = latents.clone()
    # raw cosines: the z-score of the set would move with the background
    spoiled += 100 * torch.randn(latents.shape, generator=_generator(3)) * (masks == 0)[:, None]
    before, after = _found(latents, labels, masks), _found(spoiled, labels, masks)
    assert after["lnc5_raw"].value == before["lnc5_raw"].value


def test_images_without_foreground_are_left_out_and_flagged():
    latents, labels = _set()
    masks = _masks(len(labels))
    masks[:3] = 0
    found = _found(latents, labels, masks)
    assert found["lnc5"].n == len(labels) - 3
    assert "3 images without foreground left out" in found["lnc5"].flags
    assert found["probe"].n == len(labels)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), images=st.integers(1, 7))
def test_neither_order_nor_batch_nor_dtype_nor_label_names_matter(seed: int, images: int):
    latents, labels = _set(seed=seed)
    latents, masks = latents.bfloat16(), _masks(len(labels), seed + 1)
    training = 1.1 * latents.double().mean(dim=(2, 3)), labels
    found = _found(latents, labels, masks, training=training)
    expected = {name: m.value for name, m in found.items()}
    order = torch.randperm(len(labels), generator=_generator(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_BLOCK_BYTES", images * 8 * 60)
        moved = _found(
            latents[order].double(),
            5 + 2 * labels[order],
            masks[order],
            training=(training[0], 5 + 2 * labels),
        )
    probe = expected.pop("probe")
    assert {name: moved[name].value for name in expected} == pytest.approx(expected, abs=1e-9)
    assert moved["probe"].value == pytest.approx(probe, abs=0.07)  # the optimiser may round


def test_the_probe_separates_what_a_line_separates():
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None] * torch.tensor([[1.0, 0.0]])
    labels = (x[:, 0] > 0).long()
    train = torch.arange(40) % 2 == 0
    result = linear_probe(x, labels, generator=_generator(), train=train)
    assert (result.value, result.n) == (1.0, 20)
    assert result.options["protocol"] == "20 given training images"


def test_the_probe_learns_from_other_images():
    """Other images of the same classes: the accuracy of a classifier of their means."""
    latents, labels = _set(4, 60, 0.4, seed=3)
    learned, classes = _set(4, 200, 0.4, seed=4)
    dead = torch.ones(len(latents), 1, *latents.shape[2:])  # a channel that says nothing
    dead_learned = torch.ones(len(learned), 1, *learned.shape[2:])
    x, y = torch.cat([latents, dead], 1), torch.cat([learned, dead_learned], 1)
    means = y.double().mean(dim=(2, 3))
    probe = _found(x, labels, training=(means, classes))["probe"]
    assert probe.n == 240
    assert probe.options["protocol"] == "800 given training images"
    # by hand, with scikit-learn on z-scores of the training images
    a, b = (v.double().mean(dim=(2, 3)).numpy() for v in (learned, latents))
    centre, spread = a.mean(0), a.std(0, ddof=1)
    model = LogisticRegression(max_iter=500).fit((a - centre) / spread, classes.numpy())
    assert probe.value == model.score((b - centre) / spread, labels.numpy())
    assert probe.value != _found(x, labels)["probe"].value


def test_the_probe_reaches_the_bayes_accuracy_of_two_gaussians():
    labels = torch.arange(4000) % 2
    noise = torch.randn(4000, 1, generator=_generator(), dtype=torch.float64)
    result = linear_probe(noise + 2 * labels[:, None], labels, generator=_generator())
    assert result.n == 4000
    assert result.value == pytest.approx(0.8413, abs=3 * result.stderr)  # Phi(1)
    assert result.stderr == pytest.approx((0.8413 * 0.1587 / 4000) ** 0.5, rel=0.05)


def test_fewer_folds_than_five_where_classes_are_small():
    latents, labels = _set(each=3)
    found = _found(latents, labels, neighbours=(1,))
    assert found["probe"].options["protocol"] == "3 stratified folds"


def test_same_generator_same_numbers():
    latents, labels = _set()
    first, second = _found(latents, labels), _found(latents, labels)
    assert {n: (m.value, m.stderr) for n, m in first.items()} == {
        n: (m.value, m.stderr) for n, m in second.items()
    }


def test_impossible_sets_are_refused():
    latents, labels = _set()
    with pytest.raises(MeasurementError, match="two classes"):
        _found(latents, labels * 0)
    with pytest.raises(MeasurementError, match="class of two images"):
        _found(latents, torch.arange(len(labels)))
    with pytest.raises(
        MeasurementError, match="48 neighbours need at least 49 images, and 48 of 48"
    ):
        _found(latents, labels, neighbours=(48,))
    with pytest.raises(MeasurementError, match="out of range"):
        _found(latents, labels - 1)
    with pytest.raises(MeasurementError, match="one per image"):
        _found(latents, labels[:-1])
    with pytest.raises(MeasurementError, match="one per image"):
        _found(latents, labels.float())
    with pytest.raises(MeasurementError, match="any foreground"):
        _found(latents, labels, torch.zeros(48, 4, 5))
    with pytest.raises(MeasurementError, match="pool them to the grid"):
        _found(latents, labels, torch.ones(48, 8, 8))
    means = latents.double().mean(dim=(2, 3))
    with pytest.raises(MeasurementError, match=r"give \(n, C\) means and \(n,\) labels"):
        _found(latents, labels, training=(means, labels[1:]))
    with pytest.raises(MeasurementError, match="images to learn from"):
        _found(latents, labels, training=(means[:0], labels[:0]))
    with pytest.raises(MeasurementError, match="train must be"):
        linear_probe(means, labels, generator=_generator(), train=labels)


def test_lonely_classes_are_flagged():
    latents, labels = _set()
    labels = labels.clone()
    labels[0] = 9
    training = latents.double().mean(dim=(2, 3)), labels
    flags = _found(latents, labels, training=training)["lnc5"].flags
    assert flags == ("1 classes of one image, which always count as 0",)
    # folds cannot hold such a class, which is no reason to leave LNC out
    found, without = measure_semantics(
        latents, labels, None, generator=_generator(7), neighbours=(1, 5)
    )
    assert {m.metric for m in found} == {
        f"semantics.lnc{k}{ending}" for k in (1, 5) for ending in ("", "_corrected", "_l2", "_raw")
    }
    ((name, reason),) = without
    assert name == "semantics.probe"
    assert "leave out classes of one image with metrics.semantics.smallest_class: skip" in reason


def test_where_all_images_are_neighbours_chance_is_the_ceiling() -> None:
    latents, labels = _set(2, 3, 1.0, 0)
    found, without = measure_semantics(
        latents, labels, None, generator=_generator(), neighbours=(2, 5)
    )
    seen = {m.metric: m for m in found}
    assert seen["semantics.lnc5"].value == pytest.approx(2 / 5)
    assert "semantics.lnc2_corrected" in seen
    assert [name for name, _ in without] == ["semantics.lnc5_corrected"]


def test_many_neighbours_of_few_images_have_no_standard_error() -> None:
    latents, labels = _set(4, 15)
    seen = _found(latents, labels, neighbours=(5, 10))
    assert seen["lnc5"].stderr is not None
    for name in ("lnc10", "lnc10_corrected", "lnc10_raw"):
        assert seen[name].stderr is None
        assert seen[name].flags == ("no standard error: it needs 64 images",)
    assert _found(*_set(4, 16), neighbours=(10,))["lnc10"].stderr is not None


def _coverage(repetitions: int) -> dict[str, float]:
    found: dict[str, list[tuple[float, float]]] = {}
    learned, classes = _set(5, 80, 0.2, 10_000)  # held fixed, as the error of the probe assumes
    training = learned.double().mean(dim=(2, 3)), classes
    for seed in range(repetitions):
        latents, labels = _set(5, 40, 0.2, seed)
        for name, m in _found(latents, labels, training=training).items():
            found.setdefault(name, []).append((m.value, m.stderr))
    table = {name: np.array(pairs) for name, pairs in found.items()}
    return {
        name: float(np.mean(np.abs(v[:, 0] - v[:, 0].mean()) < 1.96 * v[:, 1]))
        for name, v in table.items()
    }


@pytest.mark.release
def test_standard_errors_cover():
    assert all(0.90 <= share <= 0.98 for share in _coverage(150).values())


@pytest.mark.slow
def test_standard_errors_cover_over_many_repetitions():
    assert all(0.90 <= share <= 0.98 for share in _coverage(2000).values())


def test_the_error_of_independent_hits_is_binomial():
    """With random neighbour lists every hit is a coin, so the error is that of a proportion."""
    count, lists = 2000, 40
    labels = torch.arange(count) % 2
    neighbours = torch.rand(count, count, generator=_generator()).topk(lists, dim=1).indices
    stderr = consistency_stderr(labels, neighbours, (1,), generator=_generator(2), halvings=400)
    assert stderr[0] == pytest.approx((0.25 / count) ** 0.5, rel=0.12)
