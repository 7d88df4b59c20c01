"""Latents on disk: read where they are indexed, ahead of use, and in both orientations."""

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusability.artifacts.bulk import check_bulk, damaged_bulk
from diffusability.artifacts.hashed_tensors import read_header
from diffusability.artifacts.tensors import mapped_hash
from diffusability.data.images import ImageSet, to_float
from diffusability.errors import ArtifactError
from diffusability.latents import channel_statistics as channel_statistics_module
from diffusability.latents import shards as shards_module
from diffusability.latents.channel_statistics import channel_statistics
from diffusability.latents.mapped import MappedLatents, MappedTensor
from diffusability.latents.posteriors import Posteriors
from diffusability.latents.shards import LatentShards
from diffusability.stages import latents as stage
from diffusability.training.batches import BatchOrder
from tests.unit.small_diffusion import CPU, IMAGES, small_latents


def encode(images: Tensor) -> tuple[Tensor, Tensor]:
    """A tokenizer by hand: the mean is a quarter of the image, the log-variance its square."""
    return images[:, :, ::2, ::2], images[:, :, ::2, ::2].square()


@pytest.fixture
def images() -> ImageSet:
    """Thirty random images, twenty of them for training."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (30, 1, 8, 8), generator=generator, dtype=torch.uint8)
    masks = torch.rand(30, 8, 8, generator=generator) > 0.5
    return ImageSet(pixels, torch.arange(30) % 3, masks, torch.arange(30) >= 20, 3)


def cached(images: ImageSet, flip: bool, dtype: torch.dtype = torch.float32) -> MappedLatents:
    """Encode the images into shards of seven below the working directory and open them."""
    shards = shards_of("0" * 12, len(images.labels), flip)
    shards.ensure(images, lambda: encode, 4, dtype)
    return shards.read()


def shards_of(fingerprint: str, images: int = 30, flip: bool = False) -> LatentShards:
    """Return the shards of seven images of one artifact."""
    return LatentShards(Path("results/latents/conv/s0", fingerprint), images, 7, flip)


def test_rows_are_those_of_the_joined_shards() -> None:
    rows = torch.randn(23, 2, 3)
    mapped = MappedTensor(rows.bfloat16().split(5), torch.float32)
    assert mapped.shape == rows.shape
    assert len(mapped) == 23
    for picked in ([22, 0, 7, 7, 4], [3], [], list(range(23))):
        found = mapped[torch.tensor(picked, dtype=torch.int64)]
        assert found.dtype == torch.float32
        assert torch.equal(found, rows.bfloat16().float()[picked])


def test_means_that_metrics_read_are_not_rounded(workplace: Path, images: ImageSet) -> None:
    shards = shards_of("2" * 12)  # images 0 to 6, ..., 28 to 29; validation from 20 on
    shards.ensure(images, lambda: encode, 4, torch.bfloat16, torch.float32)
    latents = shards.read()
    everything = torch.arange(30)
    mean, logvar = encode(to_float(images.images))
    train, val = everything[:14], everything[20:]
    assert torch.equal(latents.mean[val], mean[val])
    assert torch.equal(latents.mean[train], mean[train].bfloat16().float())
    assert not torch.equal(latents.mean[train], mean[train])
    assert torch.equal(latents.logvar[val], logvar[val].bfloat16().float())
    assert latents.mean.rounded_to(val) is None
    assert latents.mean.rounded_to(everything) is torch.bfloat16
    assert latents.logvar.rounded_to(val) is torch.bfloat16


def test_shards_are_read_as_they_were_encoded(workplace: Path, images: ImageSet) -> None:
    latents = cached(images, flip=True)
    picked = torch.tensor([29, 3, 14])
    chosen = latents[picked]
    mean, logvar = encode(to_float(images.images[picked]))
    assert torch.equal(chosen.mean, mean)
    assert torch.equal(chosen.logvar, logvar)
    assert torch.equal(chosen.labels, images.labels[picked])
    cells = images.masks[picked].float().unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4))
    torch.testing.assert_close(chosen.foreground, cells)
    # the mirrored image was encoded, which is not the mirrored latent
    assert latents.mirrored is not None
    mean, logvar = encode(to_float(images.images[picked].flip(3)))
    assert torch.equal(latents.mirrored[0][picked], mean)
    assert torch.equal(latents.mirrored[1][picked], logvar)
    assert not torch.equal(mean, chosen.mean.flip(3))


def test_moved_altered_and_duplicate_shards_are_encoded_again(
    workplace: Path, images: ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    expected = cached(images, flip=False).mean[torch.arange(30)].clone()
    folder = workplace / "results" / "cache" / "latents" / ("0" * 12)
    files = [folder / f"shard-{k:05d}.safetensors" for k in range(5)]
    held = [path.read_bytes() for path in files]

    for harm in (
        {0: held[1], 1: held[0]},  # unsorted
        {2: held[3]},  # duplicate
        {3: held[3][:-1] + b"\xff"},  # altered
        {4: held[4][:-1], 0: held[0][:5]},  # cut off
    ):
        for k, content in harm.items():
            replace(files[k], content)
        caplog.clear()
        found = cached(images, flip=False).mean[torch.arange(30)]
        assert torch.equal(found, expected)
        warned = {k for k in range(5) if f"shard-{k:05d}.safetensors: " in caplog.text}
        assert warned == set(harm)
    (folder / "shard-00005.safetensors").write_bytes(held[0])  # one too many is not read
    assert len(cached(images, flip=False)) == 30


def replace(path: Path, content: bytes) -> None:
    """Put another file in the place of an opened, mapped one."""
    path.unlink()
    path.write_bytes(content)


def test_exchanged_latents_are_not_opened(workplace: Path, images: ImageSet) -> None:
    """Two tokenizers whose latents have the same shape: each shard says whose it is."""
    for fingerprint in ("0" * 12, "1" * 12):
        shards_of(fingerprint).ensure(images, lambda: encode, 4, torch.float32)
    folders = [workplace / "results/cache/latents" / (digit * 12) for digit in "01"]
    assert shards_of("0" * 12).missing() == shards_of("1" * 12).missing() == []
    one, other = (folder / "shard-00002.safetensors" for folder in folders)
    content = one.read_bytes(), other.read_bytes()
    replace(one, content[1])
    replace(other, content[0])
    assert shards_of("0" * 12).missing() == shards_of("1" * 12).missing() == [2]
    folders[0].rename(workplace / "results/cache/latents/aside")
    folders[1].rename(folders[0])
    assert shards_of("0" * 12).missing() == [0, 1, 3, 4]
    with pytest.raises(ArtifactError, match=r"4 of its 5 .*/restored\.json"):
        check_bulk(Path("results/latents/conv/s0/0"), 4, 5)


def test_a_tensor_is_hashed_before_it_is_read_and_only_then(
    workplace: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(images, flip=False)
    path = workplace / "results/cache/latents" / ("0" * 12) / "shard-00003.safetensors"
    content, (start, _) = bytearray(path.read_bytes()), read_header(path).spans["mean"]
    content[start] ^= 1
    replace(path, bytes(content))
    hashed: list[tuple[int, ...]] = []

    def watched(described: str, tensor: Tensor) -> str:
        hashed.append(tuple(tensor.shape))
        return mapped_hash(described, tensor)

    monkeypatch.setattr(shards_module, "mapped_hash", watched)
    assert shards_of("0" * 12).missing() == []  # headers alone are read
    latents = shards_of("0" * 12).read()
    assert hashed == [(n,) for n in (7, 7, 7, 7, 2)]  # labels
    hashed.clear()
    for _ in range(2):
        latents.mean[torch.tensor([3, 16])]  # of shards 0 and 2
        latents.logvar[torch.tensor([22])]  # of shard 3, whose mean was altered
    assert hashed == [(7, 1, 4, 4)] * 3
    with pytest.raises(ArtifactError, match=r"00003.safetensors: was altered .`mean`.*-c1 -f"):
        latents.mean[torch.tensor([0, 22])]
    assert len(shards_of("0" * 12).read(hashed=False).mean[torch.tensor([22])]) == 1


def test_every_byte_of_a_shard_is_verified(workplace: Path, images: ImageSet) -> None:
    cached(images, flip=True)
    artifact = Path("results/latents/conv/s0", "0" * 12)
    artifact.mkdir(parents=True)
    (artifact / "latents.json").write_text('{"images": 30, "images_per_shard": 7}')
    card = {"stage": "latents", "fingerprint": "0" * 12, "outputs": {}}
    assert damaged_bulk(artifact, card) == []
    path = Path("results/cache/latents", "0" * 12, "shard-00001.safetensors")
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        content = bytearray(whole)
        content[place] ^= 1
        replace(path, bytes(content))
        (problem,) = damaged_bulk(artifact, card)
        assert str(path) in problem
        assert "snakemake -c1 -f results/latents/conv/s0/000000000000/restored.json" in problem
    path.unlink()
    assert damaged_bulk(artifact, card) == []  # evicted


def test_unmirrored_shards_hold_nothing_more(workplace: Path, images: ImageSet) -> None:
    assert cached(images, flip=False).mirrored is None
    sizes = [path.stat().st_size for path in workplace.rglob("*.safetensors")]
    shards_of("1" * 12, flip=True).ensure(images, lambda: encode, 4, torch.float32)
    both = [path.stat().st_size for path in workplace.rglob("1*/*.safetensors")]
    assert sum(both) > 1.5 * sum(sizes)


def mapped_file(tensor: Tensor) -> str:
    """Return the file that a tensor's memory maps; empty for memory of the process's own."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5) if line.count("/") else (*line.split()[:1], "")
        start, stop = (int(address, 16) for address in span.split("-"))
        if start <= tensor.data_ptr() < stop:
            return Path(name).name
    return ""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux states its mappings")
