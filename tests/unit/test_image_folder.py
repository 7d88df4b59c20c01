"""Image folders: the index, lazily decoded images and masks, damaged and changed files."""

import hashlib
import io
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusability.data.crops import centre_crop, random_crop
from diffusability.data.folder import FolderImages, IndexedFile, open_folder
from diffusability.data.folder_index import FolderIndex, build_index, inspect_file
from diffusability.data.image_file import DamagedImage
from diffusability.data.images import ImageSet, in_batches
from diffusability.encoders.pretext import ClassificationLoss
from diffusability.errors import DataError
from diffusability.study.core.fingerprint import derive_seed
from diffusability.study.core.spec import TrainSpec
from diffusability.study.entries.dataset import FolderDataset
from diffusability.study.sources.folder_content import entries
from diffusability.training.batches import step_generator
from diffusability.training.images import TrainingImages
from diffusability.training.loop import Training
from diffusability.training.run import Batch, Phase, Run
from tests.unit import networks
from tests.unit.image_files import (
    SIZE,
    entry,
    other_pixels,
    write_image,
    write_images,
    write_mask,
)

ARTIFACT = Path("results/dataset/toy/abc")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with train/ and val/, three classes of four images each."""
    write_images(tmp_path / "toy")
    return tmp_path / "toy"


def opened(spec: FolderDataset, threads: int = 1) -> ImageSet:
    """Return the images of a folder that is indexed now."""
    return open_folder(ARTIFACT, build_index(spec, threads).index, spec, threads)


def cropped(path: Path) -> np.ndarray:
    """Return the (S, S, 3) centre crop of a file, by Pillow alone."""
    image = Image.open(path).convert("RGB")
    return np.asarray(centre_crop(*image.size, SIZE).of_image(image))


# --- the index ------------------------------------------------------------------------------------


def test_index_says_what_is_there_and_survives_the_disk(root: Path) -> None:
    (root / "train" / "n03" / "ü \udcff.png").write_bytes(
        (root / "train" / "n03" / "train_n03_0.png").read_bytes()
    )  # no UTF-8
    indexed = build_index(entry(root), threads=2)
    index = indexed.index
    assert [index.sizes[k] for k in range(25)] == [
        (root / name).stat().st_size for name in index.files
    ]
    assert (indexed.damaged, index.masks) == ({}, {})
    again = FolderIndex.from_json(index.to_json())
    assert again == index
    assert again.digest() == index.digest() == build_index(entry(root), threads=1).index.digest()


def test_digest_sees_names_contents_and_split(root: Path, tmp_path: Path) -> None:
    before = build_index(entry(root), 1).index.digest()
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert build_index(entry(moved), 1).index.digest() == before
    one = root / "train" / "n01" / "train_n01_0.png"
    one.write_bytes(other_pixels(one.read_bytes()))
    changed = build_index(entry(root), 1).index.digest()
    (root / "train" / "n01" / "train_n01_0.png").rename(root / "train" / "n01" / "new.png")
    assert len({before, changed, build_index(entry(root), 1).index.digest()}) == 3


def damage(root: Path) -> list[str]:
    """Damage three training files: empty, cut short, and no image; return their names."""
    names = [f"train/n01/train_n01_{k}.png" for k in range(3)]
    content = (root / names[1]).read_bytes()
    (root / names[0]).write_bytes(b"")
    (root / names[1]).write_bytes(content[: len(content) // 2])
    (root / names[2]).write_text("<html>")
    return names


def test_images_that_are_enlarged_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = len(build_index(entry(root), 1).index.files)
    assert build_index(entry(root), 1).enlarged == 0
    write_image(root / "train" / "n01" / "small.png", 1, (4 * SIZE, SIZE - 1))
    assert build_index(entry(root), 1).enlarged == 1
    assert f"1 of {count + 1} images are enlarged to {SIZE} pixels" in caplog.text


def test_damaged_files_are_refused_by_name(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = damage(root)
    with pytest.raises(DataError) as caught:
        build_index(entry(root), 1)
    message = str(caught.value)
    assert "3 damaged files among 24 images" in message
    assert all(name in message for name in names)
    assert "(empty)" in message
    assert "damaged: skip" in message
    assert [record.args[0] for record in caplog.records if record.levelname == "WARNING"] == names


def test_damaged_files_are_skipped_by_choice(root: Path) -> None:
    whole = build_index(entry(root), 1).index
    names = damage(root)
    indexed = build_index(entry(root, damaged="skip"), 1)
    assert list(indexed.damaged) == names
    assert indexed.damaged[names[0]] == "empty"
    assert list(indexed.index.files) == [name for name in whole.files if name not in names]
    assert list(indexed.index.labels).count(0) == 5
    for name in (root / "train" / "n02").iterdir():
        name.write_bytes(b"")
    for name in (root / "val" / "n02").iterdir():
        name.write_bytes(b"")
    with pytest.raises(DataError, match="every file is damaged in n02"):
        build_index(entry(root, damaged="skip"), 1)


def test_a_damaged_file_does_not_reshuffle_the_split(tmp_path: Path) -> None:
    write_images(tmp_path, per_class=8, splits=("train",))
    before = build_index(entry(tmp_path, val_fraction=0.25), 1).index
    held = dict(zip(before.files, before.validation, strict=True))
    damaged = damage(tmp_path)
    after = build_index(entry(tmp_path, val_fraction=0.25, damaged="skip"), 1).index
    assert len(after.files) == len(before.files) - len(damaged)
    assert all(held[n] == v for n, v in zip(after.files, after.validation, strict=True))


def test_unreadable_is_not_damaged(root: Path) -> None:
    target = root / "train" / "n01" / "train_n01_0.png"
    target.unlink()
    target.symlink_to(root / "nowhere.png")
    with pytest.raises(DataError, match="train_n01_0.png: cannot be read .No such file"):
        build_index(entry(root, damaged="skip"), 1)


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "is no regular file"),
        (lambda path: path.symlink_to(path.name), "cannot be read"),
        (lambda path: path.symlink_to("nowhere.png"), "cannot be read"),
    ],
)
def test_what_is_no_file_is_named_and_nothing_waits(root: Path, make, said: str) -> None:
    path = root / "train" / "n01" / "odd.png"
    make(path)
    with pytest.raises(DataError, match=f"odd.png: {said}"):
        build_index(entry(root, damaged="skip"), 2)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_is_too_large_is_not_decoded(root: Path) -> None:
    name = "train/n01/large.png"
    Image.new("1", (12_000, 12_000)).save(root / name)
    with pytest.raises(DataError, match="12000 x 12000 pixels; at most 89,478,485 are read"):
        build_index(entry(root), 2)
    assert set(build_index(entry(root, damaged="skip"), 2).damaged) == {name}


def test_an_image_that_is_too_thin_to_be_resized_is_damaged(root: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (1, 20_000)).save(content, "PNG")
    found = inspect_file(content.getvalue(), "thin.png", None, 256)
    assert "1 x 20000 pixels are too thin to be resized to 256" in found.damaged["thin.png"]
    assert not found.whole
    assert inspect_file(content.getvalue(), "thin.png", None, SIZE).whole


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: cannot be read \(Not a directory\)"):
        entries(tmp_path / "file")


@pytest.mark.parametrize("threads", [1, 3])
def test_images_are_the_centre_crops(root: Path, threads: int) -> None:
    data = opened(entry(root), threads)
    assert data.images.shape == (24, 3, SIZE, SIZE)
    assert len(data.images) == 24
    assert data.labels.bincount().tolist() == [8, 8, 8]
    assert data.split("val").tolist() == list(range(12, 24))
    files = build_index(entry(root), 1).index.files
    crops = np.stack([cropped(root / name) for name in files])  # (24, S, S, 3)
    expected = torch.from_numpy(crops).permute(0, 3, 1, 2)
    assert torch.equal(data.images[slice(None)], expected)
    picked = torch.tensor([23, 0, 7, 7])
    assert torch.equal(data.images[picked], expected[picked])
    assert torch.equal(data.images[5:9], expected[5:9])
    assert data.images[torch.tensor([], dtype=torch.int64)].shape == (0, 3, SIZE, SIZE)
    parts = list(in_batches(data.images, torch.arange(24), 10))
    assert [len(part) for part in parts] == [10, 10, 4]
    assert torch.equal(torch.cat(parts), expected)
    assert list(in_batches(data.images, torch.arange(0), 10)) == []


def test_random_crops_are_seeded(root: Path) -> None:
    images = opened(entry(root, train_crop="random")).images
    assert isinstance(images, FolderImages)
    rows, seeds = torch.tensor([3, 3, 20]), [5, 6, 5]
    seen = images.random_crops(rows, seeds)
    assert torch.equal(seen, images.random_crops(rows, seeds))
    assert not torch.equal(seen[0], seen[1])
    file = Image.open(root / "train" / "n01" / "train_n01_3.png").convert("RGB")
    expected = random_crop(24, 20, SIZE, 0.8, random.Random(6)).of_image(file)
    assert np.array_equal(seen[1].permute(1, 2, 0).numpy(), np.asarray(expected))
    # what is cached and measured is the centre crop all the same
    assert torch.equal(images[rows], opened(entry(root)).images[rows])


def test_files_that_change_after_indexing_are_named(root: Path) -> None:
    data = opened(entry(root))
    name = root / "train" / "n02" / "train_n02_1.png"  # image 5
    whole = name.read_bytes()
    five = torch.tensor([5])

    def refused(match: str) -> None:
        with pytest.raises(DataError, match=match) as caught:
            data.images[five]
        assert str(name) in str(caught.value)
        assert (
            "results/dataset/toy/abc. Put it back, or start the workflow again (snakemake -c1"
            in (str(caught.value))
        )

    name.write_bytes(whole + b" ")
    refused(f"has {len(whole) + 1} bytes, had {len(whole)} when it was indexed")
    name.write_bytes(b"x" * len(whole))
    refused("has other content than when it was indexed")
    name.write_bytes(other_pixels(whole))
    refused("has other content than when it was indexed")
    name.unlink()
    refused("cannot be read .No such file or directory., but is in the index")
    name.write_bytes(whole)
    assert data.images[five].shape == (1, 3, SIZE, SIZE)

    def no_decoder(content: bytes) -> Image.Image:
        raise DamagedImage("of another Pillow")

    files = IndexedFile(root, ARTIFACT)
    with pytest.raises(DataError, match="intact when it was indexed .* does not decode now"):
        files.decode(
            "train/n02/train_n02_1.png", len(whole), hashlib.sha256(whole).hexdigest(), no_decoder
        )


def test_no_regular_file_and_no_loop_is_waited_for(root: Path) -> None:
    os.mkfifo(root / "train" / "n01" / "zz.png")
    with pytest.raises(DataError, match="zz.png: is no regular file"):
        build_index(entry(root), 1)
    assert entry(root).identity  # planning waits for nothing either
    (root / "train" / "n01" / "zz.png").unlink()
    (root / "train" / "n01" / "up").symlink_to("..")
    with pytest.raises(DataError, match="n01/up: links to a folder that holds it; remove the link"):
        build_index(entry(root), 1)
    (root / "train" / "n01" / "up").unlink()
    (root / "train" / "n01" / "self").symlink_to("self")
    assert len(build_index(entry(root), 1).index.files) == 24


# --- masks ----------------------------------------------------------------------------------------


def test_masks_are_cropped_as_the_images(root: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    ids = np.zeros((20, 24), dtype=np.int64)
    ids[:, 12:], ids[:, 20:] = 300, 1000  # right of the middle; then ignored
    write_mask(masks / "n02" / "val_n02_1.png", ids)  # image 17
    write_mask(masks / "val_n03_0.PNG", np.full((20, 24), 256))  # image 20, not in a class folder
    write_mask(masks / "n01" / "of_no_image.png", ids)
    spec = entry(root, masks=str(masks))
    assert spec.masked
    indexed = build_index(spec, 1)
    assert sorted(indexed.index.masks) == [17, 20]
    data = open_folder(ARTIFACT, indexed.index, spec, 2)
    assert data.masks.shape == (24, SIZE, SIZE)
    seen = data.masks[torch.tensor([0, 17, 20])]
    assert not seen[0].any()  # no mask: no foreground at all
    assert seen[2].all()
    # 24 x 20 becomes 19 x 16, cut from column 1; a column x shows column (x + 1.5) 24/19 - 0.5
    columns = [12 <= int((x + 1.5) * 24 / 19) < 20 for x in range(SIZE)]
    assert seen[1].tolist() == [columns] * SIZE
    assert data.undecided is not None
    undecided = data.undecided[torch.tensor([0, 17, 20])]
    ignored = [int((x + 1.5) * 24 / 19) >= 20 for x in range(SIZE)]
    assert any(ignored)
    assert undecided[1].tolist() == [ignored] * SIZE
    assert not undecided[[0, 2]].any()
    assert indexed.foreground_share == pytest.approx((np.mean(columns) + 1) / 2)
    assert torch.equal(data.masks[16:18][1], seen[1])


def test_masks_of_rotated_images(root: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    wide = np.zeros((20, 24, 3), dtype=np.uint8)
    wide[:, :12] = 255  # stored: left half bright; seen: upper half
    for k in range(2):
        Image.fromarray(wide).save(root / "val" / "n01" / f"turned_{k}.png", exif=exif)
    stored, seen = wide[..., 0] // 255, np.rot90(wide[..., 0] // 255, -1)
    write_mask(tmp_path / "masks" / "n01" / "turned_0.png", stored.astype(int))
    write_mask(tmp_path / "masks" / "n01" / "turned_1.png", seen.astype(int))
    spec = entry(root, masks=str(tmp_path / "masks"))
    data = opened(spec)
    files = build_index(spec, 1).index.files
    numbers = torch.tensor([k for k, name in enumerate(files) if "turned" in name])
    bright = data.images[numbers][:, 0] > 127
    assert torch.equal(bright[0], bright[1])
    assert bright[0, 0].all()
    assert not bright[0, -1].any()
    masks = data.masks[numbers]
    assert torch.equal(masks[0], masks[1])
    assert (masks[0] != bright[0]).sum() <= SIZE  # the row on the edge


def test_masks_that_are_refused(root: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"

    def refused(match: str, **options: object) -> None:
        with pytest.raises(DataError, match=match):
            build_index(entry(root, masks=str(masks), **options), 1)

    refused("no such folder; set the dataset's `masks`")
    with pytest.raises(DataError, match="declares masks; name their folder"):
        build_index(entry(root, masked=True), 1)
    write_mask(masks / "other.png", np.ones((20, 24), dtype=int))
    refused("none of its 1 masks has the name of an image")
    write_mask(masks / "n01" / "val_n01_0.png", np.full((20, 24), 1000))
    refused("no mask has any foreground")
    write_mask(masks / "n01" / "val_n01_0.png", np.ones((24, 20), dtype=int))
    refused("val_n01_0.png: 20 x 24 pixels, its image val/n01/val_n01_0.png has 24 x 20")
    (masks / "n01" / "val_n01_0.png").write_bytes(b"")
    refused("1 damaged files .* n01/val_n01_0.png .empty.")
    write_mask(masks / "n01" / "val_n01_1.png", np.ones((20, 24), dtype=int))
    indexed = build_index(entry(root, masks=str(masks), damaged="skip"), 1)
    assert dict(indexed.damaged) == {"n01/val_n01_0.png": "empty"}
    assert (len(indexed.index.files), sorted(indexed.index.masks)) == (24, [13])
    write_image(root / "val" / "n02" / "val_n01_1.png", 1)
    (masks / "n01" / "val_n01_1.png").rename(masks / "val_n01_1.png")
    refused("a mask of both val/n01/val_n01_1.png and val/n02/val_n01_1.png", damaged="skip")


# --- training -------------------------------------------------------------------------------------


def batch(step: int, picked: list[int], following: list[int] | None) -> Batch:
    """Return a step of a run."""
    upcoming = None if following is None else torch.tensor(following)
    generator = step_generator(0, step, torch.device("cpu"))
    return Batch(step, torch.tensor(picked), generator, upcoming=upcoming)


def test_training_sees_fresh_crops_and_a_resumed_one_the_same(root: Path) -> None:
    data = opened(entry(root, train_crop="random"), threads=2)
    chosen = data.split("train").flip(0)
    steps = [batch(0, [0, 5], [0, 7]), batch(1, [0, 7], [0, 5]), batch(2, [0, 5], None)]
    images = TrainingImages(data, chosen, "cpu", seed=3)
    assert images.held is None
    assert len(images) == 12
    seen = [images(step) for step in steps]
    assert seen[0].dtype == torch.float32
    assert not torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(seen[0], seen[2])
    number = int(chosen[5])
    alone = data.images.random_crops(torch.tensor([number]), [derive_seed("crop", 3, 2, number)])
    assert torch.equal(seen[2][1], alone[0] / 127.5 - 1)
    resumed = TrainingImages(data, chosen, "cpu", seed=3)
    assert [torch.equal(resumed(step), old) for step, old in zip(steps[1:], seen[1:], strict=True)]
    other = TrainingImages(data, chosen, "cpu", seed=4)
    assert not torch.equal(other(steps[0]), seen[0])


def test_training_that_is_stopped_and_resumed_ends_in_the_same_bits(
    root: Path, tmp_path: Path
) -> None:
    def training(state: str) -> Training:
        data = opened(entry(root, train_crop="random"))
        model = networks.encoder(image_channels=3, width=4, features=4, factor=4, num_classes=3)
        model.initialise(torch.Generator().manual_seed(0))
        chosen = data.split("train")
        images = TrainingImages(data, chosen, "cpu", seed=1)
        phase = Phase(
            "loss", list(model.parameters()), ClassificationLoss(model, images, data.labels[chosen])
        )
        spec = TrainSpec(steps=5, batch=4)
        return Training(
            Run("toy", spec, {"encoder": model}, [phase], len(chosen), 0, tmp_path / state)
        )

    straight = training("straight")
    straight.go()
    stopped = training("stopped")
    for _ in range(2):
        stopped._take_step()
    stopped.save()
    resumed = training("stopped")
    resumed.resume()
    assert resumed.step == 2
    resumed.go()
    first, second = (t.averaged.state_dict() for t in (straight, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = training("fresh").averaged.state_dict()
    assert not all(torch.equal(first[name], fresh[name]) for name in first)


def test_what_was_not_announced_is_decoded_all_the_same(root: Path) -> None:
    data = opened(entry(root))
    images = TrainingImages(data, data.split("train"), "cpu", 0)
    images(batch(0, [1, 2], [3, 4]))
    picked = torch.tensor([8, 9])
    assert torch.equal(images(batch(1, [8, 9], [3, 4])), data.images[picked] / 127.5 - 1)
    (root / "train" / "n01" / "train_n01_3.png").unlink()
    images(batch(2, [1, 2], [3, 4]))
    with pytest.raises(DataError, match="train_n01_3"):  # of the thread that read ahead
        images(batch(3, [3, 4], None))


@pytest.mark.parametrize("name", ["validation", "valid"])
def test_a_validation_split_of_another_name_is_not_left_out(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / "toy", splits=("train", name))
    with pytest.raises(DataError, match=f"holds train/ and {name}/.*call that folder val/"):
        build_index(entry(tmp_path / "toy"), 1)
