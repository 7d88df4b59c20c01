"""Every published vision model against its authors' definition, re-stated in tests/oracles.

Random weights under the authors' names, one block, an image of 256 pixels: what is compared is the
whole way from the image to the 16 x 16 features.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusability.encoders.packages import ensure_torchvision
from diffusability.encoders.vision import VisionModelEncoder, build_network, load_vision_encoder
from diffusability.encoders.vision_weights import read_weights
from diffusability.encoders.weights import State
from diffusability.errors import ArtifactError
from diffusability.study.entries.encoder import VisionEncoder
from diffusability.study.entries.vision_models import FACTS, VisionModel
from tests.oracles import vision_transformers as oracle

ensure_torchvision()

SIDE = 16  # cells of the feature grid
PREFIX = {"clip-l": "visual.", "pe-b": "visual.", "pe-l": "visual."}  # beside a text encoder
# side of the table of absolute positions in the authors' file; DINOv3 has none
TABLE = {
    **dict.fromkeys(("clip-l", "webssl-300m"), 16),
    **dict.fromkeys(("mae-l", "mocov3-l", "pe-b"), 14),
    **dict.fromkeys(("dinov2-b", "dinov2-l"), 37),
    **dict.fromkeys(("cradio-b", "cradio-l"), 128),
    **dict.fromkeys(("langpe-l", "spatialpe-b", "spatialpe-l"), 32),
    "pe-l": 24,
}
SCALED = ("cradio-b", "cradio-l", "dinov2-b", "dinov2-l", "dinov3-b", "dinov3-l", "langpe-l")


def heads(model: VisionModel) -> int:
    return FACTS[model].channels // 64


def weights(model: VisionModel) -> State:
    """Return random weights of one block under the authors' names, of about unit effect."""
    torch.manual_seed(0)
    facts = FACTS[model]
    d, p = facts.channels, facts.patch

    def noise(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape) * scale

    def norm(name: str) -> State:
        return {f"{name}.weight": 1 + noise(d, scale=0.1), f"{name}.bias": noise(d, scale=0.1)}

    def linear(name: str, out: int, inner: int, *, dot: str = ".") -> State:
        weight = noise(out, inner, scale=inner**-0.5)
        return {f"{name}{dot}weight": weight, f"{name}{dot}bias": noise(out, scale=0.1)}

    table = {} if model not in TABLE else {"table": noise(TABLE[model] ** 2 + 1, d, scale=0.5)}
    kernel = noise(d, 3, p, p, scale=(3 * p * p) ** -0.5)
    if model in ("clip-l", "pe-b", "pe-l", "langpe-l", "spatialpe-b", "spatialpe-l"):
        block = "transformer.resblocks.0."
        state = {"conv1.weight": kernel, "class_embedding": noise(d)}
        state |= {"positional_embedding": table["table"]} | norm("ln_pre")
        state |= norm(f"{block}ln_1") | norm(f"{block}ln_2")
        state |= linear(f"{block}attn.in_proj", 3 * d, d, dot="_")
        state |= linear(f"{block}attn.out_proj", d, d)
        state |= linear(f"{block}mlp.c_fc", 4 * d, d) | linear(f"{block}mlp.c_proj", d, 4 * d)
        if model in SCALED:
            state |= {f"{block}ls_{k}.gamma": noise(d) for k in (1, 2)}
        if model in PREFIX:
            state |= norm("ln_post") | {"proj": noise(d, 8)}
            further = {"text.weight": noise(2, 2)} if model != "clip-l" else {}
            return {f"visual.{name}": tensor for name, tensor in state.items()} | further
        return state
    block = "blocks.0."
    state = norm(f"{block}norm1") | norm(f"{block}norm2")
    state |= linear(f"{block}attn.qkv", 3 * d, d) | linear(f"{block}attn.proj", d, d)
    state |= linear(f"{block}mlp.fc1", 4 * d, d) | linear(f"{block}mlp.fc2", d, 4 * d)
    if model in SCALED and model.startswith("cradio"):  # as the hub names them
        state |= {f"{block}ls{k}.grandma": noise(d) for k in (1, 2)}
    if model in ("cradio-b", "cradio-l"):
        state |= {"patch_generator.embedder.weight": kernel.flatten(1)}
        state |= {"patch_generator.pos_embed": table["table"][None, 1:]}
        state |= {"patch_generator.cls_token.token": noise(facts.prefix, d)}
        return {f"radio_model.model.{name}": tensor for name, tensor in state.items()}
    state |= norm("norm") | {"cls_token": noise(1, 1, d)}
    state |= {"patch_embed.proj.weight": kernel, "patch_embed.proj.bias": noise(d, scale=0.1)}
    if table:
        state |= {"pos_embed": table["table"][None]}
    if model in SCALED or model == "webssl-300m":
        state |= {f"{block}ls{k}.gamma": noise(d) for k in (1, 2)}
    if model.startswith("dinov3"):
        state |= {"storage_tokens": noise(1, 4, d), "mask_token": noise(1, d)}
        state[f"{block}attn.qkv.bias"] = torch.zeros(3 * d)
    return state


