"""The score of latents in Python, and what the command line makes of names."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import diffusability
from diffusability.data.array_files import read_array
from diffusability.errors import DataError, MeasurementError, StudyError
from diffusability.execution.this_machine import available_cores
from diffusability.metrics.smoothness import measure_smoothness
from diffusability.metrics.velocity import measure_velocity
from diffusability.report.flags import to_read
from diffusability.report.scores import NOT_MEASURED, left_out_rows, perspective_rows
from diffusability.scoring import entries as entries_module
from diffusability.scoring import run as scoring_run
from diffusability.scoring.command import main
from diffusability.scoring.comparable import difference
from diffusability.scoring.entries import images_entry
from diffusability.scoring.latents import measure, score
from diffusability.scoring.request import (
    Request,
    _name,
    check_stored,
    requested_study,
)
from diffusability.scoring.run import measurable
from diffusability.scoring.study_part import study_without_models
from diffusability.scoring.table import Score, one_row_each, score_text, shown_rows, side_by_side
from diffusability.study.core.fingerprint import derive_seed
from diffusability.study.core.registry import Registry
from diffusability.study.entries.dataset import DATASETS
from diffusability.study.entries.encoder import ENCODERS
from diffusability.study.entries.tokenizer import TOKENIZER_SOURCES
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import STAGES
from diffusability.study.reading.load import load_study, read_yaml
from diffusability.study.reading.resolve import resolve_study
from tests.conftest import REPOSITORY
from tests.unit.archive_files import labelled, write_parquet, write_tar, write_zip
from tests.unit.idx_files import write_idx
from tests.unit.image_files import write_image, write_images

FAST = ("velocity", "semantics", "spatial", "smoothness")
DIGITS = "kind: digits, size: 8"
SMOKE = str(REPOSITORY / "studies" / "smoke.yaml")

VAE_SOURCE = """import torch
class Vae(torch.nn.Module):
    def encode(self, x): return x.repeat(1, 5, 1, 1)[:, :, ::2, ::2]
    def decode(self, z): return z[:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3)
