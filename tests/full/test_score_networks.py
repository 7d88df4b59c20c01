"""Autoencoders and encoders that people have, scored on photographs, up to the page."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data

from diffusability.encoders.packages import ensure_torchvision
from tests.workflow.workspace import Workspace

SIDE = 32
OWN = """import torch

class MyVAE(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.down = torch.nn.Conv2d(3, 6, 4, 4)
        self.up = torch.nn.ConvTranspose2d(6, 3, 4, 4)

    def encode(self, x):
        return self.down(x)

    def decode(self, z):
        return self.up(z)
"""
NAMES = ("kl", "tiny", "myvae")


def photographs(folder: Path) -> None:
    """Cut the sample pictures of scikit-image into small images, a class per picture."""
    for name in ("astronaut", "coffee", "chelsea"):
        picture = getattr(data, name)()
        target = folder / name
        target.mkdir(parents=True)
        corners = [(y, x) for y in range(0, 288, SIDE) for x in range(0, 448, SIDE)]
        for k, (y, x) in enumerate(corners[:100]):
            Image.fromarray(picture[y : y + SIDE, x : x + SIDE]).save(target / f"{k:03d}.png")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three autoencoders and a vision transformer, scored side by side."""
    place = Workspace(tmp_path_factory.mktemp("photographs"))
    photographs(place.path / "photos")
    ensure_torchvision()
    diffusers, timm = pytest.importorskip("diffusers"), pytest.importorskip("timm")
    torch.manual_seed(0)
    blocks: dict[str, Any] = {"block_out_channels": (8, 8)}
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=4,
        **blocks,
    ).save_pretrained(place.path / "kl")
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(place.path / "tiny")
    (place.path / "my_vae.py").write_text(OWN)
    namespace: dict[str, Any] = {}
    exec(OWN, namespace)
    save_file(namespace["MyVAE"]().state_dict(), place.path / "w.safetensors")
    small = {"embed_dim": 24, "depth": 1, "num_heads": 3}
    network = timm.create_model("vit_tiny_patch16_224", **small)
    timm.models.save_for_hf(network, place.path / "vit", model_args=small)
    words = ("kl", "tiny", "my_vae:MyVAE", "--weights", "w.safetensors", "--encoder", "vit")
    shape = ("--images", "photos", "--size", str(SIDE), "-c", "2", "--against", "fashion")
    place.run("diffusability", "score", *words, *shape)
    return place


def test_every_network_is_measured(scored: Workspace) -> None:
    found = json.loads((scored.path / "diffusability-score" / "score.json").read_text())
    assert len(found) == 4
    for name, of in found.items():
        values = {m["metric"]: m["value"] for m in of["measurements"]}
        perspectives = {metric.partition(".")[0] for metric in values}
        assert {"velocity", "semantics", "smoothness", "uniformity", "fisher"} <= perspectives
        decodes = "reconstruction.psnr" in values
        assert decodes == (name in NAMES), name
        assert ("reconstruction" in of["left_out"]) != decodes


def test_the_page_is_whole(scored: Workspace) -> None:
    page = (scored.path / "diffusability-score" / "score.html").read_text()
    for words in ("VIV", "LNC, without masks", "SEC", "entropy", "PSNR", "hardly reconstructed"):
        assert words in page, words
    assert 'src="http' not in page


def test_a_second_run_measures_nothing_again(scored: Workspace) -> None:
    made = {
        p: p.stat().st_mtime_ns
        for p in (scored.path / "diffusability-score").rglob("measurements.json")
    }
    assert made
    words = ("kl", "--images", "photos", "--size", str(SIDE), "-c", "1")
    scored.run("diffusability", "score", *words)
    assert all(path.stat().st_mtime_ns == before for path, before in made.items())