def in_transformers(state: State) -> State:
    """Return DINOv2's weights under the names of the hub's file of Web-SSL."""
    renamed: State = {}
    for name, tensor in state.items():
        for ours, theirs in (
            ("blocks.0.", "encoder.layer.0."),
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("cls_token", "embeddings.cls_token"),
            ("pos_embed", "embeddings.position_embeddings"),
        ):
            name = name.replace(ours, theirs)
        if "attn.qkv" in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = third
        else:
            renamed["layernorm" + name[4:] if name.startswith("norm.") else name] = tensor
    return renamed


def defined(model: VisionModel, state: State, pixels: Tensor, **changes: Any) -> Tensor:
    """Return the (1, 256, D) patch features of the authors' definition."""
    options = {"heads": heads(model), "final_norm": FACTS[model].final_norm} | changes
    match model:
        case "clip-l":
            return oracle.clip(state, pixels, activation=oracle.quick_gelu, **options)
        case "pe-b" | "pe-l" | "langpe-l" | "spatialpe-b" | "spatialpe-l":
            rotate = oracle.perception_rotation(SIDE, 64)
            prefix = PREFIX.get(model, "")
            return oracle.clip(
                state, pixels, activation=oracle.gelu, rotate=rotate, prefix=prefix, **options
            )
        case "cradio-b" | "cradio-l":
            return oracle.radio(state, pixels, heads=heads(model))
        case "dinov3-b" | "dinov3-l":
            front = ("cls_token", "storage_tokens")
            rotate = oracle.dinov3_rotation(SIDE, 64, front=5)
            return oracle.vit(state, pixels, eps=1e-5, rotate=rotate, prefix=front, **options)
        case _:
            return oracle.vit(state, pixels, **options)


def loaded(model: VisionModel, state: State, folder: Path, **changes: Any) -> VisionModelEncoder:
    """Return the encoder of a weight file, as the stage reads it."""
    named = in_transformers(state) if model == "webssl-300m" else state
    save_file({n: t.contiguous() for n, t in named.items()}, folder / "model.safetensors")
    kept = read_weights(model, folder / "model.safetensors")
    assert not any(name.startswith("text.") for name in kept)
    return load_vision_encoder(model, kept, 256, depth=1, **changes)


@pytest.mark.parametrize("model", FACTS)
def test_features_are_those_of_the_authors_definition(model: VisionModel, tmp_path: Path) -> None:
    state = weights(model)
    encoder = loaded(model, state, tmp_path)
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    # the input's scale and size have tests of their own: `test_vision_models.py`
    with torch.no_grad():
        expected = defined(model, state, encoder.preprocess(images))  # (1, 256, D)
    found = encoder.grid(images).flatten(2).transpose(1, 2)
    assert found.shape == expected.shape == (1, SIDE**2, FACTS[model].channels)
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)


def test_mae_after_its_final_norm(tmp_path: Path) -> None:
    entry = VisionEncoder(kind="vision", model="mae-l", final_norm=True)
    assert entry.canonical()["final_norm"] is True
    assert "final_norm" not in VisionEncoder(kind="vision", model="mae-l").canonical()
    state = weights("mae-l")
    encoder = loaded("mae-l", state, tmp_path, facts=entry.facts)
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        expected = defined("mae-l", state, encoder.preprocess(images), final_norm=True)
    found = encoder.grid(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)
    with pytest.raises(ValueError, match="cradio-b has no norm after its last block"):
        VisionEncoder(kind="vision", model="cradio-b", final_norm=True)


@pytest.mark.parametrize("model", FACTS)
def test_final_norms_are_where_the_facts_say(model: VisionModel) -> None:
    with torch.device("meta"):
        network: Any = build_network(FACTS[model], 256, depth=1)
    norm = network.layernorm if FACTS[model].library == "transformers" else network.norm
    assert FACTS[model].has_final_norm == (not isinstance(norm, torch.nn.Identity))


def test_a_bias_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    state = weights("dinov3-b")
    name = "blocks.0.attn.qkv.bias"
    with_mask = state | {f"{name}_mask": torch.tensor([1.0, math.nan, 1.0]).repeat_interleave(768)}
    with_mask[name] = torch.tensor([0.0, 0.3, 0.0]).repeat_interleave(768)  # of keys, masked
    loaded("dinov3-b", with_mask, tmp_path)
    state[name] = torch.zeros(3 * 768)
    state[name][5] = 0.02
    with pytest.raises(ArtifactError, match=r"dinov3-b: blocks.0.attn.qkv.bias is not zero, up to"):
        loaded("dinov3-b", state, tmp_path)


def test_what_changed_has_another_name() -> None:
    """Features of six models changed: their artifacts have other names, those of the rest not."""
    canonical = {m: VisionEncoder(kind="vision", model=m).canonical() for m in FACTS}
    changed = {model for model, spec in canonical.items() if spec.get("revision") == 2}
    assert changed == {"pe-b", "pe-l", "langpe-l", "spatialpe-b", "spatialpe-l", "cradio-b"}
    assert all("revision" not in canonical[m] for m in FACTS if m not in changed)
