"""What stages add to the pure functions under them: balanced shards, declared empty cells."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from diffusability.diffusion.sampler import balanced_labels
from diffusability.metrics.measurement import Measurement
from diffusability.stages.features import Extractor
from diffusability.stages.measurements import write_measurements
from tests.unit.study_run import measurements, plan_of, run_plan

TOKENIZERS = ("conv-base", "conv-vf-glyph")


def test_shards_of_cyclic_labels_hold_every_class() -> None:
    # every 20th sample of a cycle of 10 classes would be of one class
    labels = balanced_labels(range(1437), 10)
    extractor = SimpleNamespace(moments=lambda part, _name: part[:, 0])
    shards = Extractor.shard_moments(extractor, labels[:, None])  # type: ignore[arg-type]
    assert len(shards) == 20
    assert torch.equal(torch.cat(shards), labels)
    counts = torch.stack([shard.bincount(minlength=10) for shard in shards])
    assert (counts.max(1).values - counts.min(1).values).max() <= 1


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
