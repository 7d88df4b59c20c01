"""Zips, Parquet files and tar shards: the images of a folder, wherever their bytes are."""

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from diffusability.data import parquet
from diffusability.data.archive import Archives
from diffusability.data.folder import FolderImages, open_folder
from diffusability.data.folder_index import build_index
from diffusability.data.images import ImageSet
from diffusability.data.load import data_source, load_dataset
from diffusability.errors import DataError
from diffusability.study.entries.dataset import DATASETS, ArchiveDataset, TarDataset
from diffusability.study.preflight.needs import describe_package
from diffusability.study.sources.image_files import archive_files, count_in_zips
from tests.unit.archive_files import Labelled, labelled, write_parquet, write_tar, write_zip
from tests.unit.image_files import SIZE, entry, other_pixels, write_images

WRITERS: dict[str, Callable[[Path, Sequence[Labelled]], None]] = {
    "zip": write_zip,
    "parquet": write_parquet,
    "tar": write_tar,
}
KINDS = list(WRITERS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with train/ and val/, three classes of four images each."""
    write_images(tmp_path / "toy")
    return tmp_path / "toy"


def spec_of(kind: str, path: Path, **options: object) -> ArchiveDataset:
    """Return the dataset entry of archives."""
    values = {"kind": kind, "path": str(path), "size": SIZE, "num_classes": 3} | options
    spec = DATASETS[kind].model_validate(values)
    assert isinstance(spec, ArchiveDataset)
    return spec


def prepared(spec: ArchiveDataset, folder: Path) -> tuple[ImageSet, dict[str, Any]]:
    """Prepare a dataset as its stage does; return the images and the manifest."""
    folder.mkdir(parents=True)
    source = DATASETS.code(spec)(spec)
    assert isinstance(source, Archives)
    data, notes = source.prepare(folder, folder)
    manifest = {"spec": spec.canonical(), **notes}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return data, manifest


def archives(kind: str, root: Path, folder: Path) -> dict[str, str]:
    """Write the images of both splits, those of training into two archives; return the paths."""
    folder.mkdir()
    train, val = labelled(root, "train"), labelled(root, "val")
    parts = {"train-0": train[:5], "train-1": train[5:], "val-0": val}
    for name, images in parts.items():
        WRITERS[kind](folder / f"{name}.{kind}", images)
    return {"path": f"{folder}/train-*", "val": f"{folder}/val-0.{kind}"}


def refusal(spec: ArchiveDataset, folder: Path) -> str:
    """Return the message with which a dataset is refused."""
    with pytest.raises(DataError) as caught:
        prepared(spec, folder)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_what_macos_adds_to_an_archive_is_no_image(kind: str, root: Path, tmp_path: Path) -> None:
    images = labelled(root, "train")
    added = [image._replace(name=f"__MACOSX/._{Path(image.name).name}") for image in images]
    hidden = [image._replace(name=f"./x/.{Path(image.name).name}") for image in images]
    shown = [image._replace(name=f"./{image.name}") for image in images]
    WRITERS[kind](tmp_path / f"a.{kind}", [*shown, *added, *hidden])
    if kind == "zip":  # labels are of what is shown
        write_zip(tmp_path / "a.zip", [*shown, *added], [[i.name, i.label] for i in shown])
        assert count_in_zips([tmp_path / "a.zip"]) == len(images)
    data, _ = prepared(spec_of(kind, tmp_path / f"a.{kind}", val_fraction=0.25), tmp_path / "made")
    assert len(data.labels) == len(images)


@pytest.mark.parametrize("kind", KINDS)
def test_images_labels_and_split_are_those_of_the_folder(
    kind: str, root: Path, tmp_path: Path
) -> None:
    expected = open_folder(root, build_index(entry(root), 1).index, entry(root), 1)
    places = archives(kind, root, tmp_path / "packed")
    data, manifest = prepared(spec_of(kind, **places), tmp_path / "made")
    again = load_dataset(tmp_path / "made")
    for images in (data, again):
        assert torch.equal(images.images[slice(None)], expected.images[slice(None)])
        assert torch.equal(images.labels, expected.labels)
        assert torch.equal(images.validation, expected.validation)
        assert not images.masked
        assert not images.masks[slice(None)].any()
    rows = torch.tensor([20, 3, 3, 11])
    assert torch.equal(again.images[rows], expected.images[rows])
    assert manifest["damaged"] == {}
    spec = spec_of(kind, **places, train_crop="random")
    cropped, _ = prepared(spec, tmp_path / "random")
    random = entry(root, train_crop="random")
    beside = open_folder(root, build_index(random, 1).index, random, 1).images
    assert isinstance(cropped.images, FolderImages)
    assert isinstance(beside, FolderImages)
    seeds = [1, 2, 3, 4]
    assert torch.equal(cropped.images.random_crops(rows, seeds), beside.random_crops(rows, seeds))


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_counts_the_images(kind: str, root: Path, tmp_path: Path) -> None:
    paths = archives(kind, root, tmp_path / "archives")
    train, val = (len(labelled(root, split)) for split in ("train", "val"))
    spec = spec_of(kind, **paths)
    assert spec.counted
    about = 0.3 if kind == "tar" else 0.0  # of several tars, the first is counted
    assert spec.counts().train == pytest.approx(train, rel=about)
    assert spec.counts().val == val
    held_out = spec_of(kind, tmp_path / "archives" / f"val-0.{kind}", val_fraction=0.25).counts()
    assert (held_out.train, held_out.val) == (val - val // 4, val // 4)
    Path(paths["val"]).write_bytes(b"no archive")
    absent = spec_of(kind, tmp_path / f"absent.{kind}")
    for unread in (spec_of(kind, **paths), absent):
        assert not unread.counted
        assert unread.counts().train == round(3 * 1281.167)  # as in ImageNet


@pytest.mark.parametrize("kind", KINDS)
def test_identity_is_the_content_and_not_the_place(kind: str, root: Path, tmp_path: Path) -> None:
    places = archives(kind, root, tmp_path / "packed")
    spec = spec_of(kind, **places)
    moved = shutil.copytree(tmp_path / "packed", tmp_path / "elsewhere")
    (moved / f"val-0.{kind}").rename(moved / f"held-out.{kind}")
    elsewhere = spec_of(kind, f"{moved}/train-*", val=f"{moved}/held-out.{kind}")
    assert spec.canonical()["content"] is not None
    assert elsewhere.canonical() == spec.canonical()
    planned = spec.canonical()
    swapped = spec_of(kind, places["val"], val=places["path"])
    images = labelled(root, "train")
    changed = images[0]._replace(content=images[1].content)
    WRITERS[kind](moved / f"train-0.{kind}", [changed, *images[1:5]])
    other = spec_of(kind, f"{moved}/train-*", val=f"{moved}/held-out.{kind}")
    assert len({json.dumps(s.canonical()) for s in (swapped, other)} | {json.dumps(planned)}) == 3
    assert "changed after the study was planned" in refusal(
        DATASETS[kind].model_validate({**planned, **elsewhere.local()}), tmp_path / "a"
    )
    prepared(spec, tmp_path / "made")
    (tmp_path / "packed" / f"train-1.{kind}").unlink()
    with pytest.raises(DataError, match="not the 3 archives that were indexed .*snakemake"):
        load_dataset(tmp_path / "made")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_member_is_named_or_skipped(kind: str, root: Path, tmp_path: Path) -> None:
    images = labelled(root, "train")
    images[4] = images[4]._replace(content=images[4].content[:60])
    path = tmp_path / f"some.{kind}"
    WRITERS[kind](path, images)
    message = refusal(spec_of(kind, path), tmp_path / "a")
    assert "1 damaged" in message
    member = "4" if kind == "parquet" else images[4].name
    assert f"{path}: {member} (" in message
    assert "`damaged: skip`" in message
    data, manifest = prepared(spec_of(kind, path, damaged="skip"), tmp_path / "b")
    assert list(manifest["damaged"]) == [f"{path}: {member}"]
    assert data.labels.bincount().tolist() == [4, 3, 4]
    assert data.images[slice(None)].shape == (11, 3, SIZE, SIZE)


def overwrite(path: Path, content: bytes, with_what: bytes) -> None:
    """Alter the bytes of a member in place."""
    whole = path.read_bytes()
    assert whole.count(content) == 1
    path.write_bytes(whole.replace(content, with_what))


@pytest.mark.parametrize("kind", KINDS)
def test_other_pixels_in_place_are_refused(kind: str, root: Path, tmp_path: Path) -> None:
    """The archive keeps its size, and is where it was when the dataset was prepared."""
    images = labelled(root, "train")
    path = tmp_path / f"some.{kind}"
    if kind == "parquet":
        write_parquet(path, images, compression="none")
    else:
        WRITERS[kind](path, images)
    data, _ = prepared(spec_of(kind, path), tmp_path / "made")
    kept = data.images[:7].clone()
    grey, size = other_pixels(images[7].content), path.stat().st_size
    if kind == "zip":  # whose members have checksums
        WRITERS[kind](path, [*images[:7], images[7]._replace(content=grey), *images[8:]])
    else:
        overwrite(path, images[7].content, grey)
    assert path.stat().st_size == size
    again = load_dataset(tmp_path / "made")
    assert torch.equal(again.images[:7], kept)
    with pytest.raises(DataError, match="other content than when it was indexed.*snakemake"):
        again.images[7:8]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_images_of_formats_that_are_not_read_are_named(
    kind: str, root: Path, tmp_path: Path
) -> None:
    images = labelled(root, "train")
    others = [Labelled(f"n09/{k}{end}", b"x", 0) for k, end in enumerate((".bmp", ".TIFF", ".gif"))]
    path = tmp_path / f"some.{kind}"
    WRITERS[kind](path, [*images, *others])
    message = refusal(spec_of(kind, path), tmp_path / "a")
    assert "3 damaged files among 12 images" in message
    assert f"{path}: n09/1.TIFF (.tiff files are not read, .jpg, .png and .webp are)" in message
    data, manifest = prepared(spec_of(kind, path, damaged="skip"), tmp_path / "b")
    assert list(manifest["damaged"]) == [f"{path}: {other.name}" for other in others]
    assert len(data.labels) == 12
    WRITERS[kind](path, others)
    assert "holds no images that are read" in refusal(spec_of(kind, path), tmp_path / "c")


def test_a_wrong_checksum_is_damage(root: Path, tmp_path: Path) -> None:
    images = labelled(root, "train")
    path = tmp_path / "some.zip"
    write_zip(path, images)
    content = images[7].content
    overwrite(path, content, content[:-1] + b"?")
    assert f"{images[7].name} (Bad CRC-32" in refusal(spec_of("zip", path), tmp_path / "a")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_cut_short_is_refused_by_name(kind: str, root: Path, tmp_path: Path) -> None:
    path = tmp_path / f"some.{kind}"
    WRITERS[kind](path, labelled(root, "train"))
    whole = path.read_bytes()
    for number, count in enumerate(np.linspace(len(whole) // 9, len(whole) * 5 // 9, 5)):
        path.write_bytes(whole[: int(count)])
        message = refusal(spec_of(kind, path, damaged="skip"), tmp_path / str(number))
        assert str(path) in message
        assert "copy it again" in message or kind != "tar"
    path.write_bytes(b"")
    assert f"{path}: cannot be read as" in refusal(spec_of(kind, path), tmp_path / "b")


def test_labels_that_are_missing_or_wrong(root: Path, tmp_path: Path) -> None:
    images = labelled(root, "train")
    number = iter(range(99))

    def refused(kind: str, **options: object) -> str:
        path = tmp_path / f"some.{kind}"
        return refusal(spec_of(kind, path, **options), tmp_path / str(next(number)))

    for kind, write in WRITERS.items():
        write(tmp_path / f"some.{kind}", images)
        message = refused(kind, num_classes=4)
        assert "3 classes with labels from 0 to 2, but `num_classes: 4`" in message
    write_zip(tmp_path / "some.zip", images, labels=None)
    assert "has no dataset.json" in refused("zip")
    write_zip(tmp_path / "some.zip", images, labels=[[images[0].name, 0]])
    assert f"{images[1].name} has no label" in refused("zip")
    write_zip(tmp_path / "some.zip", images, labels=[["no.png", 0]])
    assert "1 images of dataset.json are not in the zip, e.g. no.png" in refused("zip")
    write_zip(tmp_path / "some.zip", images, labels=[[images[0].name, [0.5]]])
    assert "the label [0.5], no class" in refused("zip")
    write_zip(tmp_path / "some.zip", images, labels=7)
    assert "does not hold `labels`" in refused("zip")
    assert "no column `fine_label` (it has image, label)" in refused("parquet", label="fine_label")
    assert "no column `img` (it has image, label)" in refused("parquet", image="img")
    assert "the column `label` is of type int64, not bytes" in refused("parquet", image="label")
    write_tar(tmp_path / "some.tar", images, extension="")
    assert f"{images[0].name} has no label" in refused("tar")
    write_tar(tmp_path / "some.tar", images, extension="json")
    assert "has no label" in refused("tar", label="class")
    write_tar(tmp_path / "some.tar", [images[0]._replace(name="a.txt")])
    assert "1 samples have a label but no JPEG, PNG or WebP image, e.g. a" in refused("tar")


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_labels_are_one_class(kind: str, root: Path, tmp_path: Path) -> None:
    images = labelled(root, "train")
    path = tmp_path / f"some.{kind}"
    if kind == "zip":
        write_zip(path, images, labels=None)
    elif kind == "tar":
        write_tar(path, images, extension="")
    else:
        pq.write_table(pa.table({"image": [image.content for image in images]}), path)
    data, _ = prepared(spec_of(kind, path, num_classes=1, val_fraction=0.25), tmp_path / "a")
    assert data.labels.tolist() == [0] * 12
    assert int(data.validation.sum()) == 3


def test_links_of_a_tar_are_refused(root: Path, tmp_path: Path) -> None:
    image = labelled(root, "train")[0]
    for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        link = tarfile.TarInfo("other.png")
        link.type, link.linkname = kind, image.name
        write_tar(tmp_path / "a.tar", [image])
        with tarfile.open(tmp_path / "a.tar", "a") as archive:
            archive.addfile(link)
        said = refusal(spec_of("tar", tmp_path / "a.tar", num_classes=1), tmp_path / f"m{kind!r}")
        assert f"other.png is a link to {image.name}" in said
        assert "--hard-dereference" in said


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_a_zip_is_refused(root: Path, tmp_path: Path) -> None:
    images = labelled(root, "train")
    again = images[0]._replace(content=images[1].content)
    write_zip(tmp_path / "a.zip", [*images, again])
    said = refusal(spec_of("zip", tmp_path / "a.zip"), tmp_path / "made")
    assert f"holds {images[0].name} twice" in said


def test_an_archive_is_found_whatever_its_name_is(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "x[1]" / "t*.zip"
    path.parent.mkdir()
    write_zip(path, labelled(root, "train"))
    assert spec_of("zip", path).counts().train + spec_of("zip", path).counts().val == 12


def test_splits_are_told_by_whole_words(tmp_path: Path) -> None:
    for name in ("constraints-0.tar", "retrieval-1.tar"):
        (tmp_path / name).touch()
    assert len(archive_files(str(tmp_path), ".tar")) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_archives_that_are_gone_have_the_identity_that_they_had(
    kind: str, root: Path, tmp_path: Path
) -> None:
    places = archives(kind, root, tmp_path / "packed")
    before = spec_of(kind, **places).canonical()["content"]
    shutil.rmtree(tmp_path / "packed")
    assert spec_of(kind, **places).canonical()["content"] == before is not None
    other = places | {"path": f"{tmp_path}/packed/other-*"}
    assert spec_of(kind, **other).canonical()["content"] is None  # nothing was ever there


def test_a_folder_of_several_splits_is_not_mixed(root: Path, tmp_path: Path) -> None:
    archives("tar", root, tmp_path / "packed")
    with pytest.raises(ValueError, match=r"several splits \(train, val\); name the files by"):
        spec_of("tar", tmp_path / "packed")
    (need,) = spec_of("parquet", tmp_path / "nowhere").needs()
    assert "no .parquet file at" in str(need)


@pytest.mark.parametrize("held_out", ["packed/train.tar", "./packed/../packed/tr*.tar"])
def test_no_archive_is_both_trained_on_and_held_out(
    held_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "train.tar").touch()
    with pytest.raises(ValueError, match="train.tar is part of both `path` and `val`"):
        TarDataset(kind="tar", path="packed", val=held_out)


def test_json_labels_and_plain_bytes_are_read_too(root: Path, tmp_path: Path) -> None:
    images = labelled(root, "train")
    write_tar(tmp_path / "some.tar", images, extension="json")
    write_parquet(tmp_path / "some.parquet", images, plain=True)
    sets = [
        prepared(spec_of(kind, tmp_path / f"some.{kind}"), tmp_path / kind)[0]
        for kind in ("tar", "parquet")
    ]
    assert torch.equal(sets[0].images[slice(None)], sets[1].images[slice(None)])
    assert sets[0].labels.tolist() == sets[1].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_forked_processes_read_the_same(
    kind: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "KEPT", 1)  # forgets every row group but the last
    prepared(spec_of(kind, **archives(kind, root, tmp_path / "packed")), tmp_path / "made")
    data = load_dataset(tmp_path / "made")
    expected = data.images[slice(None)]
    orders = [torch.from_numpy(np.random.default_rng(k).permutation(24)) for k in range(4)]

    def agrees(order: torch.Tensor) -> bool:
        return torch.equal(data.images[order], expected[order])

    children = []
    for order in orders:  # all read at once from what was open before the fork
        child = os.fork()
        if child == 0:
            same = all(agrees(order) for _ in range(5))
            os._exit(0 if same else 1)
        children.append(child)
    assert all(agrees(order) for order in orders)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(agrees, orders * 3))


def test_a_missing_reader_is_named_with_its_extra() -> None:
    assert spec_of("parquet", Path("x")).packages() == ("pyarrow",)
    assert "install the `parquet` extra: pip install -e " in describe_package("pyarrow")


def test_kinds_are_found_by_their_entry() -> None:
    for kind in KINDS:
        assert isinstance(data_source({"kind": kind, "path": "x", "content": None}), Archives)
