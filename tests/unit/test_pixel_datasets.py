"""IDX and CIFAR files: pixels, labels, splits, masks, identity, and files that are refused."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusability.data.crops import centre_crop
from diffusability.data.idx import read_idx
from diffusability.data.images import ImageSet
from diffusability.data.load import data_source, load_dataset
from diffusability.errors import DataError
from diffusability.study.entries.dataset import DATASETS
from diffusability.study.entries.pixel_dataset import CifarDataset, IdxDataset
from tests.unit.idx_files import IMAGES, LABELS, idx_bytes, write_idx


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Gzipped IDX files."""
    return write_idx(tmp_path / "toy")


def loaded(folder: Path, kind: str = "idx", **options: object) -> ImageSet:
    """Return the images that an entry stands for."""
    return data_source({"kind": kind, "path": str(folder), **options}).load()


def refusal(folder: Path, **options: object) -> str:
    """Return the message with which files are refused."""
    with pytest.raises(DataError) as caught:
        loaded(folder, **options)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_idx_images_are_padded_and_masked(tmp_path: Path, suffix: str) -> None:
    data = loaded(write_idx(tmp_path / "toy", suffix))
    assert data.images.shape == (80, 1, 32, 32)
    inside = data.images[:, 0, 2:30, 2:30]
    assert np.array_equal(inside.numpy(), np.concatenate([IMAGES["train"], IMAGES["t10k"]]))
    assert int(data.images[slice(None)].sum()) == int(inside.sum())  # black around them
    assert data.labels.tolist() == [*LABELS["train"], *LABELS["t10k"]]
    assert data.validation.tolist() == [False] * 60 + [True] * 20
    assert torch.equal(data.masks[slice(None)], data.images[:, 0] >= 10)
    assert data.masks[60:].flatten(1).any(1).tolist() == [level >= 10 for level in range(20)]
    assert loaded(tmp_path / "toy", foreground=3).masks[60:].flatten(1).any(1).sum() == 17
    plain = loaded(tmp_path / "toy", foreground=None, size=29)
    assert (plain.masked, plain.masks.shape, plain.images.shape[-1]) == (False, (80, 29, 29), 29)
    assert torch.equal(plain.images[:, :, :28, :28][:, 0], inside)  # odd: one more at the end


def test_idx_images_are_resized_as_those_of_folders(folder: Path) -> None:
    data = loaded(folder, fit="resize", size=12)
    image = Image.fromarray(IMAGES["train"][7].astype(np.uint8)).convert("RGB")
    expected = np.asarray(centre_crop(28, 28, 12).of_image(image))[..., 0]
    assert np.array_equal(data.images[7, 0].numpy(), expected)


def test_a_subset_is_the_first_of_every_class(folder: Path) -> None:
    data = loaded(folder, train=23, val=10)
    assert data.labels[:23].bincount().tolist() == [3, 3, 3] + [2] * 7
    assert data.labels[23:].tolist() == list(range(10))
    assert torch.equal(data.images[:23], loaded(folder).images[:23])  # labels 0 ... 9, 0 ...
    assert torch.equal(data.images[23:], loaded(folder).images[60::2])
    assert "60 images, the study has train: 61" in refusal(folder, train=61)


def test_identity_is_the_content_of_the_files(folder: Path, tmp_path: Path) -> None:
    spec = IdxDataset(kind="idx", path=str(folder))
    planned = spec.canonical()
    assert planned["content"] is not None
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert IdxDataset(kind="idx", path=str(moved)).canonical() == planned
    values = LABELS["train"][::-1]
    (moved / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(values)))
    assert IdxDataset(kind="idx", path=str(moved)).canonical() != planned
    source = DATASETS.code(spec)(IdxDataset.model_validate({**planned, "path": str(moved)}))
    with pytest.raises(DataError, match="changed after the study was planned"):
        source.prepare(tmp_path, tmp_path)


def test_jobs_open_what_was_prepared(folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    spec = IdxDataset(kind="idx", path=str(folder))
    data, notes = DATASETS.code(spec)(spec).prepare(made, made)
    (made / "manifest.json").write_text(json.dumps({"spec": spec.canonical(), **notes}))
    assert torch.equal(load_dataset(made).images[slice(None)], data.images[slice(None)])
    values = LABELS["train"][::-1]
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(values)))
    with pytest.raises(DataError, match="not the images that .*made was made of.*snakemake"):
        load_dataset(made)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="Put the files back, or set the dataset's `path`"):
        load_dataset(made)


