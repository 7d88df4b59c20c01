"""Latents on disk as a tokenizer: looked up, identified by content, refused in a sentence."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffusability.data.array_files import read_array
from diffusability.data.unseen import read_labels, read_masks
from diffusability.errors import DataError, StudyError
from diffusability.scoring.latents import score
from diffusability.study.entries.dataset import UnseenDataset
from diffusability.study.entries.tokenizer import LatentsTokenizer
from diffusability.study.metrics.metric_group import UNUSED_MASKS
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.study import Study
from diffusability.tokenizers.stored import LatentRows, check_latents, read_latents
from tests.unit.study_run import measurements, run_plan


@pytest.fixture
def latents(tmp_path: Path) -> np.ndarray[Any, Any]:
    found = np.random.default_rng(0).standard_normal((6, 3, 2, 2)).astype(np.float32)
    np.save(tmp_path / "z.npy", found)
    np.savez(tmp_path / "z.npz", latents=found, labels=np.arange(6))
    save_file({"mean": torch.from_numpy(found)}, tmp_path / "z.safetensors")
    np.save(tmp_path / "y.npy", np.arange(6) % 2)
    return found


def study(folder: Path, dataset: dict[str, Any] | None = None, **entry: Any) -> Study:
    labelled = {"kind": "latents", "images": 6, "num_classes": 2, "labels": str(folder / "y.npy")}
    mine = {"source": "latents", "path": str(folder / "z.npy"), "channels": 3}
    metrics = {
        name: {"split": "all"} for name in ("velocity", "semantics", "spatial", "smoothness")
    }
    metrics |= {name: {"split": "all"} for name in ("fisher", "equivariance", "reconstruction")}
    data = {"name": "own", "datasets": {"own": dataset or labelled}, "metrics": metrics}
    data |= {"tokenizers": {"mine": mine | entry}, "select": {"dataset": "own"}}
    return resolve_study(data, "test")


def test_labels_may_move_after_the_dataset_was_made(
    tmp_path: Path, latents: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_plan(Plan(study(tmp_path)), "dataset")
    (tmp_path / "y.npy").rename(tmp_path / "moved.npy")
    labels = str(tmp_path / "moved.npy")
    moved = {"kind": "latents", "images": 6, "num_classes": 2, "labels": labels}
    made = run_plan(Plan(study(tmp_path, moved)), "latents")
    assert {name.partition("/")[0] for name in made} == {"dataset", "tokenizer", "latents"}


def test_latents_may_move_after_the_tokenizer_was_made(
    tmp_path: Path, latents: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_plan(Plan(study(tmp_path)), "tokenizer")
    (tmp_path / "z.npy").rename(tmp_path / "moved.npy")
    made = run_plan(Plan(study(tmp_path, path=str(tmp_path / "moved.npy"))), "latents")
    assert len(made) == 3


def write_zarr(path: Path, array: np.ndarray[Any, Any], name: str = "", version: int = 3) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is an extra")
    options = {"chunks": (4, *array.shape[1:]), "zarr_format": version}
    if name:
        zarr.open_group(path, mode="a").create_array(name, data=array, chunks=options["chunks"])
    else:
        zarr.create_array(path, data=array, **options)


@pytest.mark.parametrize("name", ["z.npy", "z.npz", "z.safetensors", "z.zarr", "group.zarr"])
def test_latents_are_looked_up_by_the_numbers_of_images(tmp_path, latents, name) -> None:
    if name.endswith(".zarr"):
        write_zarr(tmp_path / name, latents, "latents" if name == "group.zarr" else "")
    if name == "group.zarr":
        write_zarr(tmp_path / name, np.arange(6), "labels")
    spec = LatentsTokenizer(source="latents", path=str(tmp_path / name), channels=3)
    rows = LatentRows(read_latents(spec))
    mean, logvar = rows(rows.numbers[[4, 1]])
    assert np.array_equal(mean.numpy(), latents[[4, 1]])
    assert bool((logvar == -30).all())


@pytest.mark.parametrize("version", [2, 3])
def test_a_folder_of_zarr_is_named_by_its_shape_and_its_values(tmp_path, latents, version) -> None:
    def content(array: np.ndarray[Any, Any], folder: str) -> str | None:
        write_zarr(tmp_path / folder / "z.zarr", array, version=version)
        path = str(tmp_path / folder / "z.zarr")
        return LatentsTokenizer(source="latents", path=path, channels=3).content

    first = content(latents, "a")
    assert first is not None
    assert content(latents, "b") == first
    assert content(latents + 1, "c") != first
    assert content(latents.view(np.int32), "d") != first  # the same bytes, of another type


def test_without_zarr_the_command_that_installs_it_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    (tmp_path / "z.zarr").mkdir()
    with pytest.raises(
        DataError, match=r"z\.zarr: the package `zarr` is not installed; .*\[zarr\]"
    ):
        read_array(tmp_path / "z.zarr", ("z",))


def test_a_folder_that_is_no_zarr_says_so(tmp_path) -> None:
    pytest.importorskip("zarr", reason="zarr is an extra")
    (tmp_path / "z.zarr").mkdir()
    with pytest.raises(DataError, match=r"z\.zarr: cannot be read as \.zarr"):
        read_array(tmp_path / "z.zarr", ("z",))


def test_tokens_become_a_column_of_cells(tmp_path: Path) -> None:
    tokens = np.arange(24, dtype=np.float32).reshape(2, 4, 3)  # (N, L, D)
    np.save(tmp_path / "t.npy", tokens)
    spec = LatentsTokenizer(
        source="latents", path=str(tmp_path / "t.npy"), channels=3, layout="tokens"
    )
    found = read_latents(spec)
    assert found.shape == (2, 3, 4, 1)
    assert found[1, 2, 3, 0] == tokens[1, 3, 2]


def test_masks_of_tokens_are_not_used_on_the_command_line_and_in_python(
    tmp_path: Path, workplace: Path
) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((60, 4, 3)).astype(np.float32)  # (N, L, D)
    labels, masks = np.arange(60) % 3, np.zeros((60, 8, 8), bool)
    masks[:, :2] = True  # the first of four bands of rows, which is no place of a token
    for name, array in {"t": tokens, "y": labels, "m": masks}.items():
        np.save(tmp_path / f"{name}.npy", array)
    data = {"kind": "latents", "images": 60, "num_classes": 3, "size": 8}
    data |= {"labels": str(tmp_path / "y.npy"), "masks": str(tmp_path / "m.npy")}
    spec = study(tmp_path, data, path=str(tmp_path / "t.npy"), layout="tokens")
    found = measurements(run_plan(Plan(spec), "semantics")["semantics/mine/s0"])
    own = {m["metric"]: m for m in score(tokens, labels, masks, metrics=["semantics"]).measurements}
    plain = {m["metric"]: m for m in score(tokens, labels, metrics=["semantics"]).measurements}
    assert {name: m["value"] for name, m in own.items()} == pytest.approx(
        {name: m["value"] for name, m in plain.items()}
    )
    assert found["semantics.lnc5"]["value"] == pytest.approx(own["semantics.lnc5"]["value"])
    assert found["semantics.lnc5"]["options"]["pooling"] == "mean"
    for each in (found, own):
        assert all(UNUSED_MASKS in m["flags"] for m in each.values())
    assert not any(UNUSED_MASKS in m["flags"] for m in plain.values())
    assert (
        score(tokens, labels, masks, metrics=["spatial"]).left_out["spatial.srss"] == UNUSED_MASKS
    )


def test_they_are_named_by_content_and_not_by_place(tmp_path: Path, latents) -> None:
    first = {a.fingerprint for a in Plan(study(tmp_path))}
    np.save(tmp_path / "copy.npy", latents)
    assert {a.fingerprint for a in Plan(study(tmp_path, path=str(tmp_path / "copy.npy")))} == first
    np.save(tmp_path / "other.npy", latents + 1)
    other = {a.fingerprint for a in Plan(study(tmp_path, path=str(tmp_path / "other.npy")))}
    assert len(first & other) == 1  # the dataset


def test_what_needs_images_labels_or_a_grid_is_left_out_with_the_reason(tmp_path, latents) -> None:
    labelled = study(tmp_path)
    assert set(labelled.left_out("mine")) == {"equivariance", "reconstruction"}
    measured = {a.stage for a in Plan(labelled).measured}
    assert measured == {"velocity", "semantics", "spatial", "smoothness", "fisher"}
    assert not Plan(labelled).of_stage("pixel_fisher")
    plain = study(tmp_path, {"kind": "latents", "images": 6}, layout="tokens")
    left_out = plain.left_out("mine")
    assert set(left_out) == {*labelled.left_out("mine"), "semantics", "spatial", "smoothness"}
    assert left_out["semantics"] == "there are no labels, or one class"


def test_a_study_of_latents_refuses_what_it_cannot_do(tmp_path: Path, latents) -> None:
    data = {"kind": "latents", "images": 6}
    with pytest.raises(StudyError, match="no validation split; write `split: all`"):
        resolve_study(
            {
                "name": "own",
                "datasets": {"own": data},
                "tokenizers": {"a": {"source": "latents", "path": "z.npy", "channels": 3}},
                "metrics": {"velocity": {"split": "val"}},
                "select": {"dataset": "own"},
            },
            "test",
        )
    with pytest.raises(StudyError, match="num_classes 2 needs `labels`"):
        study(tmp_path, {"kind": "latents", "images": 6, "num_classes": 2})


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        (
            "a.npy",
            np.zeros((6, 3)),
            r"shape \(6, 3\); the layout `grid` is \(N, C, H, W\)",
        ),
        ("a.npy", np.zeros((6, 4, 2, 2)), "latents of 4 channels .* says channels: 3"),
        ("a.npy", np.zeros((6, 3, 2, 2), dtype=complex), "numbers are expected"),
        ("a.txt", None, "files of .npy, .npz, .safetensors"),
        ("b.npy", None, "there is no such file"),
    ],
)
def test_bad_latents_are_refused_in_a_sentence(tmp_path, file, array, message) -> None:
    if array is not None:
        np.save(tmp_path / file, array)
    spec = LatentsTokenizer(source="latents", path=str(tmp_path / file), channels=3)
    with pytest.raises(DataError, match=message):
        read_latents(spec)


def test_latents_that_are_no_numbers_are_counted(latents) -> None:
    wrong = torch.from_numpy(latents.copy())
    wrong[4, 1, 0, 0] = torch.nan
    with pytest.raises(DataError, match=r"1 latents hold NaN .* numbers \[4\]"):
        check_latents(wrong, "z.npy")
    with pytest.raises(DataError, match=r"these are torch\.int64"):
        check_latents(torch.zeros(6, 3, 2, 2, dtype=torch.int64), "z.npy")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(5), r"labels of shape \(5,\) for 6 latents"),
        (np.arange(6) + 0.5, "labels must be integers"),
        (np.arange(6), "labels from 0 to 5, but `num_classes: 2`"),
        (np.arange(6) - 1, r"label -1 would be a class of its own.*latents\[labels >= 0\]"),
        (np.arange(6) > 2, "labels must be integers, these are torch.bool"),
    ],
)
def test_bad_labels_are_refused_in_a_sentence(tmp_path, labels, message) -> None:
    np.save(tmp_path / "y.npy", labels)
    spec = UnseenDataset(kind="latents", images=6, num_classes=2, labels=str(tmp_path / "y.npy"))
    with pytest.raises(DataError, match=message):
        read_labels(spec)


def test_bad_masks_are_refused_in_a_sentence(tmp_path: Path) -> None:
    spec = UnseenDataset(kind="latents", images=6, masks=str(tmp_path / "m.npy"))
    np.save(tmp_path / "m.npy", np.ones((5, 2, 2)))
    with pytest.raises(DataError, match="they must be"):
        read_masks(spec)
    np.save(tmp_path / "m.npy", np.full((6, 2, 2), 255))
    with pytest.raises(DataError, match=r"shares of foreground in \[0, 1\]"):
        read_masks(spec)


def test_a_file_of_several_arrays_says_which_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.zeros(2), two=np.zeros(2))
    with pytest.raises(DataError, match="holds one, two, and not one of z"):
        read_array(tmp_path / "a.npz", ("z",))
    assert read_array(tmp_path / "a.npz", ("z",), "two").shape == (2,)
