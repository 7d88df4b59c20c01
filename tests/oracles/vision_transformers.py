"""The published transformers as their authors define them, for tests.

Each is written down once more from its authors' description, on weights under its authors' names,
without the libraries that the encoders use. All take float32 pixels on the scale of the network.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
Activation = Callable[[Tensor], Tensor]
Rotate = Callable[[Tensor], Tensor]  # of (B, heads, N, D / heads) queries or keys


def layer_norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, rotate: Rotate | None) -> Tensor:
    """Return softmax(q k / sqrt(d)) v of (B, N, D), heads one after the other along D."""
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    if rotate is not None:
        q, k = rotate(q), rotate(k)
    weight = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[3]), dim=3)
    return (weight @ v).transpose(1, 2).flatten(2)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def patches(weight: Tensor, bias: Tensor | None, pixels: Tensor) -> Tensor:
    """Return the (B, N, D) embeddings of patches, row by row, of a (D, 3, p, p) kernel."""
    p = weight.shape[-1]
    cut = F.unfold(pixels, p, stride=p).transpose(1, 2)  # (B, N, 3 p p)
    embedded = cut @ weight.flatten(1).T
    return embedded if bias is None else embedded + bias


def resampled(positions: Tensor, side: int, mode: str, antialias: bool) -> Tensor:
    """Return (1, N, D) positions of a square grid on another."""
    old = math.isqrt(positions.shape[1])
    if old == side:
        return positions
    grid = positions.transpose(1, 2).unflatten(2, (old, old))
    grid = F.interpolate(
        grid, size=(side, side), mode=mode, antialias=antialias, align_corners=False
    )
    return grid.flatten(2).transpose(1, 2)


def blocks(
    w: Weights,
    x: Tensor,
    heads: int,
    eps: float = 1e-6,
    rotate: Rotate | None = None,
    activation: Activation = gelu,
) -> Tensor:
    """Return (B, N, D) tokens after pre-norm blocks, with layer scale or without."""
    block = 0
    while (name := f"blocks.{block}.") + "norm1.weight" in w:
        q, k, v = linear(w, f"{name}attn.qkv", layer_norm(w, f"{name}norm1", x, eps)).chunk(3, 2)
        y = linear(w, f"{name}attn.proj", attention(q, k, v, heads, rotate))
        x = x + y * w.get(f"{name}ls1.gamma", torch.ones(()))
        y = linear(w, f"{name}mlp.fc1", layer_norm(w, f"{name}norm2", x, eps))
        x = x + linear(w, f"{name}mlp.fc2", activation(y)) * w.get(
            f"{name}ls2.gamma", torch.ones(())
        )
        block += 1
    return x


def vit(
    w: Weights, pixels: Tensor, *, prefix: tuple[str, ...] = ("cls_token",), **options: Any
) -> Tensor:
    """Return the patch tokens of `vit_tokens`."""
    return vit_tokens(w, pixels, prefix=prefix, **options)[:, sum(w[n].shape[1] for n in prefix) :]


def vit_tokens(
    w: Weights,
    pixels: Tensor,
    *,
    heads: int,
    final_norm: bool,
    eps: float = 1e-6,
    rotate: Rotate | None = None,
    prefix: tuple[str, ...] = ("cls_token",),
    activation: Activation = gelu,
) -> Tensor:
    """Return tokens of MAE, MoCo v3, DINOv2, DINOv3, SigLIP: pre-norm blocks, layer scale or none.

    Absolute positions, where there are some, are resampled as in iREPA: bicubic and antialiased.
    """
    x = patches(w["patch_embed.proj.weight"], w.get("patch_embed.proj.bias"), pixels)
    side = math.isqrt(x.shape[1])
    table, given = w.get("pos_embed"), len(prefix)
    if table is not None:
        placed = table.shape[1] - math.isqrt(table.shape[1]) ** 2  # 1: the class token has a place
        x = x + resampled(table[:, placed:], side, "bicubic", antialias=True)
    if given:
        front = torch.cat([w[name] for name in prefix], dim=1).expand(len(x), -1, -1)
        x = torch.cat([front if table is None else front + table[:, :1], x], dim=1)
    if "norm_pre.weight" in w:
        x = layer_norm(w, "norm_pre", x, eps)
    x = blocks(w, x, heads, eps, rotate, activation)
    return layer_norm(w, "norm", x, eps) if final_norm else x


def dinov3_rotation(side: int, head: int, front: int) -> Rotate:
    """Rotate halves by 2 pi times coordinates in -1 ... 1 over periods 100^(i / (d / 4))."""
    periods = 100.0 ** (torch.arange(head // 4) / (head // 4))
    along = (torch.arange(side) + 0.5) / side * 2 - 1
    rows, columns = torch.meshgrid(along, along, indexing="ij")
    angles = torch.stack([rows.flatten(), columns.flatten()], 1)  # (N, 2)
    angles = (2 * math.pi * angles[:, :, None] / periods).flatten(1).tile(2)  # (N, d)

    def rotate(x: Tensor) -> Tensor:
        kept, turned = x[:, :, :front], x[:, :, front:]
        first, second = turned.chunk(2, dim=3)
        turned = turned * angles.cos() + torch.cat([-second, first], dim=3) * angles.sin()
        return torch.cat([kept, turned], dim=2)

    return rotate


def clip(
    w: Weights,
    pixels: Tensor,
    *,
    heads: int,
    activation: Activation,
    rotate: Rotate | None = None,
    prefix: str = "visual.",
    final_norm: bool = False,
) -> Tensor:
    """Return patch tokens of CLIP's image encoder and of Meta's Perception Encoder.

    Absolute positions are resampled bilinearly, as Meta does; CLIP's already have the grid.
    """
    w = {name.removeprefix(prefix): tensor for name, tensor in w.items()}
    x = patches(w["conv1.weight"], None, pixels)
    table = w["positional_embedding"]
    x = x + resampled(table[None, 1:], math.isqrt(x.shape[1]), "bilinear", antialias=False)
    front = (w["class_embedding"] + table[0]).expand(len(x), 1, -1)
    x = layer_norm(w, "ln_pre", torch.cat([front, x], dim=1), 1e-5)
    block = 0
    while (name := f"transformer.resblocks.{block}.") + "ln_1.weight" in w:
        y = layer_norm(w, f"{name}ln_1", x, 1e-5) @ w[f"{name}attn.in_proj_weight"].T
        q, k, v = (y + w[f"{name}attn.in_proj_bias"]).chunk(3, dim=2)
        y = linear(w, f"{name}attn.out_proj", attention(q, k, v, heads, rotate))
        x = x + y * w.get(f"{name}ls_1.gamma", torch.ones(()))
        y = activation(linear(w, f"{name}mlp.c_fc", layer_norm(w, f"{name}ln_2", x, 1e-5)))
        x = x + linear(w, f"{name}mlp.c_proj", y) * w.get(f"{name}ls_2.gamma", torch.ones(()))
        block += 1
    return (layer_norm(w, "ln_post", x, 1e-5) if final_norm else x)[:, 1:]


def perception_rotation(side: int, head: int) -> Rotate:
    """Rotate neighbouring pairs by position over 10000^(4 i / d): columns first, counted from 1."""
    frequencies = 10_000.0 ** -(torch.arange(0, head // 2, 2) / (head // 2))  # (d / 4,)
    along = torch.arange(1, side + 1).float()
    rows, columns = torch.meshgrid(along, along, indexing="ij")
    angles = torch.cat(
        [columns.reshape(-1, 1) * frequencies, rows.reshape(-1, 1) * frequencies], dim=1
    )  # (N, d / 2), one angle per pair
    angles = torch.cat([torch.zeros(1, head // 2), angles])  # the class token does not turn

    def rotate(x: Tensor) -> Tensor:
        turned = torch.view_as_complex(x.unflatten(3, (-1, 2)).contiguous())
        turned = turned * torch.polar(torch.ones_like(angles), angles)
        return torch.view_as_real(turned).flatten(3)

    return rotate


def radio(w: Weights, pixels: Tensor, *, heads: int) -> Tensor:
    """Return patch tokens of C-RADIO: linear patches, positions of patches alone, no final norm."""
    w = {n.removeprefix("radio_model.model.").replace("grandma", "gamma"): t for n, t in w.items()}
    embedder = w["patch_generator.embedder.weight"]
    p = math.isqrt(embedder.shape[1] // 3)
    x = patches(embedder.unflatten(1, (3, p, p)), None, pixels)
    table = w["patch_generator.pos_embed"]
    x = x + resampled(table, math.isqrt(x.shape[1]), "bilinear", antialias=False)
    front = w["patch_generator.cls_token.token"].expand(len(x), -1, -1)
    return blocks(w, torch.cat([front, x], dim=1), heads)[:, front.shape[1] :]


def attention_pool(w: Weights, tokens: Tensor, heads: int, activation: Activation) -> Tensor:
    """Return SigLIP's (B, D) pooled feature: one learned query, then a residual MLP."""
    q = linear(w, "attn_pool.q", w["attn_pool.latent"]).expand(len(tokens), -1, -1)
    k, v = linear(w, "attn_pool.kv", tokens).chunk(2, dim=2)
    x = linear(w, "attn_pool.proj", attention(q, k, v, heads, None))
    y = activation(linear(w, "attn_pool.mlp.fc1", layer_norm(w, "attn_pool.norm", x, 1e-6)))
    return (x + linear(w, "attn_pool.mlp.fc2", y))[:, 0]
