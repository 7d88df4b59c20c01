"""The metrics of latents as functions of one signature, and unconditional VIV as the fallback."""

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusability import scoring
from diffusability.errors import MeasurementError, StudyError
from diffusability.scoring.against import not_compared, place, read_known
from diffusability.scoring.latents import OF_LATENTS, measure, score
from diffusability.scoring.table import Score, score_text, side_by_side
from diffusability.study.preflight.class_sizes import lacking
from diffusability.study.reading.resolve import resolve_study

FAST = {"uniformity": {"points": 40, "repeats": 2, "iterations": 250}, "fisher": {"blocks": 2}}
LABELS = torch.arange(80) % 4


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(80, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", OF_LATENTS)
def test_every_metric_of_latents_is_a_function_of_one_signature(name: str, latents) -> None:
    function = getattr(scoring, name)
    assert list(inspect.signature(function).parameters) == [
        *("latents", "labels", "masks", "seed", "options")
    ]
    options = FAST.get(name, {})
    found = function(latents.numpy(), LABELS.numpy(), seed=1, **options)
    assert found == measure(name, latents, LABELS, seed=1, **options)
    table = found.to_frame()
    assert list(table["metric"]) == [m.metric for m in found]
    assert list(table["value"]) == [m.value for m in found]
    tokens = latents.flatten(2).transpose(1, 2)  # (N, L, D)
    if name in ("spatial", "smoothness"):
        with pytest.raises(MeasurementError, match="no position on a grid"):
            function(tokens, LABELS)
    else:
        assert function(tokens, LABELS, **options)
    with pytest.raises(MeasurementError, match=rf"options of {name}\.pionts: unknown key"):
        function(latents, LABELS, pionts=2)


@pytest.mark.parametrize(
    ("name", "option", "value", "reason"),
    [
        ("velocity", "split", "val", "arrays are not split"),
        ("semantics", "probe", "train", "so the probe is cross-validated"),
        ("semantics", "probe_images", 100, "so the probe is cross-validated"),
        ("uniformity", "posterior", "draw", "no posterior"),
        ("uniformity", "flip", True, "no latents of mirrored images"),
        ("fisher", "learned", {}, "without diffusion models"),
        ("fisher", "reference", "pixels", "without diffusion models"),
    ],
)
def test_options_of_a_study_that_arrays_cannot_have_are_refused(
    name: str, option: str, value: object, reason: str, latents: Tensor
) -> None:
    refused = rf"options of {name}\.{option}: .*{reason}.*; leave it out"
    with pytest.raises(MeasurementError, match=refused):
        getattr(scoring, name)(latents, LABELS, **{option: value})


def test_options_that_describe_arrays_change_nothing(latents: Tensor) -> None:
    plain = scoring.semantics(latents, LABELS)
    assert scoring.semantics(latents, LABELS, split="all", probe="folds") == plain
    few = FAST["uniformity"]
    plain = scoring.uniformity(latents, **few)
    assert scoring.uniformity(latents, posterior="mean", flip=False, **few) == plain


def test_options_of_no_metric_of_a_score_are_refused(latents: Tensor) -> None:
    with pytest.raises(MeasurementError, match="options of `uniformty`: .*`uniformity`"):
        score(latents, uniformty={"points": 40})
    with pytest.raises(MeasurementError, match="options of `fisher`: .*velocity"):
        score(latents, metrics=["velocity"], fisher={"blocks": 2})


def test_wrong_options_are_refused_before_anything_is_measured(latents: Tensor) -> None:
    for options, message in (
        ({"velocity": {"quik": True}}, "quik"),
        ({"semantics": {"probe": "train"}}, "options of semantics.probe"),
        ({"smoothness": 5}, "options of smoothness: a mapping is expected, not 5"),
    ):
        with pytest.raises(MeasurementError, match=message):
            score(latents, LABELS, **options)


def test_labels_are_read_as_from_a_file(latents: Tensor) -> None:
    whole = score(latents, LABELS.double(), metrics=["velocity"])
    assert whole.measurements == score(latents, LABELS, metrics=["velocity"]).measurements
    for labels, message in ((LABELS > 1, "torch.bool"), (LABELS - 1, "label -1 would be a class")):
        with pytest.raises(MeasurementError, match=message):
            score(latents, labels)
    with pytest.raises(MeasurementError, match=r"masks of shape \(80, 0, 0\)"):
        score(latents, masks=torch.zeros(80, 0, 0))


def test_what_spaces_were_not_measured_alike_in_is_said(latents: Tensor) -> None:
    a = score(latents, LABELS, metrics=["semantics"], semantics={"neighbours": [5]}, name="a")
    b = replace(a, name="b")
    assert "Not measured alike" not in score_text([a, b])

    def drawn(how: str) -> list[dict[str, Any]]:
        return [{**m, "options": {**m["options"], "posterior": how}} for m in b.measurements]

    c = replace(a, name="c", measurements=drawn("mean"))
    said = score_text([replace(b, measurements=drawn("draw")), c])
    assert "LNC, without masks: posterior draw of b, mean of c" in said
    with pytest.raises(StudyError, match="several scores are called a, a; give each a name"):
        a.plot(a)


def test_fisher_information_needs_no_pixels(latents: Tensor) -> None:
    found = {m.metric for m in scoring.fisher(latents, LABELS, blocks=2)}
    assert {"fisher.fi", "fisher.fir"} <= found
    assert not any("deviation" in name for name in found)


def test_classes_too_small_for_a_fit_leave_an_unconditional_viv(latents: Tensor) -> None:
    many = torch.arange(80) % 40  # two images per class
    with pytest.raises(MeasurementError, match="fewer than"):
        scoring.velocity(latents, many)
    (fallen, *_) = scoring.velocity(latents, many, unconditional_fallback=True)
    (alone, *_) = scoring.velocity(latents)
    assert (fallen.value, fallen.stderr) == (alone.value, alone.stderr)
    assert "labels are not used: 40 of 40 classes have fewer than 9 images" in fallen.flags
    (enough, *_) = scoring.velocity(latents, LABELS, unconditional_fallback=True)
    assert enough == scoring.velocity(latents, LABELS)[0]


def test_unconditional_viv_is_named_and_not_compared_with_others(latents: Tensor) -> None:
    many = score(latents, torch.arange(80) % 40, metrics=["velocity"], name="many")
    few = score(latents, LABELS, metrics=["velocity"], name="few")
    table = side_by_side([many, few]).set_index("metric")
    assert table.loc["VIV, unconditional (velocity.viv)", "few"] == "-"
    assert table.loc["VIV (velocity.viv)", "many"] == "-"
    assert "40 of 40 classes have fewer than" in score_text([many])
    known = read_known("fashion")
    assert place(many, known).empty
    assert place(few, known).empty  # 20 images of a class, where VIV is measured too low
    reason = "20 images of the smallest class here, 2000 for the known spaces"
    assert reason in " ".join(not_compared([few], known))
    enough = latents.repeat(10, 1, 1, 1) + 0.1 * torch.randn(800, *latents.shape[1:])
    found = score(enough, LABELS.repeat(10), metrics=["velocity"], velocity={"quick": True})
    assert list(place(found, known)["metric"]) == ["VIV", "VIV"]  # of each family


def test_a_study_may_fall_back_too() -> None:
    def least(**options: bool) -> list[str]:
        study = resolve_study(
            {
                "name": "s",
                "datasets": {"d": {"kind": "digits", "size": 8}},
                "tokenizers": {"t": {"source": "haar", "factor": 2, "channels": 1}},
                "metrics": {"velocity": {"split": "all", **options}},
                "select": {"dataset": "d"},
            },
            "test",
        )
        counts = {"train": [2] * 10, "val": [1] * 10}
        return [name for name, _ in lacking(study, counts, study.selected_metrics)]

    assert least() == ["velocity"]
    assert least(unconditional_fallback=True) == []


def test_progress_is_shown_on_request_only_on_a_terminal(latents: Tensor, capsys) -> None:
    found = score(latents, metrics=["smoothness"])  # the output of a test is no terminal
    assert isinstance(found, Score)
    assert capsys.readouterr().err == ""
    mapped = np.asarray(latents)
    assert score(mapped, metrics=["smoothness"], progress=False)["smoothness.sec25"] > 0
