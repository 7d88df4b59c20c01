"""Published weights of vision models: read from a file, and named as the network names them."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from diffusability.encoders.weights import State, read_tensors, timm_layout, without
from diffusability.errors import ArtifactError
from diffusability.study.entries.vision_models import VisionFacts, VisionModel

# heads, poolings and the token that hides patches in pre-training: no patch feature depends on them
UNUSED = ("head.", "fc_norm.", "attn_pool.", "embeddings.mask_token")
# names in a hub's file of DINOv2, and in transformers from version 5 on
TRANSFORMERS_RENAMED = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}
# parameters that bear wrong names in MoCo v3's published ViT-L
MOCO_MISNAMED = {
    "blocks.13.norm13.": "blocks.13.norm1.",
    "blocks.13.mlp.fc13.": "blocks.13.mlp.fc1.",
    "blocks.14.norm14.": "blocks.14.norm2.",
    "blocks.14.mlp.fc14.": "blocks.14.mlp.fc2.",
}


def read_weights(model: VisionModel, path: Path) -> State:
    """Return the tensors of a published weight file that the model's features depend on.

    Args:
        model: name of the model.
        path: safetensors, or a checkpoint that holds tensors only. Names of tensors may be those
            of the model's hub repository or of its authors' release, as far as timm knows it.

    Raises:
        ArtifactError: no such file, or not of one of these formats.
    """
    state = read_tensors(model, path)
    if model == "mocov3-l":
        state = _moco_names(state)
    if any(name.startswith("visual.") for name in state):  # of a release with a text encoder
        state = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    return {name: tensor.contiguous() for name, tensor in without(state, UNUSED).items()}


def _moco_names(state: State) -> State:
    """Return MoCo v3's query encoder under timm's names, from a whole checkpoint of its training.

    A file that is none, such as the hub's, is returned as it is.
    """
    prefix = "module.base_encoder."
    if not any(name.startswith(prefix) for name in state):
        return state
    renamed = {}
    for name, tensor in state.items():
        if name.startswith(prefix):
            own = name.removeprefix(prefix)
            for wrong, right in MOCO_MISNAMED.items():
                own = own.replace(wrong, right)
            renamed[own] = tensor
    return renamed


def to_network(model: str, facts: VisionFacts, network: Any, state: State) -> State:
    """Return the tensors under the network's names, positions resampled to its grid.

    Raises:
        ArtifactError: the file holds a bias that the network has no place for.
    """
    if facts.library == "transformers":
        return _in_todays_names(network, state)
    if "dinov3" in facts.network:
        state = _without_zero_biases(model, facts, state)
    options: dict[str, Any] = {}
    if "radio" in facts.network:
        options = {"interpolation": "bilinear", "antialias": False, "align_corners": False}
    elif facts.positions == "bilinear":
        state = _resampled(state, network.patch_embed.grid_size)
    return timm_layout(facts.network, network, state, **options)


def _in_todays_names(network: nn.Module, state: State) -> State:
    """Return the tensors of Web-SSL's file under the names that transformers gives them today.

    Version 5 renamed the projections of attention; the hub's file has the names before.
    """
    if not any(".attention.q_proj." in name for name in network.state_dict()):
        return state
    renamed: State = {}
    for name, tensor in state.items():
        for before, today in TRANSFORMERS_RENAMED.items():
            name = name.replace(before, today)
        renamed[name] = tensor
    return renamed


def _without_zero_biases(model: str, facts: VisionFacts, state: State) -> State:
    """Leave out the biases of queries, keys and values of DINOv3's release, which are zero.

    Meta's network masks that of the keys (`bias_mask`, zero there) and has learned the others to
    be zero; timm's has none.

    Raises:
        ArtifactError: one is not zero: the features would differ without a word.
    """
    kept: State = {}
    for name, tensor in state.items():
        if not name.endswith("attn.qkv.bias"):
            kept[name] = tensor
            continue
        mask = state.get(f"{name}_mask")
        used = tensor if mask is None else tensor[mask.nan_to_num() != 0]
        if bool(used.any()):
            raise ArtifactError(
                f"weights of {model}: {name} is not zero, up to {used.abs().max():.3g}, and timm's "
                f"{facts.network} has no such bias. A file that fits is {facts.hub}'s"
            )
    return kept


def _resampled(state: State, grid: tuple[int, int]) -> State:
    """Return the tensors with the Perception Encoder's table of positions on another grid.

    The table is (1 + N, D), or (1, 1 + N, D), the class token's first; its N cells are a square.
    """
    found = [name for name in state if name.endswith(("positional_embedding", "pos_embed"))]
    resampled: State = {}
    for name in found:
        table = state[name]
        tokens = table.reshape(-1, table.shape[-1])  # (1 + N, D)
        side = math.isqrt(len(tokens) - 1)
        if side**2 != len(tokens) - 1 or (side, side) == grid:  # the former is refused by its shape
            continue
        cells = tokens[1:].T.unflatten(1, (side, side))[None].float()  # (1, D, side, side)
        cells = functional.interpolate(cells, size=grid, mode="bilinear", align_corners=False)
        laid = torch.cat([tokens[:1], cells[0].flatten(1).T.to(tokens.dtype)])  # (1 + n, D)
        resampled[name] = laid.reshape(*table.shape[:-2], *laid.shape)
    return state | resampled