def test_idx_files_that_are_refused(folder: Path) -> None:
    file = folder / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()

    def refused(content: bytes) -> str:
        file.write_bytes(content)
        message = refusal(folder)
        assert message.startswith(f"{file}: ")
        return message

    assert "cannot be read (Compressed file ended" in refused(whole[: len(whole) // 2])
    assert "begins with 00000801" in refused(gzip.compress(idx_bytes(LABELS["train"])))
    assert "an IDX file of bytes in 3 dimensions with 00000803" in refused(b"<html>")
    assert "begins with nothing" in refused(b"")
    short = idx_bytes(IMAGES["train"])[:-1]
    assert "47039 bytes follow the header, which announces 60 x 28 x 28" in refused(short)
    assert "0 bytes follow the header" in refused(short[:9])
    assert "59 images have 60 labels" in refused(idx_bytes(IMAGES["train"][1:]))
    file.write_bytes(whole)
    message = refusal(folder, num_classes=12)
    assert "10 classes with labels from 0 to 9, but `num_classes: 12`" in message
    assert "28 x 28 pixels do not fit into `size: 16`; set `fit: resize`" in refusal(
        folder, size=16
    )
    file.unlink()
    (need,) = IdxDataset(kind="idx", path=str(folder)).needs()
    assert "has no file of training images" in str(need)
    assert "no file of training images" in refusal(folder)
    with pytest.raises(DataError, match="cannot be read .No such file"):
        read_idx(file, 3)


def test_a_missing_folder_is_one_sentence_with_the_command(tmp_path: Path) -> None:
    (need,) = IdxDataset(kind="idx", path=str(tmp_path / "no")).needs()
    assert not need.there
    assert str(need) == (
        f"IDX images: not at {tmp_path / 'no'}; install Fashion-MNIST with `apt-get install "
        "dataset-fashion-mnist`, or set the dataset's `path` to a folder of IDX files"
    )


def test_a_file_counts_before_its_gzipped_copy_and_sets_are_not_mixed(folder: Path) -> None:
    content = idx_bytes(255 - IMAGES["t10k"])
    (folder / "t10k-images-idx3-ubyte").write_bytes(content)
    assert int(loaded(folder).images[60, 0, 2, 2]) == 255
    (folder / "emnist-letters-test-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match="several files of test images"):
        IdxDataset(kind="idx", path=str(folder))


# --- CIFAR ----------------------------------------------------------------------------------------


def write_cifar(folder: Path, classes: int) -> dict[str, Any]:
    """Write files of 2 images per class and file; return pixels and labels in their order."""
    folder.mkdir()
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    names = names if classes == 10 else ["train.bin", "test.bin"]
    random = np.random.default_rng(1)
    pixels, labels = [], []
    for name in names:
        own = np.tile(np.arange(classes), 2)
        images = random.integers(0, 256, (len(own), 3, 32, 32), dtype=np.uint8)
        rows = []
        for image, label in zip(images, own, strict=True):
            head = [label] if classes == 10 else [label // 5, label]
            rows.append(bytes(head) + image.tobytes())
        (folder / name).write_bytes(b"".join(rows))
        pixels.append(images)
        labels.append(own)
    return {"pixels": np.concatenate(pixels), "labels": np.concatenate(labels)}


@pytest.mark.parametrize(("classes", "train"), [(10, 100), (100, 200)])
def test_cifar(tmp_path: Path, classes: int, train: int) -> None:
    written = write_cifar(tmp_path / "cifar", classes)
    data = loaded(tmp_path / "cifar", "cifar", num_classes=classes)
    assert np.array_equal(data.images[slice(None)].numpy(), written["pixels"])
    assert data.labels.tolist() == written["labels"].tolist()
    assert int((~data.validation).sum()) == train
    assert not data.masked
    if classes == 100:
        coarse = loaded(tmp_path / "cifar", "cifar", num_classes=20)
        assert coarse.labels.tolist() == (written["labels"] // 5).tolist()
    entry = {"kind": "cifar", "path": str(tmp_path / "cifar"), "num_classes": classes}
    spec = CifarDataset.model_validate(entry)
    first = spec.files()[0]
    first.write_bytes(first.read_bytes()[:-1])
    message = refusal(tmp_path / "cifar", kind="cifar", num_classes=classes)
    assert f"{first}: " in message
    assert "are no whole number of images" in message
    first.unlink()
    assert [need.path for need in spec.needs() if not need.there] == [first]
