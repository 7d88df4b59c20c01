"""Published vision models: preprocessing, token order, prefix tokens, weights from files.

The networks have random weights and one block: what is tested is what surrounds them.
"""

import csv
import socket
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusability.artifacts.job import Job
from diffusability.data.digits import load_digits
from diffusability.encoders.load import load_encoder
from diffusability.encoders.packages import ensure_torchvision
from diffusability.encoders.vision import VisionModelEncoder, build_network, load_vision_encoder
from diffusability.encoders.vision_weights import read_weights
from diffusability.errors import ArtifactError, StudyError
from diffusability.stages.make import make
from diffusability.study.core.fingerprint import fingerprint
from diffusability.study.entries.encoder import VisionEncoder
from diffusability.study.entries.pixel_dataset import DigitsDataset
from diffusability.study.entries.vision_models import FACTS, VisionModel, cached_weights
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import STAGES
from diffusability.study.reading.load import read_yaml
from diffusability.study.reading.resolve import resolve_study
from tests.conftest import REPOSITORY

ensure_torchvision()

# (0 - mean) / std of the three channels, by hand, for an image of -1 (black) and of 1 (white)
BLACK = {
    "imagenet": (-2.117904, -2.035714, -1.804444),
    "clip": (-1.792263, -1.752097, -1.480219),
    "half": (-1.0, -1.0, -1.0),
}
WHITE = {
    "imagenet": (2.248908, 2.428571, 2.64),
    "clip": (1.930336, 2.074884, 2.145897),
    "half": (1.0, 1.0, 1.0),
}
SCALES = {
    **dict.fromkeys(("clip-l", "cradio-b", "cradio-l"), "clip"),
    **dict.fromkeys(("pe-b", "pe-l", "langpe-l", "spatialpe-b", "spatialpe-l"), "half"),
    **dict.fromkeys(("dinov2-b", "dinov2-l", "dinov3-b", "dinov3-l"), "imagenet"),
    **dict.fromkeys(("mae-l", "mocov3-l", "webssl-300m"), "imagenet"),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection is an error: nothing may be downloaded behind a study's back."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module", params=FACTS)
def encoder(request: pytest.FixtureRequest) -> VisionModelEncoder:
    """Every model with one block, for images of 64 pixels."""
    torch.manual_seed(0)
    facts = FACTS[request.param]
    return VisionModelEncoder(facts, build_network(facts, 64, depth=1))


def name_of(encoder: VisionModelEncoder) -> VisionModel:
    return next(name for name, facts in FACTS.items() if facts is encoder.facts)


def test_the_grid_has_a_cell_per_16_pixels(encoder: VisionModelEncoder) -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    grid = encoder.grid(images)
    assert grid.shape == (2, encoder.facts.channels, 4, 4)
    assert encoder.grid_channels == encoder.facts.channels
    assert torch.allclose(encoder.features(images), grid.mean((2, 3)))
    assert encoder.logits(encoder.features(images)).shape == (2, 0)
    assert encoder.grid(torch.rand(1, 3, 96, 64)).shape[2:] == (6, 4)  # another size, one network


def test_256_pixels_give_16_x_16() -> None:
    for facts in FACTS.values():
        assert facts.input_side(256) == 16 * facts.patch
        assert facts.input_side(8) == facts.patch


def test_normalisation_by_hand(encoder: VisionModelEncoder) -> None:
    scale = SCALES[name_of(encoder)]
    for value, expected in ((-1.0, BLACK[scale]), (1.0, WHITE[scale])):
        pixels = encoder.preprocess(torch.full((1, 3, 64, 64), value))
        side = 4 * encoder.facts.patch
        wanted = torch.tensor(expected).view(1, 3, 1, 1).expand(1, 3, side, side)
        # six digits above; the weights of a bicubic resize add up to one within rounding
        torch.testing.assert_close(pixels, wanted, rtol=0, atol=5e-6)


def test_tokens_stand_where_their_patches_are(encoder: VisionModelEncoder) -> None:
    images = torch.zeros(1, 3, 64, 64)
    before = encoder.grid(images)
    for row, column in ((0, 0), (0, 3), (2, 1), (3, 3)):
        changed = images.clone()
        changed[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = torch.randn(
            16, 16
        )
        moved = (encoder.grid(changed) - before).norm(dim=1)[0]  # (4, 4)
        assert divmod(int(moved.argmax()), 4) == (row, column)


def test_prefix_tokens_are_dropped(encoder: VisionModelEncoder) -> None:
    facts, network = encoder.facts, cast(Any, encoder.network)
    in_timm = facts.library == "timm"
    last, norm = (
        (network.blocks[-1], network.norm)
        if in_timm
        else (network.encoder.layer[-1], network.layernorm)
    )
    seen: list[Tensor] = []
    hook = last.register_forward_hook(lambda *call: seen.append(call[2]))
    grid = encoder.grid(torch.rand(1, 3, 64, 64))
    hook.remove()
    (sequence,) = seen  # (1, prefix + 16, D)
    assert sequence.shape[1] == facts.prefix + 16
    assert not in_timm or network.num_prefix_tokens == facts.prefix
    tokens = norm(sequence) if facts.final_norm else sequence
    assert torch.allclose(grid.flatten(2).transpose(1, 2), tokens[:, facts.prefix :], atol=1e-6)
    if facts.final_norm:
        assert not torch.allclose(tokens, sequence, atol=1e-2)


def test_one_channel_is_repeated(encoder: VisionModelEncoder) -> None:
    grey = torch.rand(1, 1, 64, 64) * 2 - 1
    assert torch.equal(encoder.grid(grey), encoder.grid(grey.expand(1, 3, 64, 64)))
    with pytest.raises(StudyError, match="one or three channels, not 4"):
        encoder.grid(torch.zeros(1, 4, 64, 64))


def test_frozen_and_in_evaluation(encoder: VisionModelEncoder) -> None:
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    grid = encoder.grid(torch.zeros(1, 3, 64, 64, requires_grad=True))
    assert not grid.requires_grad


def test_autocast_changes_precision_only() -> None:
    torch.manual_seed(0)
    facts = FACTS["dinov2-b"]
    encoder = VisionModelEncoder(facts, build_network(facts, 64, depth=1))
    images = torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        pixels, grid = encoder.preprocess(images), encoder.grid(images)
    assert (pixels.dtype, grid.dtype) == (torch.float32, torch.float32)
    assert torch.equal(pixels, encoder.preprocess(images))
    assert torch.allclose(grid, encoder.grid(images), atol=0.1)


def test_facts_agree_with_the_library(encoder: VisionModelEncoder) -> None:
    facts = encoder.facts
    if facts.library == "timm":
        import timm

        published = timm.models.get_pretrained_cfg(facts.network)
        if name_of(encoder) != "mocov3-l":  # its architecture's own weights are others
            assert facts.norm == (published.mean, published.std)
            assert facts.hub in (published.hf_hub_id, "timm/vit_large_patch14_clip_224.openai")
        assert cast(Any, encoder.network).patch_embed.patch_size == (facts.patch, facts.patch)


@pytest.mark.parametrize("model", FACTS)
def test_sizes_agree_with_the_library(model: VisionModel) -> None:
    facts = FACTS[model]
    with torch.device("meta"):
        network: Any = build_network(facts, 256)
    blocks = network.blocks if facts.library == "timm" else network.encoder.layer
    assert len(blocks) == facts.depth


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("model", [m for m in FACTS if FACTS[m].library == "timm"])
def test_weights_of_the_published_size_fit(model: VisionModel) -> None:
    import timm

    torch.manual_seed(0)
    facts = FACTS[model]
    published: Any = timm.create_model(facts.network, pretrained=False, depth=1)
    state = dict(published.state_dict())
    prefix = 0
    if "pos_embed" in state:  # (1, prefix + h · w, D), here the same vector at every patch
        prefix = state["pos_embed"].shape[1] - published.patch_embed.num_patches
        state["pos_embed"][:, prefix:] = torch.randn(facts.channels)
    save_file(state, "model.safetensors")
    kept = read_weights(model, Path("model.safetensors"))
    network: Any = load_vision_encoder(model, kept, 64, depth=1).network
    if "pos_embed" in state:  # resampled to 4 x 4, in front of them what it was
        assert network.pos_embed.shape == (1, prefix + 16, facts.channels)
        wanted = state["pos_embed"][:, : prefix + 16]
        torch.testing.assert_close(network.pos_embed, wanted, rtol=1e-4, atol=1e-5)
    loaded = network.state_dict()
    others = [name for name in loaded if name != "pos_embed"]
    assert all(torch.equal(loaded[name], state[name]) for name in others)


def test_weights_that_do_not_fit_are_named() -> None:
    torch.manual_seed(0)
    state = dict(build_network(FACTS["dinov3-b"], 256, depth=1).state_dict())
    state.pop("cls_token")
    state["blocks.0.attn.other"] = torch.zeros(1)
    state["norm.weight"] = torch.zeros(3)
    with pytest.raises(ArtifactError) as raised:
        load_vision_encoder("dinov3-b", state, 256, depth=1)
    message = str(raised.value)
    assert "missing: cls_token; unknown: blocks.0.attn.other;" in message
    assert "of another shape: norm.weight (3,) for (768,)" in message
    assert "timm/vit_base_patch16_dinov3.lvd1689m" in message


def test_a_training_checkpoint_of_moco(tmp_path: Path) -> None:
    names = ["cls_token", "blocks.13.norm1.weight", "blocks.13.mlp.fc1.bias"]
    names += ["blocks.14.norm2.weight", "blocks.14.mlp.fc2.bias", "blocks.14.norm1.weight"]
    misnamed = [names[0], "blocks.13.norm13.weight", "blocks.13.mlp.fc13.bias"]
    misnamed += ["blocks.14.norm14.weight", "blocks.14.mlp.fc14.bias", names[5]]
    tensors = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
    saved = {f"module.base_encoder.{m}": tensors[n] for m, n in zip(misnamed, names, strict=True)}
    saved |= {f"module.momentum_encoder.{n}": torch.zeros(1) for n in names}
    saved |= {"module.base_encoder.head.0.weight": torch.zeros(1)}
    torch.save({"epoch": 300, "state_dict": saved}, tmp_path / "vit-l.pth.tar")
    state = read_weights("mocov3-l", tmp_path / "vit-l.pth.tar")
    assert state == tensors
    save_file(tensors, tmp_path / "model.safetensors")  # as on the hub
    assert read_weights("mocov3-l", tmp_path / "model.safetensors") == tensors


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="weights of pe-b: not at"):
        read_weights("pe-b", tmp_path / "nothing.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"<html>")
    with pytest.raises(ArtifactError, match="damaged.safetensors cannot be read"):
        read_weights("pe-b", tmp_path / "damaged.safetensors")


def vision_job(local: dict[str, Any], path: str = "") -> Job:
    """The job of an encoder entry of kind vision."""
    spec = VisionEncoder(kind="vision", model="dinov3-b").canonical()
    version = STAGES["encoder"].version
    name = path or fingerprint("encoder", version, spec, 0, {})
    return Job("encoder", version, "d3", spec, 0, {}, Path("results/encoder/d3", name), local)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of one block, so that a test does not run twelve."""
    build = build_network
    monkeypatch.setattr(
        "diffusability.encoders.vision.build_network", lambda *a, **k: build(*a, depth=1)
    )


@pytest.mark.usefixtures("shallow")
def test_the_stage_copies_and_the_reader_rebuilds(workplace: Path) -> None:
    torch.manual_seed(0)
    network = build_network(FACTS["dinov3-b"], 256, depth=1)
    save_file(network.state_dict() | {"head.weight": torch.zeros(1)}, "weights.safetensors")
    job = vision_job({"weights": "weights.safetensors"})
    with job.writing() as folder:
        make(job, folder)
    assert (job.path / "history.csv").read_text() == "step\n"
    kept = load_file(job.path / "model.safetensors")
    assert kept.keys() == network.state_dict().keys()  # the head is of no use here
    data = load_digits(DigitsDataset(kind="digits", size=32))
    encoder = load_encoder(job.path, data, "cpu")
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    wanted = VisionModelEncoder(FACTS["dinov3-b"], network).grid(images)
    torch.testing.assert_close(encoder.grid(images), wanted)


@pytest.mark.usefixtures("shallow", "workplace")
def test_a_tokenizer_is_aligned_with_it() -> None:
    torch.manual_seed(0)
    save_file(build_network(FACTS["dinov3-b"], 256, depth=1).state_dict(), "d3.safetensors")
    study = read_yaml(REPOSITORY / "studies/smoke.yaml")
    study["datasets"]["digits"]["size"] = 16
    study["encoders"]["glyph"] = {
        "kind": "vision",
        "model": "dinov3-b",
        "weights": "d3.safetensors",
    }
    study["bases"]["conv-f2d4"]["train"]["steps"] = 2
    plan = Plan(resolve_study(study, "a test"))
    (tokenizer,) = (a for a in plan.of_stage("tokenizer") if a.name == "conv-vf-glyph/s0")
    for artifact in (*tokenizer.upstream.values(), tokenizer):
        job = Job.from_json(artifact.job())
        with job.writing() as folder:
            make(job, folder)
    with Path(tokenizer.path, "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(0 < float(row["mcos"]) <= 1.5 for row in rows)  # 1 - margin - cosine


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(StudyError, match=r"vision model vit_.*`timm` does not import.*`paper`"):
        build_network(FACTS["pe-b"], 256)


@pytest.mark.usefixtures("shallow")
def test_the_stage_finds_the_hub_cache(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(workplace / "hf"))
    repository = workplace / "hf/hub/models--timm--vit_base_patch16_dinov3.lvd1689m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0123abcd")
    file = repository / "snapshots/0123abcd/model.safetensors"
    assert cached_weights(FACTS["dinov3-b"].hub) == file
    job = vision_job({"weights": None})
    with pytest.raises(ArtifactError, match="weights of dinov3-b: not at .*0123abcd"):
        make(job, workplace)
    file.parent.mkdir(parents=True)
    save_file(build_network(FACTS["dinov3-b"], 256, depth=1).state_dict(), file)
    make(job, workplace)
    assert (workplace / "model.safetensors").exists()