def test_opened_latents_are_files_and_not_memory(workplace: Path, images: ImageSet) -> None:
    latents = cached(images, flip=True)
    assert latents.mirrored is not None
    for tensor in (latents.mean, latents.logvar, latents.foreground, *latents.mirrored):
        files = [mapped_file(part) for part in tensor._parts]
        assert files == [f"shard-{k:05d}.safetensors" for k in range(5)]
    assert mapped_file(latents[torch.tensor([0])].mean) == ""  # a row of it is memory


@pytest.mark.parametrize("flip", [False, True])
def test_held_and_read_ahead_are_the_same(flip: bool) -> None:
    latents, chosen = small_latents(flip=flip), torch.arange(IMAGES - 1, 2, -1)
    held = Posteriors(latents, chosen, CPU)
    ahead = Posteriors(latents, chosen, CPU, held_bytes=0)
    assert held.versions == ahead.versions == 1 + flip
    order = BatchOrder(len(chosen), 8, seed=0, versions=held.versions)
    for step in range(6):
        indices, upcoming = order.indices(step), order.indices(step + 1)
        if step == 4:
            upcoming = None  # the next batch is then not the one that was announced
        mean, std = ahead.fetch(indices, upcoming)
        assert torch.equal(mean, held.fetch(indices)[0])
        assert torch.equal(std, held.fetch(indices)[1])
        assert torch.equal(held.labels_of(indices), ahead.labels_of(indices))
        for row, index in enumerate(indices.tolist()):
            image = chosen[index % len(chosen)][None]
            means, logvars = (
                (latents.mean, latents.logvar) if index < len(chosen) else latents.mirrored or ()
            )
            assert torch.equal(mean[row], means[image][0])
            assert torch.equal(std[row], (0.5 * logvars[image][0]).exp())
            assert held.labels_of(indices)[row] == latents.labels[image]


