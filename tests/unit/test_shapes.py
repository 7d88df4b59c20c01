"""The shapes dataset: masks, labels, independence of ranges, equal images on every processor."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffusability.data.images import to_float
from diffusability.data.shapes import (
    BLOCK,
    EXTENT,
    OUTLINES,
    SIDE,
    STEPS,
    distance_tables,
    draw_shapes,
    load_shapes,
    signed_distance,
)
from diffusability.study.core.fingerprint import derive_seed
from diffusability.study.entries.pixel_dataset import ShapesDataset
from diffusability.study.entries.trained_tokenizer import TokenizerSpec
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY
from tests.unit import networks


def shapes(**options: int) -> ShapesDataset:
    return ShapesDataset(kind="shapes", **options)


def test_distances_of_a_disc_a_ring_and_a_square_are_known() -> None:
    points = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, -0.7], [1.25, 0.0], [0.9, 0.9]])
    radii = np.hypot(*points.T)
    disc = signed_distance(OUTLINES["disc"], points)
    assert disc == pytest.approx(radii - 1, abs=2e-3)  # a polygon of 64 corners
    ring = signed_distance(OUTLINES["ring"], points)
    assert ring == pytest.approx(np.maximum(radii - 1, 0.55 - radii), abs=2e-3)
    square = signed_distance(OUTLINES["square"], np.array([[0.0, 0.0], [0.5, 0.2], [1.0, 0.0]]))
    half = np.sqrt(0.5)
    assert square == pytest.approx([-half, 0.5 - half, 1 - half])


def test_every_outline_fits_the_table_and_differs_from_the_others() -> None:
    tables = distance_tables()
    assert tables.shape == (12, SIDE, SIDE)
    centres = (np.arange(SIDE) + 0.5) / SIDE * 2 * EXTENT - EXTENT
    outside = np.hypot(centres[:, None], centres) > 1.25
    inside = tables < 0
    assert not (inside & outside).any()
    for first in range(12):
        for second in range(first):
            both = (inside[first] & inside[second]).sum()
            either = (inside[first] | inside[second]).sum()
            assert both / either < 0.9, (first, second)


def test_masks_are_the_shapes_by_a_slow_rule() -> None:
    """Repeat the geometry with exact trigonometry and distances, one pixel after another."""
    size = 32
    _, labels, masks = draw_shapes(shapes(size=size), "train", range(24))
    random = np.random.default_rng(derive_seed("shapes", 0, "train", 0))
    radius = random.uniform(0.26, 0.40, BLOCK) * size
    centre = (0.5 + random.uniform(-0.12, 0.12, (2, BLOCK))) * size
    angle = np.deg2rad(random.uniform(-35, 35, BLOCK))
    for k in range(24):
        points = []
        for row in range(size):
            for column in range(size):
                x, y = column + 0.5 - centre[0, k], centre[1, k] - row - 0.5
                turned = (
                    x * np.cos(angle[k]) + y * np.sin(angle[k]),
                    y * np.cos(angle[k]) - x * np.sin(angle[k]),
                )
                points.append([turned[0] / radius[k], turned[1] / radius[k]])
        loops = list(OUTLINES.values())[int(labels[k])]
        distance = signed_distance(loops, np.array(points)).reshape(size, size)
        differing = (distance <= 0) != masks[k].numpy()
        # the table is read at its nearest cell: off by at most half a cell's diagonal
        reach = EXTENT / SIDE * np.sqrt(2) + 1 / STEPS
        assert np.abs(distance[differing]).max(initial=0.0) < reach
    assert STEPS * 2 * EXTENT < 2**15


def test_classes_take_turns_and_the_foreground_stands_out() -> None:
    images, labels, masks = draw_shapes(shapes(), "val", range(600))
    assert images.shape == (600, 3, 32, 32)
    assert labels.bincount(minlength=12).tolist() == [50] * 12
    share = masks.float().mean(dim=(1, 2))
    assert 0.03 < share.min() < share.max() < 0.55
    colours = to_float(images)
    weight = masks[:, None].float()
    inside = (colours * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
    outside = (colours * (1 - weight)).sum(dim=(2, 3)) / (1 - weight).sum(dim=(2, 3))
    assert ((inside - outside).abs().amax(1) > 0.1).float().mean() > 0.98


def test_an_image_depends_on_seed_split_and_index_alone() -> None:
    spec = shapes(size=16)
    whole = draw_shapes(spec, "train", range(3 * BLOCK))
    part = draw_shapes(spec, "train", range(BLOCK - 5, 2 * BLOCK + 7))
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a[BLOCK - 5 : 2 * BLOCK + 7], b)
    other = draw_shapes(spec, "val", range(BLOCK))[0]
    assert not torch.equal(whole[0][:BLOCK], other)
    reseeded = draw_shapes(shapes(size=16, seed=1), "train", range(BLOCK))[0]
    assert not torch.equal(whole[0][:BLOCK], reseeded)


def test_the_set_holds_training_then_validation_images() -> None:
    data = load_shapes(shapes(size=16, train=300, val=130))
    assert data.split("train").tolist() == list(range(300))
    assert data.split("val").tolist() == list(range(300, 430))
    assert torch.equal(data.images[300:], draw_shapes(shapes(size=16), "val", range(130))[0])


@pytest.mark.release
@pytest.mark.parametrize(
    "settings",
    [
        {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"},
        {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512_SKX", "OMP_NUM_THREADS": "2"},
    ],
)
def test_other_instructions_give_the_same_images(settings: dict[str, str]) -> None:
    code = (
        "from diffusability.data.shapes import load_shapes\n"
        "from diffusability.study.entries.pixel_dataset import ShapesDataset\n"
        "print(load_shapes(ShapesDataset(kind='shapes', train=500, val=100)).digest())"
    )
    here = load_shapes(shapes(train=500, val=100)).digest()
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=REPOSITORY, env=os.environ | settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == here


def test_the_study_of_shapes_is_table_1_in_small() -> None:
    """Every row keeps its family, cluster and options; an encoder stands in for a vision model."""
    with (REPOSITORY / "tests" / "data" / "table1_tokenizers.csv").open() as file:
        rows = list(csv.DictReader(file))
    study = load_study(REPOSITORY / "studies" / "shapes.yaml")
    families = {"conv f16d32": "conv-f2d16", "conv f16d64": "conv-f2d32"}
    families |= {"transformer f16d32": "trans-f2d16"}
    stand_ins: dict[str, str] = {}
    for row, spec in zip(rows, study.tokenizers.values(), strict=True):
        assert isinstance(spec, TokenizerSpec)
        assert spec.family == families[f"{row['architecture']} {row['latent']}"]
        assert spec.cluster == row["cluster"]
        if "encoder" in spec.encoders:
            assert stand_ins.setdefault(row["variant"], spec.encoders["encoder"])
            assert stand_ins[row["variant"]] == spec.encoders["encoder"]
    assert len(set(stand_ins.values())) == len(stand_ins) == 15


@pytest.mark.slow
def test_a_small_classifier_learns_the_classes() -> None:
    spec = shapes()
    images, labels, _ = draw_shapes(spec, "train", range(12_000))
    model = networks.encoder(3, width=16, features=64, factor=4, num_classes=12)
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    steps = 3000
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (64,), generator=generator)
        loss = F.cross_entropy(model(to_float(images[chosen])), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    held_out, truth, _ = draw_shapes(spec, "val", range(2400))
    with torch.no_grad():
        accuracy = (model(to_float(held_out)).argmax(1) == truth).float().mean()
    assert accuracy >= 0.9
