"""Which files of a folder are images, of which class and split, and which layouts are refused."""

import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from diffusability.data.folder_index import build_index
from diffusability.data.folder_layout import list_images, unread_images
from diffusability.errors import DataError
from tests.unit.image_files import CLASSES, entry, write_image, write_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with train/ and val/, three classes of four images each."""
    write_images(tmp_path / "toy")
    return tmp_path / "toy"


def test_layout_of_imagenet(root: Path) -> None:
    listing = list_images(root, entry(root))
    assert listing.classes == list(CLASSES)
    expected = [
        f"{split}/{name}/{split}_{name}_{k}.png"
        for split in ("train", "val")
        for name in CLASSES
        for k in range(4)
    ]
    assert listing.files == expected
    assert listing.labels == [0] * 4 + [1] * 4 + [2] * 4 + [0] * 4 + [1] * 4 + [2] * 4
    assert listing.validation == [False] * 12 + [True] * 12


@pytest.mark.parametrize("split", ["train", ""])
def test_without_val_a_share_of_every_class_is_held_out(tmp_path: Path, split: str) -> None:
    write_images(tmp_path, per_class=8, splits=(split,))
    listing = list_images(tmp_path, entry(tmp_path, val_fraction=0.25))
    assert listing.classes == list(CLASSES)
    held = torch.tensor(listing.validation)
    assert [int(held[torch.tensor(listing.labels) == label].sum()) for label in range(3)] == [2] * 3
    assert list_images(tmp_path, entry(tmp_path, val_fraction=0.25)) == listing


def test_flat_folder_is_one_class(tmp_path: Path) -> None:
    for k in range(10):
        write_image(tmp_path / f"{k}.PNG", k)
    listing = list_images(tmp_path, entry(tmp_path, num_classes=1, val_fraction=0.3))
    assert listing.files == [f"{k}.PNG" for k in range(10)]
    assert (set(listing.labels), sum(listing.validation)) == ({0}, 3)


def test_one_class_holds_the_images_of_all_folders(root: Path) -> None:
    write_image(root / "train" / "__MACOSX" / "added.png", 1)  # of an unpacked zip
    assert list_images(root, entry(root)).classes == list(CLASSES)
    write_image(root / "train" / "beside.png", 1)
    one = list_images(root, entry(root, num_classes=1))
    assert (one.classes, set(one.labels)) == ([""], {0})
    assert one.files == sorted(one.files)
    assert len(one.files) == 2 * 12 + 1


def test_order_does_not_depend_on_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list_images(root, entry(root))
    scandir, shuffler = os.scandir, random.Random(0)

    class Shuffled:
        def __init__(self, path: Path) -> None:
            with scandir(path) as entries:
                self.entries = list(entries)
            shuffler.shuffle(self.entries)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *unused: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert [list_images(root, entry(root)) for _ in range(5)] == [expected] * 5


def test_hidden_and_other_files_do_not_count_and_folders_may_nest(root: Path) -> None:
    expected = list_images(root, entry(root)).files
    (root / "train" / ".cache").mkdir()
    (root / "train" / "n01" / "._0.png").write_bytes(b"a resource fork")
    (root / "train" / "n01" / "boxes.txt").write_text("0 0 1 1")
    assert list_images(root, entry(root)).files == expected
    write_image(root / "train" / "n01" / "images" / "deep.webp", 5)
    assert "train/n01/images/deep.webp" in list_images(root, entry(root)).files


def test_layouts_that_are_refused(root: Path) -> None:
    def refused(match: str, **options: object) -> None:
        with pytest.raises(DataError, match=match):
            list_images(root, entry(root, **options))

    refused("`num_classes: 1000`, and there are 3 class folders .n01, n02, n03.", num_classes=1000)
    (root / "val" / "n04").mkdir()
    refused("val: no images in the class folders n04")
    write_image(root / "val" / "n04" / "x.png", 0)
    refused("classes of train/ and val/ differ: only val/ has n04")
    (root / "train" / "n02").rename(root / "train" / "n00")
    refused("only train/ has n00; only val/ has n02, n04")
    shutil.rmtree(root / "val")
    write_image(root / "val" / "x.png", 0)
    refused("sort its images into class folders")
    write_image(root / "train" / "stray.png", 0)
    refused("train: holds images .train/stray.png. and folders .n00, n01, n03.")
    shutil.rmtree(root / "train")
    refused("holds val/ but no train/")
    shutil.rmtree(root / "val")
    refused("holds no images")


@pytest.mark.parametrize("name", ["validation", "valid"])
def test_a_validation_folder_of_another_name_is_refused(root: Path, name: str) -> None:
    (root / "val").rename(root / name)
    with pytest.raises(DataError, match=f"holds train/ and {name}/, whose images would not be"):
        list_images(root, entry(root))
    write_images(root)  # val/ is there: the other folder is nobody's business
    list_images(root, entry(root))


def test_a_class_called_train_does_not_hide_the_others(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        write_image(tmp_path / name / "a.png", 1)
    with pytest.raises(DataError, match="the images of bus would not be used"):
        list_images(tmp_path, entry(tmp_path, num_classes=1))


def test_beside_train_there_may_be_test_masks_and_notes(root: Path) -> None:
    before = list_images(root, entry(root))
    write_image(root / "test" / "a.png", 1)
    write_image(root / "masks" / "a.png", 1)
    (root / "notes").mkdir()
    assert list_images(root, entry(root, masks=str(root / "masks"))) == before


def test_images_of_other_formats_are_refused_or_named_and_counted(root: Path) -> None:
    for k, suffix in enumerate((".bmp", ".tiff", ".GIF")):
        write_image(root / "train" / "n01" / f"other{k}{suffix}", k)
    (root / "train" / "n01" / "notes.txt").write_text("no image")
    (root / "train" / "n02" / ".hidden.bmp").write_text("")
    with pytest.raises(DataError, match=r"3 damaged files among 24.*\.GIF \(\.gif files are"):
        build_index(entry(root), 1)
    indexed = build_index(entry(root, damaged="skip"), 1)
    assert len(indexed.index.files) == 24
    names = ["train/n01/other0.bmp", "train/n01/other1.tiff", "train/n01/other2.GIF"]
    assert list(indexed.damaged) == names
    assert unread_images(root, root / "train" / "n01") == {}  # not those of the masks
    (root / "train" / "n02" / "up").symlink_to(root / "train")
    assert list(unread_images(root, None)) == names  # a link that leads back ends


@pytest.mark.parametrize("target", ["..", "../..", "."])
def test_a_link_that_leads_in_a_circle_is_refused(root: Path, target: str) -> None:
    folder = min(file.parent for file in root.rglob("*.*"))
    (folder / "up").symlink_to(target)
    with pytest.raises(DataError, match="up: links to a folder that holds it"):
        list_images(root, entry(root))


def test_a_link_to_a_folder_elsewhere_is_followed(root: Path, tmp_path: Path) -> None:
    before = list_images(root, entry(root)).files
    folder = min(file.parent for file in root.rglob("*.*"))
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    folder.symlink_to(moved)
    assert list_images(root, entry(root)).files == before