def test_the_next_batch_is_read_while_this_one_is_used() -> None:
    latents = small_latents(flip=False)
    readers: list[tuple[str, int]] = []
    read = MappedTensor.__getitem__

    class Watched(MappedTensor):
        def __getitem__(self, rows: Tensor) -> Tensor:
            readers.append((threading.current_thread().name, len(rows)))
            return read(self, rows)

    watched = MappedLatents(
        Watched(latents.mean._parts, torch.float32),
        latents.logvar,
        latents.labels,
        latents.foreground,
    )
    posteriors = Posteriors(watched, torch.arange(IMAGES), CPU, held_bytes=0)
    first, second = torch.arange(8), torch.arange(8, 20)
    posteriors.fetch(first, second)
    for future in posteriors._ahead[1]:
        future.result()
    assert sum(rows for _, rows in readers) == len(first) + len(second)
    posteriors.fetch(second)
    assert sum(rows for _, rows in readers) == len(first) + len(second)  # not read again
    assert threading.current_thread().name not in {name for name, _ in readers}


def test_each_version_is_drawn_as_often_and_every_image_once_an_epoch() -> None:
    size, batch = 50, 40
    order = BatchOrder(size, batch, seed=1, versions=2)
    drawn = torch.cat([order.indices(step) for step in range(250)])  # 200 epochs
    plain = torch.cat([BatchOrder(size, batch, seed=1).indices(step) for step in range(250)])
    assert torch.equal(drawn % size, plain)
    mirrored = drawn >= size
    expected, spread = 0.5, (0.25 / len(drawn)) ** 0.5
    assert abs(mirrored.double().mean().item() - expected) < 4 * spread
    shares = torch.zeros(size, dtype=torch.float64).index_add_(0, plain, mirrored.double()) / 200
    assert (shares - 0.5).abs().max() < 5 * (0.25 / 200) ** 0.5  # of every image, not only overall


def test_one_pass_describes_the_training_split(
    workplace: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, train = cached(images, flip=False), images.split("train")
    whole = stage.describe(latents, train)
    chosen = latents[train]
    expected = channel_statistics(chosen.mean)
    assert whole["channel_statistics"] == expected.to_json()
    variance = chosen.logvar.double().exp().mean().item()
    assert whole["posterior_variance"] == pytest.approx(variance, rel=1e-14)
    three_images = 3 * 4 * latents.mean.shape[1:].numel()
    monkeypatch.setattr(channel_statistics_module, "_READ_BYTES", three_images)
    blocks = stage.describe(latents, train)
    for name in ("mean", "squared_deviation"):
        parts, once = (d["channel_statistics"][name] for d in (blocks, whole))
        assert parts == pytest.approx(once, rel=1e-13)
    assert blocks["posterior_variance"] == pytest.approx(variance, rel=1e-13)
    assert blocks["constant_channels"] == whole["constant_channels"] == []
