"""Classes of too few images: said before the first training, or left out and counted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusability.errors import MeasurementError, StudyError
from diffusability.metrics.measurement import Measurement
from diffusability.metrics.semantics import measure_semantics
from diffusability.metrics.velocity import measure_velocity
from diffusability.study.core.commands import VARIABLE, Run, set_run
from diffusability.study.core.workflow_files import NO_FILE
from diffusability.study.preflight.class_sizes import check_classes, check_prepared
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.study import Study
from tests.unit.study_run import TINY, measurements, merge, plan_of, run_plan


def a_class_of(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents (N, 4, 4, 4) and labels of four classes of 30 and a fifth of `size` images."""
    labels = torch.cat([torch.arange(4).repeat_interleave(30), torch.full((size,), 4)])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    latents = torch.randn(len(labels), 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return latents, labels[order]


def velocity(latents: torch.Tensor, labels: torch.Tensor, **options: Any) -> list[Measurement]:
    """Measure with the same random halves every time."""
    return measure_velocity(
        latents, labels, generator=torch.Generator().manual_seed(2), halvings=4, **options
    )


def semantics(latents: torch.Tensor, labels: torch.Tensor, **options: Any) -> list[Measurement]:
    """Measure with the same random folds every time."""
    generator = torch.Generator().manual_seed(2)
    found, without = measure_semantics(
        latents, labels, None, generator=generator, neighbours=(1,), **options
    )
    for _, reason in without:
        raise MeasurementError(reason)
    return found


@pytest.mark.parametrize(
    ("measure", "size", "least", "message"),
    [(velocity, 5, 8, "fewer than 8 samples"), (semantics, 1, 2, "the smallest of 1")],
)
def test_a_small_class_is_refused_or_left_out_and_counted(measure, size, least, message) -> None:
    latents, labels = a_class_of(size)
    with pytest.raises(MeasurementError, match=message):
        measure(latents, labels)
    kept = labels < 4
    alone = measure(latents[kept], labels[kept])
    found = measure(latents, labels, smallest_class="skip")
    flag = f"1 of 5 classes left out: fewer than {least} images ({size} images)"
    assert [(m.metric, m.value, m.stderr) for m in found] == [
        (m.metric, m.value, m.stderr) for m in alone
    ]
    assert all(flag in m.flags for m in found)
    assert not any("left out" in flag for m in alone for flag in m.flags)
    with pytest.raises(MeasurementError, match="none of 120 classes has"):
        measure(latents[kept], torch.arange(120), smallest_class="skip")


def test_every_metric_that_lacks_images_is_named_with_a_remedy() -> None:
    study = plan_of({"metrics": {"velocity": {"split": "val"}, "fisher": {"split": "val"}}}).study
    good = {"train": [100] * 10, "val": [20] * 10}
    check_classes(study, good)
    few = {"train": [9] * 10, "val": [0] * 10}  # a share that rounds to no image
    with pytest.raises(StudyError) as caught:
        check_classes(study, few)
    message = str(caught.value)
    assert "aborted before any training" in message
    assert "metrics.velocity: needs 2 images, split `val` has 0" in message
    assert "metrics.continuity: needs 40 images, split `val` has 0" in message
    assert "metrics.semantics" not in message  # of all images, it has enough
    one_small = {"train": [100] * 10, "val": [20] * 9 + [2]}
    with pytest.raises(StudyError) as caught:
        check_classes(study, one_small)
    message = str(caught.value)
    # 4 channels on a 4 x 4 grid: more than 4/16 + 16/4 + 1 images, and two
    assert "metrics.velocity: needs 8 images of every class, 1 of 10" in message
    assert "(class 9 has 2); set `metrics.velocity.smallest_class: skip`" in message
    assert "metrics.fisher: needs 3 images of every class, 1 of 10" in message
    assert "`metrics.velocity.split: all`, or a larger val_fraction" in message
    with pytest.raises(StudyError) as caught:  # all images already, and no class to keep
        check_classes(plan_of({}).study, {"train": [2] * 10, "val": [0] * 10})
    assert "; add images, or leave this metric out of `select.metrics`" in str(caught.value)
    skips = {"split": "val", "smallest_class": "skip"}
    check_classes(plan_of({"metrics": {"velocity": skips, "fisher": skips}}).study, one_small)


def test_semantics_of_one_class_is_refused_before_any_training() -> None:
    study = plan_of({"select": {"metrics": ["semantics"]}}).study
    with pytest.raises(StudyError, match="semantics: needs two classes, split `all` has 1; leave"):
        check_classes(study, {"train": [300] + [0] * 9, "val": [60] + [0] * 9})
    check_classes(study, {"train": [300] * 10, "val": [60] * 10})


def test_a_control_that_lacks_images_is_named() -> None:
    metrics = {
        "generation": {"controls": ["gaussian", "posterior"]},
        "smoothness": {"split": "all"},
    }
    chosen = {"metrics": metrics, "select": {"metrics": ["smoothness"]}}
    study = plan_of(chosen).study
    check_classes(study, {"train": [8] * 9 + [0], "val": [1] + [0] * 9})  # no image, no Gaussian
    with pytest.raises(StudyError) as caught:
        check_classes(study, {"train": [8] * 9 + [2], "val": [0] * 10})
    message = str(caught.value)
    assert (
        "metrics.generation.controls: `gaussian` needs 8 images of every class, 1 of 10 classes "
        "have fewer in split `train` (class 9 has 2); add images, or leave it out"
    ) in message
    assert "metrics.generation.controls: `posterior` needs images of split `val`" in message
    metrics["generation"]["controls"] = []
    check_classes(plan_of(chosen).study, {"train": [2] * 10, "val": [0] * 10})


def test_a_study_stops_when_its_index_exists(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = {
        "datasets": {"digits": {"val_fraction": 0.01}},
        "metrics": {"velocity": {"split": "val"}},
    }
    monkeypatch.setenv(VARIABLE, "")  # restored after the test
    set_run(Run([NO_FILE], merge(TINY, over)))
    plan = plan_of(over)
    with pytest.raises(StudyError, match=r"metrics\.velocity: needs 8 images of every class, 10"):
        run_plan(plan, "dataset")
    monkeypatch.delenv(VARIABLE)
    made = run_plan(plan, "dataset")["dataset/digits"]  # nobody measures anything
    assert json.loads((made / "manifest.json").read_text())["images_by_class"]["val"] == [2] * 10
    with pytest.raises(StudyError, match="too few images; aborted before any training"):
        check_prepared(plan)  # another study of the same images
    check_prepared(plan_of({"datasets": over["datasets"], "select": {"metrics": ["velocity"]}}))


def test_fisher_leaves_the_same_classes_out_of_pixels_and_latents(workplace: Path) -> None:
    skips = {"metrics": {"fisher": {"split": "val", "smallest_class": "skip"}}}
    over = {
        "datasets": {"digits": {"val_fraction": 0.014}},
        "select": {"tokenizers": ["conv-base"]},
    }
    made = run_plan(plan_of(merge(skips, over)), "fisher")
    found = measurements(made["fisher/conv-base/s0"])
    flag = "3 of 10 classes left out: fewer than 3 images (6 images)"
    assert flag in found["fisher.fi_deviation"]["flags"]


def of_latents(data: dict[str, Any], metric: str) -> Study:
    """Return a study that measures one metric group of latents on disk."""
    return resolve_study(
        {
            "name": "own",
            "datasets": {"images": {"kind": "latents", "images": 100} | data},
            "tokenizers": {"z": {"source": "latents", "path": "z.npy", "channels": 4}},
            "metrics": {metric: {"split": "all"}},
            "select": {"dataset": "images"},
        },
        "own",
    )


def test_latents_on_disk_are_not_refused_for_the_size_of_their_masks() -> None:
    study = of_latents({"num_classes": 2, "labels": "y.npy", "size": 32}, "velocity")
    check_classes(study, {"train": [45, 45], "val": [5, 5]})


def test_semantics_of_images_without_labels_is_left_out_and_not_refused() -> None:
    study = of_latents({}, "semantics")
    check_classes(study, {"train": [0], "val": [100]})
    assert study.left_out("z") == {"semantics": "there are no labels, or one class"}


def test_numbers_without_any_image_are_no_classes() -> None:
    study = plan_of({"metrics": {"fisher": {"split": "all"}}}).study
    counts = [12 if k in (3, 10, 17, 24) else 0 for k in range(25)]
    check_classes(study, {"train": counts, "val": counts})
    with pytest.raises(
        StudyError, match=r"of every class, 1 of 4 classes have .* \(class 24 has 2"
    ):
        check_classes(study, {"train": [*counts[:24], 2], "val": [*counts[:24], 0]})
    # an image in training alone: its class is there, and missing in validation
    missing = plan_of({"metrics": {"fisher": {"split": "val"}}}).study
    with pytest.raises(StudyError, match=r"of every class, 1 of 5 classes .* \(class 0 has 0\)"):
        check_classes(missing, {"train": [50, *counts[1:]], "val": counts})