"""


@pytest.fixture(scope="module")
def latents() -> Tensor:
    means = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(80, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return means.repeat(20, 1, 1, 1) + 0.5 * noise


LABELS = torch.arange(80) % 4


def values(found: Score) -> dict[str, Any]:
    return {m["metric"]: m["value"] for m in found.measurements}


def test_a_score_holds_what_the_metric_functions_return(latents: Tensor) -> None:
    found = score(latents, LABELS, metrics=("velocity", "smoothness"))
    generator = torch.Generator().manual_seed(derive_seed("velocity", 0, "halves"))
    expected = measure_velocity(latents, LABELS, generator=generator)
    expected += measure_smoothness(latents)
    assert values(found) == {m.metric: m.value for m in expected}
    assert found["velocity.viv"] == expected[0].value
    assert measure("smoothness", latents) == measure_smoothness(latents)


def test_torch_numpy_and_memory_maps_give_the_same(tmp_path: Path, latents: Tensor) -> None:
    np.save(tmp_path / "z.npy", latents.numpy())
    mapped = np.load(tmp_path / "z.npy", mmap_mode="r")
    first = values(score(latents, LABELS, metrics=FAST))
    assert values(score(mapped, LABELS.numpy(), metrics=FAST)) == first
    assert values(score(latents, LABELS, metrics=FAST, seed=1)) != first


def test_masks_of_the_images_are_pooled_to_the_grid(latents: Tensor) -> None:
    fine = torch.zeros(80, 8, 8, dtype=torch.bool)
    fine[:, :4] = True
    coarse = torch.zeros(80, 4, 4)
    coarse[:, :2] = 1.0
    of_fine = score(latents, masks=fine, metrics=["spatial"])
    assert values(of_fine) == values(score(latents, masks=coarse, metrics=["spatial"]))
    assert "spatial.srss" in values(of_fine)


def test_what_is_left_out_says_why(latents: Tensor) -> None:
    found = score(latents, metrics=FAST)
    assert found.left_out["semantics"] == "there are no labels, or one class"
    assert found.left_out["spatial.srss"] == "there are no masks"
    assert any("unconditional" in flag for m in found.measurements for flag in m["flags"])
    with pytest.raises(KeyError, match="there are no labels"):
        found["semantics.lnc5"]
    tokens = latents.flatten(2).transpose(1, 2)  # (N, L, D)
    of_tokens = score(tokens, LABELS, metrics=FAST)
    assert set(of_tokens.left_out) >= {"spatial", "smoothness"}
    assert of_tokens["velocity.viv"] == pytest.approx(
        score(latents, LABELS, metrics=["velocity"])["velocity.viv"]
    )


def test_a_metric_that_fails_leaves_the_others(latents: Tensor) -> None:
    few = score(latents[:8], LABELS[:8], metrics=("velocity", "smoothness"))
    assert "smoothness.sec25" in values(few)
    dead = latents.clone()
    dead[:, 1] = 0
    found = score(dead, LABELS, metrics=["smoothness"])
    assert not found.left_out  # the other channels are measured, and a flag says so
    flags = found.to_frame().set_index("metric").loc["smoothness.sec25", "flags"]
    assert "1 dead channel of 3" in str(flags)
    equal = latents[:1].expand(len(latents), -1, -1, -1)
    assert "collapsed" in score(equal, LABELS, metrics=["smoothness"]).left_out["smoothness"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(4, 3), None), r"latents of shape \(4, 3\)"),
        ((torch.zeros(4, 3, 2, 2, dtype=torch.int64), None), "torch.int64: floating-point"),
        ((torch.zeros(4, 3, 2, 2), torch.zeros(3).long()), r"labels of shape \(3,\)"),
        ((torch.zeros(4, 3, 2, 2), torch.arange(4) - 1), r"label -1 would be a class of its own"),
        ((torch.zeros(4, 3, 2, 2), torch.zeros(4) + 0.5), "labels must be integers"),
        ((torch.zeros(4, 3, 2, 2), None, torch.zeros(4, 2)), r"masks of shape \(4, 2\)"),
        ((torch.rand(4, 8, 8, 3),), r"look like \(N, H, W, C\).*numpy.moveaxis"),
        ((torch.full((4, 3, 2, 2), torch.nan),), r"4 latents hold NaN .* \[0, 1, 2, 3\]"),
        ((np.full((4, 3, 2), np.inf),), "4 latents hold NaN or infinite values"),
        (
            (torch.zeros(4, 3, 2, 2), np.array(list("abab"))),
            r"labels: numbers .* <U1; numpy.unique",
        ),
        ((torch.zeros(4, 3, 2, 2), [None] * 4), "labels: numbers are expected, it holds object"),
        ((np.zeros((4, 3, 2, 2), complex),), "latents: numbers are expected, it holds complex128"),
    ],
)
def test_bad_arrays_are_refused_in_a_sentence(given, message) -> None:
    with pytest.raises(MeasurementError, match=message):
        score(*given)


@pytest.mark.parametrize("dtype", [">f4", ">f2", np.longdouble])
def test_arrays_of_any_real_type_and_byte_order_are_read(tmp_path: Path, latents, dtype) -> None:
    array = latents.half().numpy().astype(dtype)
    labels = LABELS.numpy()
    found = values(score(array, labels.astype(">u2"), metrics=["velocity"]))
    assert found == pytest.approx(values(score(latents.half(), LABELS, metrics=["velocity"])))
    if dtype is not np.longdouble:
        np.save(tmp_path / "z.npy", array)
        assert torch.equal(read_array(tmp_path / "z.npy", ("z",)).half(), latents.half())


def test_a_score_of_nothing_is_a_table_without_rows(latents: Tensor) -> None:
    found = score(latents[:1], metrics=["smoothness", "semantics"])
    assert set(found.left_out) == {"smoothness", "semantics"}
    assert found.to_frame().empty
    assert list(found.to_frame()) == list(score(latents, metrics=["smoothness"]).to_frame())
    assert "Left out of latents" in repr(found)
    assert "Left out" in found._repr_html_()


def test_one_group_is_named_alone_and_an_unknown_one_is_refused(latents: Tensor) -> None:
    assert values(score(latents, metrics="smoothness")) == values(
        score(latents, metrics=["smoothness"])
    )
    for metrics in ("viv", ["smoothness", "viv"]):
        with pytest.raises(MeasurementError, match="there is no group `viv`"):
            score(latents, metrics=metrics)


def test_metrics_of_images_are_not_of_arrays(latents: Tensor) -> None:
    with pytest.raises(MeasurementError, match="needs images"):
        measure("reconstruction", latents)
    with pytest.raises(StudyError, match="velocity"):
        measure("velocty", latents)


def test_tables_show_every_perspective_with_its_error(latents: Tensor) -> None:
    found = score(latents, LABELS, metrics=FAST, name="mine")
    table = side_by_side([found, score(latents, metrics=FAST, name="plain")])
    assert list(table.columns) == ["perspective", "metric", "mine", "plain", "better"]
    own = table[~table["metric"].str.contains("unconditional")]  # that row is of `plain` alone
    assert own["mine"].str.contains("±").all()
    (cell,) = (m for m in found.measurements if m["metric"] == "semantics.lnc5")
    chance = cell["options"]["chance"]
    lnc = table[table["metric"].str.contains("lnc5")].iloc[0]
    assert (lnc["plain"], lnc["better"]) == ("left out", f"higher (chance {chance:.2g})")
    other = table[table["metric"].str.contains("unconditional")].iloc[0]
    assert other["mine"] == "-"  # its own VIV is of classes, and not left out
    assert "Left out of mine:\n  spatial.srss: there are no masks" in score_text([found])
    assert all(part in found._repr_html_() for part in ("<table", "there are no masks"))
    assert len(found.to_frame()) == len(found.measurements)
    assert len(found.plot(against=None).axes) == len(found.shown())
    figure = found.plot(score(latents, LABELS, metrics=FAST, name="other"), against=None)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mine", "other"]
    assert figure._repr_png_().startswith(b"\x89PNG")  # a notebook shows it without a backend
    among = found.plot().axes  # VIV and LNC of so few images and classes are not compared
    assert [len(axis.get_lines()[0].get_xdata()) for axis in among] == [24] * 3


def test_the_package_offers_it() -> None:
    assert diffusability.score is score
    assert diffusability.measure is measure


@pytest.fixture
def files(tmp_path: Path, latents: Tensor) -> Path:
    np.save(tmp_path / "z.npy", latents.numpy())
    np.save(tmp_path / "y.npy", LABELS.numpy())
    return tmp_path


@pytest.mark.parametrize("suffix", ["npy", "zarr"])
def test_latents_become_a_study(files: Path, latents: Tensor, suffix: str) -> None:
    if suffix == "zarr":
        zarr = pytest.importorskip("zarr", reason="zarr is an extra")
        zarr.create_array(files / "z.zarr", data=latents.numpy())
    request = Request([("", str(files / f"z.{suffix}"))], labels=str(files / "y.npy"))
    study = resolve_study(requested_study(request), "test")
    check_stored(study)
    assert study.dataset.counts().train == 80
    assert study.dataset.num_classes == 4
    assert study.tokenizers["z"].channels == 3
    measured = {artifact.stage for artifact in Plan(study).measured}
    assert measured == {*FAST, "uniformity", "fisher"}


def test_a_class_is_asked_for_its_latents(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "scored_vae.py").write_text(VAE_SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    request = Request([("tokenizer", "scored_vae:Vae")], images="kind: digits, size: 8")
    study = resolve_study(requested_study(request), "test")
    entry = study.tokenizers["vae"]
    assert (entry.factor, entry.channels) == (2, 5)
    assert {"equivariance", "reconstruction"} <= set(study.selected_metrics)
    sys.modules.pop("scored_vae", None)


def test_inception_is_called_so_and_paths_inside_an_entry_are_of_this_folder(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    (files / "w.pth").write_bytes(b"weights")
    (files / "scored_vae.py").write_text(VAE_SOURCE)
    monkeypatch.syspath_prepend(files)
    for kind, named in (("inception", "inception"), ("timm, model: vit", "extractor")):
        extractor = f"kind: {kind}, weights: w.pth"
        request = Request(
            [("tokenizer", "scored_vae:Vae")], images="kind: digits, size: 8", extractor=extractor
        )
        data = requested_study(request)
        assert data["encoders"][named]["weights"] == str(files / "w.pth")
        assert data["metrics"]["continuity"]["extractor"] == named
        if named == "inception":
            assert resolve_study(data, "test").metrics.continuity.extractor == "inception"
    sys.modules.pop("scored_vae", None)


STUDIES = [REPOSITORY / "config.yaml", *sorted((REPOSITORY / "studies").glob("*.yaml"))]


@pytest.mark.parametrize(
    "file", [f for f in STUDIES if "tokenizers" in read_yaml(f)], ids=lambda file: file.stem
)
def test_tokenizers_of_a_study_keep_their_fingerprints(file: Path) -> None:
    whole = load_study(file)
    first, *others = whole.selected_tokenizers
    part = resolve_study(study_without_models([str(file)], [first]), "test")
    assert not part.backbones
    own = {artifact.path for artifact in Plan(part)}
    assert own < {artifact.path for artifact in Plan(whole)}
    assert not [path for path in own for name in others if f"/{name}/" in path]


def test_the_paths_of_a_study_file_are_of_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(
        "name: s\n"
        "datasets: {d: {kind: zip, path: a.zip, val: b.zip, size: 8, num_classes: 2}}\n"
        "encoders: {e: {kind: lpips, weights: /w.pth}}\n"
        "bases: {b: {source: diffusers, path: vae}}\n"
        "tokenizers: {t: {base: b, factor: 2, channels: 4}}\n"
        "metrics: {velocity: {}}\n"
        "select: {dataset: d}\n"
    )
    data = study_without_models(["s.yaml"], [])
    assert data["datasets"]["d"]["path"] == str(tmp_path / "a.zip")
    assert data["datasets"]["d"]["val"] == str(tmp_path / "b.zip")
    assert data["encoders"]["e"]["weights"] == "/w.pth"
    assert data["bases"]["b"]["path"] == str(tmp_path / "vae")
    before, after = (Plan(resolve_study(each, "x")) for each in (read_yaml("s.yaml"), data))
    assert [a.fingerprint for a in before] == [a.fingerprint for a in after]


def test_every_path_that_an_entry_may_hold_is_known() -> None:
    registries: list[Registry[Any]] = [DATASETS, ENCODERS, TOKENIZER_SOURCES]
    for model in (model for registry in registries for model in registry.models()):
        stated = {
            key
            for key, field in model.model_fields.items()
            if field.exclude and field.annotation in (str, str | None)
        }
        names = {"of", "encoder", "method"}
        assert stated - names == set(model.place_keys()), model


def test_a_study_that_is_no_study_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for section in ("metrics", "select", "analysis", "datasets", "tokenizers", "encoders"):
        file = tmp_path / f"{section}.yaml"
        file.write_text(yaml.safe_dump(read_yaml(SMOKE) | {section: [3]}))
        with pytest.raises(StudyError, match=section):
            resolve_study(study_without_models([str(file)], ["conv-base"]), "test")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing is named"),
        (["nothing"], "is no folder of an autoencoder"),
        (["z.zarr"], "no file of latents .*zarr"),
        (["--vae", "{}", "--images", DIGITS], "there is no .*config.json"),
        (["{}/z.npy", "--labels", "{}/z.npy"], "labels of shape"),
        (["{}/nan.npy"], "1 latents hold NaN"),
        (["{}/z.npy", "{}/few.npy"], "few.npy: 7 latents, where there are 80 images"),
        (["{}/z.npy", "--metrics", "reconstruction"], "--metrics reconstruction: not among those"),
        (["{}/z.npy", "--images", "{}/none"], "no such folder or archive"),
        (["--tokenizer", "no_package:Vae", "--images", DIGITS], "no_package"),
        (["--tokenizer", "json:dumps", "--images", DIGITS], "json:dumps"),
        (
            ["--tokenizer", "./vae.py:Vae", "--images", DIGITS],
            "is no class `package:Class`",
        ),
        (["{}/last.npy"], r"look like \(N, H, W, C\)"),
        (["{}/z.npy", "--labels", "{}/y-nan.npy"], "labels must be integers"),
        (["{}/z.npy", "--masks", "{}/zero.npy"], r"masks of shape \(\)"),
    ],
)
def test_bad_names_are_refused_in_a_sentence(files: Path, latents, words, message) -> None:
    nan = latents.clone()
    nan[3, 0, 0, 0] = torch.nan
    np.save(files / "nan.npy", nan.numpy())
    np.save(files / "few.npy", latents[:7].numpy())
    np.save(files / "last.npy", np.zeros((80, 4, 4, 3), np.float32))
    np.save(files / "y-nan.npy", np.full(80, np.nan))
    np.save(files / "zero.npy", np.float32(1))
    with pytest.raises((StudyError, DataError, diffusability.errors.ArtifactError), match=message):
        main([word.format(files) for word in words] + ["--write", str(files / "s.yaml")])
    assert not (files / "s.yaml").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["conv-base", "--study", SMOKE, "--images", "x"], "--images: a study file states its"),
        (["conv-base", "--study", SMOKE, "--size", "8"], "--size: a study file states its"),
        (["conv-base", "--study", SMOKE, "--classes", "0"], "--classes: a study file states its"),
        (["conv-base", "--study", SMOKE, "--labels", "x"], "--labels: a study file states its"),
        (["conv-base", "--study", SMOKE, "--masks", "x"], "--masks: a study file states its"),
        (["conv-base", "--study", SMOKE, "--weights", "x"], "--weights: a study file states its"),
        (["conv-base", "--study", SMOKE, "--extractor", "x"], "--extractor: a study file states"),
        (["--vae", "conv-base", "--study", SMOKE], "--vae: a study file states its"),
        (["conv-base", "--study", SMOKE, "--metrics", "geometry"], "--metrics geometry: not among"),
        (["{}/z.npy", "--size", "8"], "--size 8: is for images, and none are named"),
        (["{}/z.npy", "--extractor", "kind: x"], "--extractor kind: x: is for images"),
        (["{}/z.npy", "--classes", "4"], "--classes 4: latents without labels are of one class"),
        (["{}/z.npy", "--weights", "w"], "--weights w: nothing that is scored takes it"),
        (["{}/z.npy", "--images", "kind: digits", "--classes", "4"], "--classes 4: images of kind"),
        (["{}/z.npy", "--images", "kind: digits", "--size", "9"], "--images.size: .*multiple|9"),
        (["{}/z.npy", "--images", "{}", "--size", "0", "--classes", "1"], "greater than 0, got 0"),
    ],
)
def test_options_that_are_not_used_are_refused(files: Path, words: list[str], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        main([word.format(files) for word in words] + ["--write", str(files / "s.yaml")])


def test_options_narrow_a_study_and_override_an_entry(files: Path) -> None:
    written = files / "s.yaml"
    words = ["conv-base", "--study", SMOKE, "--metrics", "smoothness", "velocity"]
    main([*words, "--write", str(written)])
    assert set(load_study(written).selected_metrics) == {"velocity", "smoothness"}
    request = Request([("", str(files / "z.npy"))], images="kind: digits, size: 16", size=8)
    assert requested_study(request)["datasets"]["images"] == {"kind": "digits", "size": 8}
    entry = "kind: zip, path: a.zip, size: 8"
    request = Request([("", str(files / "z.npy"))], images=entry, classes=3)
    assert requested_study(request)["datasets"]["images"]["num_classes"] == 3


def test_the_study_can_be_written_and_read_again(files: Path, capsys) -> None:
    written = files / "s.yaml"
    assert main([str(files / "z.npy"), "--write", str(written)]) == 0
    assert (
        f"diffusability run -c{available_cores()} --configfile {written}" in capsys.readouterr().out
    )
    assert load_study(written).name == "score"
    assert json.dumps(read_yaml(written))


def test_metrics_that_need_larger_classes_are_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = study_without_models([SMOKE], ["conv-base"])
    counts = {"train": [30] * 10, "val": [1] * 10}

    def prepare(folder: Path, cores: int, log: Path, target: str) -> bool:
        (folder / target).parent.mkdir(parents=True)
        (folder / target).write_text(json.dumps({"images_by_class": counts}))
        return True

    monkeypatch.setattr(scoring_run, "_snakemake", prepare)
    enough, too_few = scoring_run._enough_images(data, tmp_path, 1, tmp_path / "log")
    assert "velocity" not in too_few
    counts |= {"train": [1] * 10, "val": [1] * 10}
    for manifest in tmp_path.rglob("manifest.json"):
        manifest.write_text(json.dumps({"images_by_class": counts}))
    fewer, too_few = scoring_run._enough_images(data, tmp_path, 1, tmp_path / "log")
    assert "images of every class" in too_few["velocity"]
    assert "smoothness" not in too_few
    before, after = (resolve_study(each, "x").selected_metrics for each in (enough, fewer))
    assert set(before) - set(after) == set(too_few) & set(before)


@pytest.mark.parametrize("classes", [1, 10])
def test_ifid_needs_images_that_are_counted_first(classes: int) -> None:
    images = {"kind": "folder", "path": "/nowhere", "size": 8, "num_classes": classes}
    data = {
        "name": "s",
        "datasets": {"images": images},
        "encoders": {"x": {"kind": "contrastive", "train": {"steps": 1}}},
        "tokenizers": {"t": {"source": "haar", "factor": 2, "channels": 3}},
        "metrics": {"continuity": {"extractor": "x"}, "smoothness": {}},
        "select": {"dataset": "images"},
    }
    assert measurable(resolve_study(data, "test")) == ["smoothness"]


def test_names_stand_anywhere_between_options(files: Path, capsys) -> None:
    np.save(files / "other.npy", np.load(files / "z.npy") + 1)
    words = [str(files / "z.npy"), "--labels", str(files / "y.npy"), str(files / "other.npy")]
    assert main([*words, "--write", str(files / "s.yaml")]) == 0
    assert list(load_study(files / "s.yaml").tokenizers) == ["z", "other"]
    with pytest.raises(StudyError, match="--against: --write runs nothing"):
        main([*words, "--write", str(files / "s.yaml"), "--against", "fashion"])
    np.save(files / "ids.npy", np.arange(80) * 10**10)
    with pytest.raises(StudyError, match=r"number the classes from 0.*numpy.unique"):
        main([words[0], "--labels", str(files / "ids.npy"), "--write", str(files / "s.yaml")])
    np.save(files / "one.npy", np.float32(1))
    with pytest.raises(StudyError, match=r"latents of shape \(\), which is neither"):
        main([str(files / "one.npy"), "--write", str(files / "s.yaml")])


def test_a_folder_of_an_encoder_may_have_dots_in_its_name() -> None:
    assert _name("/m/vit_small_patch16_224.augreg_in21k", {}, "-") == (
        "vit-small-patch16-224-augreg-in21k"
    )
    assert len(_name("/m/" + "x" * 200, {})) < 100


def test_a_class_may_have_options(tmp_path: Path, monkeypatch) -> None:
    source = VAE_SOURCE.replace(
        "def encode",
        "def __init__(self, d):\n        super().__init__()\n        self.d = d\n    def encode",
    )
    (tmp_path / "optional_vae.py").write_text(source.replace("repeat(1, 5", "repeat(1, self.d"))
    monkeypatch.syspath_prepend(tmp_path)

    def entry(text: str, **named: Any) -> dict[str, Any]:
        request = Request([("tokenizer", text)], images="kind: digits, size: 8", **named)
        return requested_study(request)["tokenizers"]

    found = entry("object: optional_vae:Vae, options: {d: 7}")
    assert (list(found), found["vae"]["channels"]) == (["vae"], 7)
    for text, named, message in (
        ("optional_vae:Vae", {}, "calling it with nothing raised TypeError"),
        ("object: optional_vae:Vae, option: {d: 7}", {}, "did you mean `options`"),
        ("object: optional_vae:Vae", {"weights": "w"}, "nothing that is scored takes it"),
    ):
        with pytest.raises(StudyError, match=message):
            entry(text, **named)
    sys.modules.pop("optional_vae", None)


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    for name, message in (
        ("shard-0.tar", r"--images 'kind: tar, path: .*/\*\.tar'$"),
        ("a.bmp", r"\.bmp files are not read"),
        ("notes.txt", "no images in this folder$"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
        with pytest.raises(StudyError, match=message):
            images_entry(str(tmp_path / name), None, None)


def test_the_reason_of_a_failure_is_found_however_far_upstream(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan(load_study(SMOKE))
    (measured, *_) = plan.of_stage("generation")
    (dataset,) = plan.of_stage("dataset")
    rule = STAGES["dataset"].rule
    log = Path("results/logs", rule, f"{dataset.name}.{dataset.fingerprint}.log")
    log.parent.mkdir(parents=True)
    log.write_text("12:00 reading\nerror: the folder is empty\n")
    assert scoring_run._failure(measured) == "the folder is empty"
    log.write_text("error: too few images\n  metrics.a: needs 2\n  metrics.b: needs 3\n13:00 end\n")
    assert scoring_run._failure(measured) == (
        "too few images; metrics.a: needs 2; metrics.b: needs 3"
    )


def test_file_names_may_lie_beside_latents(files: Path, latents: Tensor) -> None:
    names = np.array([f"{number}.png" for number in range(len(latents))])
    np.savez(files / "both.npz", z=latents.numpy(), names=names)
    assert torch.equal(read_array(files / "both.npz", ("z",)), latents)
    with pytest.raises(DataError, match=r"numbers are expected, it holds <U"):
        read_array(files / "both.npz", (), "names")


def test_classes_of_archives_are_those_of_their_labels(tmp_path: Path, capsys) -> None:
    write_images(tmp_path / "toy")
    images = labelled(tmp_path / "toy", "train")
    for write, name in ((write_zip, "a.zip"), (write_tar, "a.tar"), (write_parquet, "a.parquet")):
        write(tmp_path / name, images)
    write_zip(tmp_path / "bare.zip", images, labels=None)
    write_tar(tmp_path / "bare.tar", images, extension="")
    counts = {"a.zip": 3, "a.tar": 3, "a.parquet": 3, "bare.zip": 1, "bare.tar": 1}
    for name, count in counts.items():
        assert images_entry(str(tmp_path / name), 20, None)["num_classes"] == count
    entry = f"kind: zip, path: {tmp_path}/a.zip"
    assert images_entry(entry, None, None)["num_classes"] == 3
    assert images_entry(f"{entry}, num_classes: 5", None, None)["num_classes"] == 5
    assert images_entry(entry, None, 5)["num_classes"] == 5
    assert images_entry(f"kind: folder, path: {tmp_path}/toy", None, None)["num_classes"] == 3
    np.save(tmp_path / "z.npy", np.zeros((len(images), 2, 2, 2), np.float32))
    for name, said in (("a.zip", "3 classes, by its labels"), ("bare.zip", "has no labels: one")):
        words = ["--images", str(tmp_path / name), "--size", "20"]
        main([str(tmp_path / "z.npy"), *words, "--write", str(tmp_path / "s.yaml")])
        assert f"{name}: {said}" in capsys.readouterr().err
    (tmp_path / "torn.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:99])
    with pytest.raises(DataError, match=r"torn\.zip: cannot be read as a zip"):
        images_entry(str(tmp_path / "torn.zip"), None, None)


def test_labels_of_archives_have_no_gaps_or_are_not_used(tmp_path: Path) -> None:
    write_images(tmp_path / "toy")
    images = labelled(tmp_path / "toy", "train")
    write_zip(tmp_path / "gap.zip", [each._replace(label=4 * each.label) for each in images])
    with pytest.raises(DataError, match=r"3 classes with labels from 0 to 8.*--classes 1"):
        images_entry(str(tmp_path / "gap.zip"), 20, None)
    spec = DATASETS["zip"].model_validate(images_entry(str(tmp_path / "gap.zip"), 20, 1))
    (tmp_path / "index").mkdir()
    found, _ = DATASETS.code(spec)(spec).prepare(tmp_path / "index", tmp_path / "index")
    assert (found.num_classes, found.labels.tolist()) == (1, [0] * len(images))


def test_images_that_the_first_job_would_refuse_are_refused_at_once_in_options(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(scoring_run, "_snakemake", pytest.fail)
    write_images(tmp_path / "toy", splits=("",))  # three folders of small images
    write_images(tmp_path / "odd", splits=("",))
    next((tmp_path / "odd").rglob("*.png")).with_suffix(".tiff").touch()
    write_zip(tmp_path / "a.zip", labelled(tmp_path / "toy", ""))
    idx = write_idx(tmp_path / "idx")
    np.save(tmp_path / "z.npy", np.zeros((4, 2, 2, 2), np.float32))

    def refused(images: str, *options: str) -> str:
        with pytest.raises((DataError, StudyError)) as error:
            main([str(tmp_path / "z.npy"), "--images", images, *options])
        return str(error.value)

    one = "--classes 1 takes all images as one class"
    said = refused(str(tmp_path / "toy"), "--size", "20", "--classes", "5")
    assert "toy: --classes 5, and there are 3 class folders (" in said
    assert said.endswith(one)
    said = refused(str(tmp_path / "a.zip"), "--size", "20", "--classes", "5")
    assert f"labels from 0 to 2, but --classes 5, which are the labels 0 to 4; {one}" in said
    said = refused(str(tmp_path / "odd"), "--size", "20")
    entry = f"kind: folder, path: {tmp_path}/odd, size: 20"
    assert f"set `damaged: skip` (--images '{entry}, damaged: skip') to leave them out" in said
    entry = f"kind: idx, path: {idx}, size: 16"
    said = refused(entry)
    assert "28 x 28 pixels do not fit into --size 16; set `fit: resize`" in said
    assert f"(--images '{entry}, fit: resize'), or a larger --size" in said
    np.save(tmp_path / "y.npy", np.arange(4))
    with pytest.raises(DataError, match=r"labels from 0 to 3, but --classes 2, which"):
        main([str(tmp_path / "z.npy"), "--labels", f"{tmp_path}/y.npy", "--classes", "2"])


def test_of_bounds_of_latents_and_of_pixels_the_wider_is_read() -> None:
    flags = [f"data-limited: a bound at v <= {v}" for v in ("2", "10", "0.5")]
    assert to_read([*flags, "rank-deficient", "rank-deficient"]) == [
        "too few images for the number of dimensions: a bound at v <= 10",
        "too few images for the number of features",
    ]


def test_what_nothing_applies_to_is_said_before_anything_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(scoring_run, "_snakemake", pytest.fail)
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).normal(size=(40, 6, 3)))
    former = tmp_path / "out" / "score.html"  # of another score
    former.parent.mkdir()
    former.touch()
    words = ["--metrics", "smoothness", "--results", str(former.parent)]
    reason = "nothing can be measured: its tokens have no position on a grid"
    with pytest.raises(StudyError, match=reason):
        main([str(tmp_path / "tokens.npy"), *words])
    assert former.exists()


def test_classes_that_cannot_be_counted_are_never_taken_to_be_one(
    tmp_path: Path, monkeypatch
) -> None:
    write_images(tmp_path / "toy")
    write_parquet(tmp_path / "a.parquet", labelled(tmp_path / "toy", "train"))
    monkeypatch.setattr(entries_module, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match="cannot be counted: package pyarrow: not installed"):
        images_entry(str(tmp_path / "a.parquet"), 20, None)
    with pytest.raises(StudyError, match=r"cannot be counted: .*no \.zip file at"):
        images_entry(f"kind: zip, path: {tmp_path}/none.zip", None, None)


def test_a_space_that_no_metric_applies_to_is_left_out_by_name(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "grid.npy", rng.normal(size=(40, 3, 4, 4)))
    np.save(tmp_path / "tokens.npy", rng.normal(size=(40, 6, 3)))
    items = [("", str(tmp_path / f"{name}.npy")) for name in ("grid", "tokens")]
    data = requested_study(Request(items, metrics=["smoothness"]))
    monkeypatch.setattr(scoring_run, "is_done", lambda artifact: False)
    monkeypatch.setattr(scoring_run, "_failure", lambda artifact: "failed")
    scores = scoring_run._read(Plan(resolve_study(data, "score")), None)
    reasons = {score.name: score.left_out["smoothness"] for score in scores}
    assert reasons == {"grid": "failed", "tokens": "its tokens have no position on a grid"}


@pytest.mark.parametrize("cores", ["0", "-1", "two"])
def test_a_number_of_cores_is_at_least_one(cores: str, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["z.npy", f"--cores={cores}"])
    assert f"{cores}: must be a whole number, at least 1" in capsys.readouterr().err


def test_labels_beside_latents_are_named_where_they_are_not_used(tmp_path: Path, capsys) -> None:
    z, y = torch.zeros(6, 2, 2, 2), torch.arange(6)
    np.savez(tmp_path / "a.npz", latents=z, y=y)
    save_file({"z": z, "labels": y}, tmp_path / "b.safetensors")
    study = ["--write", str(tmp_path / "s.yaml")]
    for name, key in (("a.npz", "y"), ("b.safetensors", "labels")):
        main([str(tmp_path / name), *study])
        said = f"{name}: its `{key}` are not used; with: --labels {tmp_path / name}"
        assert said in capsys.readouterr().err
    main([str(tmp_path / "a.npz"), "--labels", str(tmp_path / "a.npz"), *study])
    assert "not used" not in capsys.readouterr().err


def test_weights_that_are_taken_for_latents_are_named_in_a_line(tmp_path: Path) -> None:
    save_file({f"decoder.{k}": torch.zeros(1) for k in range(90)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"\.\.\. \(90 arrays\), and not one of") as error:
        read_array(tmp_path / "w.safetensors", ("latents",))
    assert len(str(error.value)) < 300


def test_a_velocity_variance_of_few_images_is_said_to_be_too_low() -> None:
    generator = torch.Generator().manual_seed(0)
    small, large = (
        score(
            torch.randn(n, 2, 4, 4, generator=generator),
            torch.arange(n) % 5,
            metrics=["velocity"],
        )
        for n in (300, 20000)
    )
    assert "VIV: too low by about" in score_text([small])
    assert "too low" not in score_text([large])
    assert small["velocity.viv"] < large["velocity.viv"]


def test_folders_are_classes_only_where_nothing_else_is_said(tmp_path: Path, capsys) -> None:
    write_images(tmp_path / "toy", splits=("",))  # three folders of small images
    words = ["--images", str(tmp_path / "toy"), "--write", str(tmp_path / "s.yaml")]
    (tmp_path / "vae").mkdir()
    config = {"_class_name": "AutoencoderTiny", "latent_channels": 4}
    config["encoder_block_out_channels"] = [8, 8, 8]
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config))
    for classes, said in (([], True), (["--classes", "3"], False), (["--classes", "1"], False)):
        main([str(tmp_path / "vae"), "--size", "8", *classes, *words])
        note = "its 3 folders are taken as classes; if they are none, say so: --classes 1"
        assert (note in capsys.readouterr().err) == said
        (data,) = load_study(tmp_path / "s.yaml").datasets.values()
        assert data.num_classes == (1 if "1" in classes else 3)


def test_images_of_every_kind_that_would_be_enlarged_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "toy")  # 24 x 20 pixels
    images = labelled(tmp_path / "toy", "train")
    for write, kind in ((write_zip, "zip"), (write_tar, "tar"), (write_parquet, "parquet")):
        write(tmp_path / f"a.{kind}", images)
    idx = write_idx(tmp_path / "idx")
    np.save(tmp_path / "z.npy", np.zeros((4, 2, 2, 2), np.float32))

    def written(given: str, **named: Any) -> dict[str, Any]:
        request = Request([("", str(tmp_path / "z.npy"))], images=given, **named)
        return requested_study(request)["datasets"]["images"]

    for given, classes, side, default in (
        (str(tmp_path / "toy"), None, 20, 256),
        (str(tmp_path / "a.zip"), 3, 20, 256),
        (str(tmp_path / "a.tar"), 3, 20, 256),
        (str(tmp_path / "a.parquet"), 3, 20, 256),
        (f"kind: tar, path: {tmp_path}/a.tar, num_classes: 3", None, 20, 256),
        (f"kind: folder, path: {tmp_path}/toy, num_classes: 3", None, 20, 256),
        (f"kind: idx, path: {idx}, fit: resize", None, 28, 32),
        ("kind: digits", None, 8, 16),
    ):
        match = rf"would be enlarged to {default}; .*--size {side}, or --size {default}$"
        with pytest.raises(StudyError, match=match):
            written(given, classes=classes)
        for said in (side, default) if "digits" not in given else (8, 16):
            assert written(given, classes=classes, size=said)["size"] == said
    assert written(f"kind: idx, path: {idx}")["size"] == 32  # padded, not enlarged
    for file in (tmp_path / "toy").rglob("*.png"):
        write_image(file, 0, (300, 256))
    assert written(str(tmp_path / "toy"))["size"] == 256


def test_latents_are_counted_against_a_folder_before_any_job(tmp_path: Path) -> None:
    for k in range(6):
        file = tmp_path / "photos" / f"{k}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (k, 0, 0)).save(file)
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(7, 4, 8, 8)))
    request = Request(
        items=[("", str(tmp_path / "z.npy"))], images=str(tmp_path / "photos"), size=32
    )
    study = resolve_study(requested_study(request), "score")
    with pytest.raises(DataError, match=r"z\.npy: 7 latents, where there are 6 images"):
        check_stored(study)


def test_what_a_value_is_of_stands_in_its_name(tmp_path: Path) -> None:
    """LNC of whole images is another quantity than that of foregrounds."""
    generator = torch.Generator().manual_seed(0)
    latents, labels = torch.randn(90, 3, 4, 4, generator=generator), torch.arange(90) % 3
    masks = torch.zeros(90, 4, 4)
    masks[:, 1:3, 1:3] = 1
    options = {"metrics": ["semantics"], "semantics": {"neighbours": [5]}}
    whole, cut = score(latents, labels, **options), score(latents, labels, masks, **options)
    assert whole["semantics.lnc5"] != cut["semantics.lnc5"]
    assert "LNC, without masks (semantics.lnc5)" in score_text([whole])
    assert "without masks" not in score_text([cut])
    (m,) = (m for m in whole.measurements if m["metric"] == "semantics.lnc5")
    (other,) = (m for m in cut.measurements if m["metric"] == "semantics.lnc5")
    assert "pooling mean (known: foreground, any pixel)" in difference(m, other)
    assert difference(m, m) == ""


def test_a_thousand_classes_of_few_images_are_scored() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, labels = torch.randn(3000, 2, 4, 4, generator=generator), torch.arange(3000) % 1000
    options = {"metrics": ["velocity", "semantics"], "semantics": {"neighbours": [5]}}
    found = score(latents, labels, **options)
    rows = {short: m for _, short, m in shown_rows(found)}
    assert set(rows) == {"VIV, unconditional", "LNC, without masks"}
    flag = "labels are not used: 1000 of 1000 classes have fewer than"
    assert any(said.startswith(flag) for said in rows["VIV, unconditional"]["flags"])
    chance = rows["LNC, without masks"]["options"]["chance"]
    assert chance == pytest.approx(2 / 2999)  # two others of 2,999 are of its class
    assert rows["LNC, without masks"]["value"] == pytest.approx(chance, abs=0.002)


def test_flags_are_said_in_words_also_in_a_notebook(tmp_path: Path) -> None:
    cell = {"metric": "velocity.viv", "value": 0.5, "stderr": 0.1, "n": 9, "unit": "1"}
    cell |= {"higher_is_better": False, "options": {}}
    flags = ["one class: unconditional", "points-limited-to-images"]
    poor = {"metric": "reconstruction.psnr", "value": 9.0, "stderr": 0.1, "n": 9, "unit": "dB"}
    poor |= {"higher_is_better": True, "options": {}, "flags": []}
    found = Score("a", [cell | {"flags": flags}, poor], {})
    table = one_row_each([found]).set_index("metric")
    assert table.loc["velocity.viv", ["latents", "value", "stderr"]].tolist() == ["a", 0.5, 0.1]
    assert table.loc["reconstruction.psnr", ["unit", "better"]].tolist() == ["dB", "higher"]
    assert table["read_with_care"].tolist() == ["fewer images than points were asked for", ""]
    for said in (score_text([found]), found._repr_html_()):
        assert "Read with care, of a" in said
        assert "VIV, unconditional: fewer images than points were asked for" in said
        assert "one class" not in said
        assert "below 15 dB images are hardly reconstructed" in said


def test_names_that_cannot_be_scored_say_what_to_do(tmp_path: Path) -> None:
    def refused(*items: tuple[str, str], **named: Any) -> str:
        with pytest.raises(StudyError) as error:
            requested_study(Request(items=items, images="kind: digits, size: 8", **named))
        return str(error.value)

    assert refused(("vae", "../taesd")) == "../taesd: there is no such folder"
    np.save(tmp_path / "none.npy", np.zeros((0, 4, 2, 2), np.float32))
    with pytest.raises(StudyError, match="there are no latents in this file"):
        requested_study(Request(items=[("", str(tmp_path / "none.npy"))]))
    for images, reason in (
        ("size: 8", "the key `kind` is required"),
        ("kind: digits, size: big", "size"),
    ):
        with pytest.raises(StudyError, match=reason):
            requested_study(Request(items=[("vae", "x")], images=images))


def test_the_autoencoder_of_a_pipeline_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline" / "vae"
    folder.mkdir(parents=True)
    config = {"_class_name": "AutoencoderTiny", "latent_channels": 4}
    config["encoder_block_out_channels"] = [8, 8, 8]
    (folder / "config.json").write_text(json.dumps(config))
    given = [("vae", str(folder.parent)), ("vae", str(folder))]
    data = requested_study(Request(items=given, images="kind: digits, size: 8"))
    first, second = data["tokenizers"].values()
    assert first == second
    assert (first["path"], first["factor"]) == (str(folder), 4)


def test_the_page_says_of_which_space_a_metric_failed_and_why() -> None:
    names = ("conv-base", "conv-vf-glyph")
    study = resolve_study(study_without_models([SMOKE], [*names], ["smoothness"]), "test")
    reasons = {"smoothness": "collapsed", "spatial.srss": "no masks"}
    scores = [
        Score("conv-vf-glyph", [], reasons),
        Score("dead/s1", [], {"smoothness": "collapsed"}),
    ]
    left_out = scoring_run.Finished(scores, None).left_out
    cell = {"metric": "smoothness.sec25", "value": 0.1, "stderr": math.nan, "unit": "1"}
    cell |= {
        "higher_is_better": False,
        "flags": "",
        "backbone": "",
        "options": "{}",
        "family": "f",
        "cluster": "",
        "encoder": "",
        "tokenizer_seed": 0,
    }
    table = pd.DataFrame([{"tokenizer": "conv-base", **cell}])
    enough = {"train": [100] * 10, "val": [100] * 10}
    shown = perspective_rows(table, left_out).iloc[0]
    assert [shown[n] for n in (*names, "dead")] == ["0.1", "left out", "left out"]
    study = study.model_copy(
        update={"tokenizers": study.tokenizers | {"dead": study.tokenizers["conv-vf-glyph"]}}
    )
    found = left_out_rows(study, table, enough, left_out).set_index("metric")
    title = METRIC_GROUPS["smoothness"].title
    assert tuple(found.loc[title]) == ("collapsed", "conv-vf-glyph, dead")
    assert tuple(found.loc["SRSS"]) == ("no masks", "conv-vf-glyph")
    assert METRIC_GROUPS["uniformity"].title not in found.index  # nobody asked for it
    alone = left_out_rows(study, table, enough).set_index("metric")
    assert tuple(alone.loc[METRIC_GROUPS["uniformity"].title]) == (NOT_MEASURED, "all")


def test_what_failed_is_left_out_of_that_space_alone(tmp_path: Path, monkeypatch) -> None:
    data = study_without_models([SMOKE], ["conv-base", "conv-vf-glyph"], ["smoothness", "velocity"])
    data["select"]["without"] = {"conv-base": ["spatial"]}
    plan = Plan(resolve_study(data, "test"))
    failed = {("conv-base", "velocity")}

    def done(artifact: Artifact) -> bool:
        return (artifact.labels["tokenizer"], artifact.stage) not in failed

    monkeypatch.setattr(scoring_run, "is_done", done)
    part = scoring_run._measured_part(plan, data, tmp_path)
    assert {(a.labels["tokenizer"], a.stage) for a in part.measured} == {
        ("conv-base", "smoothness"),
        ("conv-vf-glyph", "smoothness"),
        ("conv-vf-glyph", "velocity"),
    }
    assert {a.path for a in part.measured} < {a.path for a in plan.measured}  # none is made again
    without = load_study(tmp_path / "score.yaml").select.without
    assert without["conv-base"] == ("spatial", "velocity")
    failed |= {("conv-base", "smoothness")}
    part = scoring_run._measured_part(plan, data, tmp_path)
    assert part.study.selected_tokenizers == ("conv-vf-glyph",)


def test_a_metric_is_left_out_of_the_tokenizer_that_a_study_names() -> None:
    whole = Plan(load_study(SMOKE))
    part = Plan(load_study(SMOKE, {"select": {"without": {"conv-base": ["fisher", "velocity"]}}}))
    gone = {a.path for a in whole} - {a.path for a in part}
    assert {path.split("/")[1] for path in gone} == {"fisher", "velocity", "learned_fisher"}
    assert all(path.split("/")[2] == "conv-base" for path in gone)
    assert part.study.left_out("conv-base")["velocity"] == "`select.without` leaves it out"
    for wrong in ({"conv-bas": ["fisher"]}, {"conv-base": ["fishre"]}):
        with pytest.raises(StudyError, match="select.without"):
            load_study(SMOKE, {"select": {"without": wrong}})


def test_a_job_that_ends_with_an_exception_says_its_last_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (dataset,) = (plan := Plan(load_study(SMOKE))).of_stage("dataset")
    log = Path("results/logs", STAGES["dataset"].rule, f"{dataset.name}.{dataset.fingerprint}.log")
    log.parent.mkdir(parents=True)
    log.write_text("Traceback (most recent call last):\n  File x\nRuntimeError: no space\n")
    assert (
        scoring_run._failure(plan.measured[0]) == f"RuntimeError: no space (log: {log.absolute()})"
    )
