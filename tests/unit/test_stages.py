"""What stages add to the pure functions under them: balanced shards, declared empty cells."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusability.data.images import ImageSet
from diffusability.diffusion.sampler import balanced_labels
from diffusability.metrics.feature_moments import FeatureMoments
from diffusability.metrics.measurement import Measurement
from diffusability.stages.controls import posterior_images
from diffusability.stages.features import Extractor, Features
from diffusability.stages.measurements import write_measurements
from diffusability.stages.references import Reference
from diffusability.stages.sample_shards import deal_samples
from diffusability.study.metrics.generation import GenerationMetric
from tests.unit.study_run import measurements, plan_of, run_plan

TOKENIZERS = ("conv-base", "conv-vf-glyph")


def test_shards_of_cyclic_labels_hold_every_class() -> None:
    # every 20th sample of a cycle of 10 classes would be of one class
    labels = balanced_labels(range(1437), 10)
    dealt = deal_samples({"count": 1437}, images_of(10), torch.Generator())
    assert dealt.originals is None
    assert len(dealt.rows) == 20
    assert torch.equal(torch.cat(dealt.rows), torch.arange(1437))
    counts = torch.stack([labels[rows].bincount(minlength=10) for rows in dealt.rows])
    assert (counts.max(1).values - counts.min(1).values).max() <= 1


def test_shards_shorter_than_a_cycle_are_dealt_at_random() -> None:
    rows = deal_samples({"count": 400}, images_of(100), torch.Generator()).rows
    assert torch.equal(torch.cat(rows).sort().values, torch.arange(400))
    labels = balanced_labels(range(400), 100)
    # consecutive ones would have 20 neighbouring classes each
    assert all(labels[one].max() - labels[one].min() > 50 for one in rows)


def images_of(classes: int, held_out: int = 30) -> ImageSet:
    """Images without pixels; every second one is held out."""
    nothing, every = torch.zeros(2 * held_out, 0), torch.arange(2 * held_out)
    return ImageSet(nothing, every % classes, nothing, every % 2 == 1, classes)


@pytest.mark.parametrize("count", [25, 30, 70])  # a part of the held-out images, all, repeats
def test_images_of_the_posterior_control_are_dealt_with_all_their_samples(count: int) -> None:
    data = images_of(10)
    made = {"control": "posterior", "count": count}
    dealt = deal_samples(made, data, torch.Generator().manual_seed(0))
    images = posterior_images(data, count)
    assert torch.equal(torch.cat(dealt.rows).sort().values, torch.arange(count))
    assert dealt.originals is not None
    assert len(torch.cat(dealt.originals)) == min(count, 30)
    for rows, originals in zip(dealt.rows, dealt.originals, strict=True):
        assert set(images[rows].tolist()) == set(originals.tolist())
    assert torch.cat(dealt.originals).diff().lt(0).any()  # not in the order of the dataset


@pytest.mark.parametrize("reference", ["val", "all", "train"])
def test_posterior_samples_are_paired_with_images_that_the_reference_holds(reference: str) -> None:
    from diffusability.stages.generation import _distances, _originals

    data, generator = images_of(10, 60), torch.Generator().manual_seed(0)
    features = torch.randn(120, 3, generator=generator)  # (N, D) of all images
    held_out = posterior_images(data, 100)
    samples = Features(features[held_out], features[:, :0], features[:, :0])  # exact copies
    extractor = FakeExtractor(features)
    dealt = deal_samples({"control": "posterior", "count": 100}, data, generator)
    spec = GenerationMetric(extractor="probe", reference=reference)
    originals = _originals(extractor, spec, data, dealt)  # type: ignore[arg-type]
    real = Reference(features, {"probe": extractor.moments(features[data.split(reference)])})
    (found,) = _distances(extractor, real, samples, dealt, originals)  # type: ignore[arg-type]
    (unpaired,) = _distances(extractor, real, samples, dealt)  # type: ignore[arg-type]
    assert found.value == unpaired.value
    assert (originals is None) == (reference == "train")
    if originals is not None:
        assert found.stderr < 0.7 * unpaired.stderr


def test_where_measured_images_are_in_the_pool() -> None:
    from diffusability.stages.image_metrics import _positions

    data = images_of(10, 3)
    train, val, every = (data.split(name) for name in ("train", "val", "all"))
    assert _positions(val, every, 6).tolist() == [1, 3, 5]
    assert _positions(every, val, 6).tolist() == [-1, 0, -1, 1, -1, 2]
    assert _positions(val, val, 6).tolist() == [0, 1, 2]
    assert _positions(val, train, 6).tolist() == [-1, -1, -1]


class FakeExtractor:
    """Known (N, D) features of the images of a dataset."""

    name = "probe"
    shard_moments = Extractor.shard_moments

    def __init__(self, features: torch.Tensor) -> None:
        self.features = features

    def moments(self, vectors: torch.Tensor, _part: str = "") -> FeatureMoments:
        return FeatureMoments.from_features(vectors, extractor="probe")

    def moments_of_parts(self, _data: ImageSet, chosen: torch.Tensor) -> dict[str, FeatureMoments]:
        return {"": self.moments(self.features[chosen])}


def test_impossible_cells_are_declared(tmp_path: Path) -> None:
    good = Measurement("a.b", 1.0, 0.1, 3, flags=("noted",))
    write_measurements(tmp_path, [good], [("a.c", "the grid is not whole")])
    first, second = json.loads((tmp_path / "measurements.json").read_text())
    assert first["value"] == 1.0
    assert first["flags"] == ["noted"]
    assert second["value"] is None
    assert second["flags"] == ["not applicable: the grid is not whole"]
    assert first.keys() == second.keys()


@pytest.mark.parametrize(
    ("value", "stderr"), [(float("nan"), 0.1), (1.0, float("inf")), (1.0, -1.0)]
)
def test_no_number_that_spoils_a_table(value: float, stderr: float) -> None:
    from diffusability.errors import MeasurementError

    with pytest.raises(MeasurementError):
        Measurement("a.b", value, stderr, 3)


def test_reconstruction_measures_all_that_a_tokenizer_has(workplace: Path) -> None:
    plan = plan_of({"metrics": {"reconstruction": {"split": "val"}}})
    made = run_plan(plan, "reconstruction")
    cells = {name: measurements(made[f"reconstruction/{name}/s0"]) for name in TOKENIZERS}
    always = {"psnr", "ssim", "mse", "kl", "posterior_variance_share", "fd_judge"}
    aligned = always | {"alignment_cosine"}
    assert set(cells["conv-base"]) == {f"reconstruction.{name}" for name in always}
    assert set(cells["conv-vf-glyph"]) == {f"reconstruction.{name}" for name in aligned}
    cosine = cells["conv-vf-glyph"]["reconstruction.alignment_cosine"]
    # a map fitted with the latent beats the best guess without it, on images not fitted on
    assert cosine["options"]["constant_cosine"] + 3 * cosine["stderr"] < cosine["value"] <= 1
    assert cosine["flags"] == []
    # 359 validation images of 16 features; all sets are large enough
    assert all(cell["flags"] == [] for cell in cells["conv-base"].values())


def test_too_few_samples_for_the_covariance_are_flagged(workplace: Path) -> None:
    wide = {"encoders": {"judge": {"features": 64}}, "select": {"tokenizers": ["conv-base"]}}
    plan = plan_of(wide)
    with pytest.warns(UserWarning, match="40 generated images; at or below 64"):
        made = run_plan(plan, "generation")
    cell = measurements(made["generation/conv-base/s0/sit-a/s0/guidance1"])["generation.fd_judge"]
    assert cell["flags"] == ["rank-deficient"]


@pytest.mark.parametrize("arch", ["conv", "vit"])
def test_colour_images_are_generated_whatever_a_decoder_does_with_memory(
    workplace: Path, arch: str
) -> None:
    # a vit decoder leaves colours innermost; one channel hid it
    networks = {
        "conv": {"width": 8, "multipliers": [1, 2], "encoder_blocks": 1, "attention": False},
        "vit": {"width": 16, "depth": 1, "heads": 2},
    }
    network = {"arch": arch, "factor": 2, "channels": 4, **networks[arch]}
    over = {
        "datasets": {"shapes": {"kind": "shapes", "size": 16, "train": 240, "val": 48}},
        "tokenizers": {
            "colour": {
                "network": network,
                "method": "baseline",
                "train": {"steps": 2, "batch": 16},
            }
        },
        "select": {"dataset": "shapes", "tokenizers": ["colour"]},
    }
    made = run_plan(plan_of(over), "generation")
    (samples,) = (folder for name, folder in made.items() if name.startswith("samples/"))
    images = load_file(samples / "shard-00000.safetensors")["images"]
    assert images.shape == (40, 3, 16, 16)
