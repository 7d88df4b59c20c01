"""SiT and LightningDiT: sizes, symmetries, and a re-statement of the training step by hand."""

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from diffusability.diffusion.flow import flow_matching_loss
from diffusability.diffusion.network import timestep_sinusoid
from diffusability.diffusion.transformer import LatentTransformer, LightningDiT, SiT
from diffusability.errors import StudyError
from diffusability.nn.attention import forward_mode_attention
from diffusability.nn.positions import RotaryPosition
from tests.unit.awake_network import draw, woken
from tests.unit.networks import diffusion

NETWORKS = pytest.mark.parametrize("network", [SiT, LightningDiT])
TINY = {"latent_channels": 3, "grid": (2, 4), "num_classes": 5, "width": 16, "depth": 2, "heads": 2}


def awake(network: type[LatentTransformer], **changes) -> LatentTransformer:
    """Return a float64 network none of whose weights is zero, as after training."""
    return woken(diffusion(network, **TINY | changes))


def inputs(model: LatentTransformer, n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    x = draw((n, model.latent_channels, *model.grid), 1)
    t = torch.linspace(0.1, 0.9, n, dtype=torch.float64)
    return x, t, torch.arange(n) % (model.num_classes + 1)


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "size", "channels", "millions"),
    [
        (SiT, "B", 32, 130.53),
        (SiT, "B", 64, 130.58),
        (SiT, "XL", 32, 675.16),
        (SiT, "XL", 64, 675.23),
        (LightningDiT, "B", 32, 130.56),
        (LightningDiT, "B", 64, 130.61),
        (LightningDiT, "XL", 32, 675.26),
        (LightningDiT, "XL", 64, 675.33),
    ],
)
def test_published_sizes_have_the_published_parameter_counts(network, size, channels, millions):
    model = diffusion(network, channels, (16, 16), 1000, seed=None, size=size)
    weights = sum(p.numel() for p in model.parameters())
    # published counts include the frozen position embedding, which is a buffer here
    assert round((weights + model.position.numel()) / 1e6, 2) == millions
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"width": 20}, "width"), ({"patch": 3}, "patch"), ({"heads": 8}, "heads")],
)
def test_sizes_that_do_not_divide_are_refused(changes, word):
    with pytest.raises((StudyError, ValidationError), match=word):
        diffusion(SiT, **TINY | changes)


# --- initial weights -------------------------------------------------------------------------


@NETWORKS
def test_network_starts_as_zero_and_its_blocks_as_the_identity(network):
    model = diffusion(network, **TINY).double()
    x, t, y = inputs(model)
    assert torch.count_nonzero(model(x, t, y)) == 0
    tokens, condition = draw((3, 8, 16), 2), draw((3, 16), 3)
    for block in model.blocks:
        assert torch.equal(block(tokens, condition, model.rotary), tokens)
    assert torch.count_nonzero(awake(network)(x, t, y)) > 0


@NETWORKS
def test_weights_depend_on_the_generator_alone(network):
    before = torch.get_rng_state()
    first = diffusion(network, **TINY, seed=7)
    torch.rand(5)
    second = diffusion(network, **TINY, seed=None)
    torch.set_rng_state(before)
    second.initialise(torch.Generator().manual_seed(7))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    other = diffusion(network, **TINY, seed=8)
    assert not torch.equal(first.patch_embedding.weight, other.patch_embedding.weight)


def test_initial_weights_follow_the_published_scheme():
    model = diffusion(LightningDiT, 4, (4, 4), 10, width=128, depth=1, heads=4)
    weight = model.blocks[0].attention.qkv.weight  # (384, 128)
    limit = math.sqrt(6 / (384 + 128))
    assert weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.01)
    assert model.label_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.time_embedding.out.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert all(torch.count_nonzero(p) == 0 for n, p in model.named_parameters() if "bias" in n)


@NETWORKS
def test_a_network_built_on_meta_is_complete_after_initialise(network):
    with torch.device("meta"):  # the tables of positions too
        model = diffusion(network, **TINY, seed=None)
    assert all(b.is_meta for b in model.buffers())
    model.initialise(torch.Generator().manual_seed(0))
    expected = diffusion(network, **TINY)
    tensors = [*expected.named_parameters(), *expected.named_buffers()]
    found = dict([*model.named_parameters(), *model.named_buffers()])
    for name, value in tensors:
        assert torch.equal(found[name], value), name


# --- positions -------------------------------------------------------------------------------


def test_rotary_scores_depend_on_the_offset_only():
    rotary = RotaryPosition((5, 6), 8).double()
    query, key = draw((8,), 1), draw((8,), 2)
    same = torch.ones(1, 30, 1, 1, dtype=torch.float64)
    turned_query, turned_key = rotary(same * query), rotary(same * key)  # (1, 30, 1, 8)
    scores = (turned_query[0, :, 0] @ turned_key[0, :, 0].T).view(5, 6, 5, 6)
    by_offset: dict[tuple[int, int], list[float]] = {}
    for r, c, s, d in torch.cartesian_prod(*map(torch.arange, (5, 6, 5, 6))).tolist():
        by_offset.setdefault((s - r, d - c), []).append(scores[r, c, s, d].item())
    assert all(max(v) - min(v) < 1e-6 for v in by_offset.values())
    centres = [v[0] for v in by_offset.values()]
    assert max(centres) - min(centres) > 0.1
    # both axes matter, and they are not interchangeable
    assert abs(by_offset[1, 0][0] - by_offset[0, 1][0]) > 1e-3
    assert abs(by_offset[1, 0][0] - by_offset[-1, 0][0]) > 1e-3


def test_rotary_angle_is_the_position_at_the_first_frequency():
    rotary = RotaryPosition((2, 3), 8).double()
    unit = torch.zeros(1, 6, 1, 8, dtype=torch.float64)
    unit[..., 0] = 1  # turns with the column at frequency 1, into channel 4
    turned = rotary(unit)[0, :, 0]  # (6, 8)
    column = torch.tensor([0.0, 1, 2, 0, 1, 2], dtype=torch.float64)
    assert torch.allclose(turned[:, 0], column.cos(), atol=1e-6)
    assert torch.allclose(turned[:, 4], column.sin(), atol=1e-6)


def test_timestep_sinusoid_leaves_time_unscaled():
    wave = timestep_sinusoid(torch.tensor([0.0, 0.5], dtype=torch.float64), 256)
    assert torch.equal(wave[0], torch.cat((torch.ones(128), torch.zeros(128))).double())
    assert wave[1, 0].item() == pytest.approx(math.cos(0.5), abs=1e-12)
    assert wave[1, 128 + 64].item() == pytest.approx(math.sin(0.5 / 100), abs=1e-12)


def test_patches_are_cut_row_by_row_and_put_back():
    model = diffusion(SiT, 2, (4, 6), 3, width=16, depth=1, heads=2, patch=2)
    x = torch.arange(2 * 2 * 4 * 6.0).view(2, 2, 4, 6)
    tokens = model._to_tokens(x)  # (2, 6, 8)
    assert torch.equal(tokens[1, 4], x[1, :, 2:4, 2:4].flatten())
    assert torch.equal(model._to_latent(tokens), x)


# --- symmetries ------------------------------------------------------------------------------


@NETWORKS
def test_permuting_the_batch_permutes_the_output(network):
    model = awake(network)
    x, t, y = inputs(model, 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    out = model(x, t, y)
    assert torch.allclose(model(x[order], t[order], y[order]), out[order], atol=1e-12)
    assert torch.allclose(model(x[2:3], t[2:3], y[2:3]), out[2:3], atol=1e-12)
    assert not torch.allclose(model(x, t.flip(0), y), out)
    assert not torch.allclose(model(x, t, y.flip(0)), out)


@NETWORKS
def test_forward_mode_derivative_equals_finite_differences(network):
    model = awake(network)
    x, t, y = inputs(model)
    direction, rate = draw(tuple(x.shape), 5), draw((3,), 6)
    with forward_mode_attention():
        value, tangent = torch.func.jvp(lambda a, b: model(a, b, y), (x, t), (direction, rate))
    assert torch.allclose(value, model(x, t, y), atol=1e-12)
    h = 1e-5
    ahead = model(x + h * direction, t + h * rate, y)
    behind = model(x - h * direction, t - h * rate, y)
    assert torch.allclose(tangent, (ahead - behind) / (2 * h), atol=1e-8, rtol=1e-6)


@NETWORKS
def test_bfloat16_autocast_stays_close_to_float32(network):
    model = awake(network).float()
    x, t, y = inputs(model)
    exact = model(x.float(), t.float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(x.float(), t.float(), y)
    assert (rough.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.slow
@NETWORKS
def test_compiled_network_equals_the_eager_one(network):
    model = awake(network)
    x, t, y = inputs(model)
    compiled = torch.compile(model, fullgraph=True)
    assert torch.allclose(compiled(x, t, y), model(x, t, y), atol=1e-10)


# --- the networks and their training step, written again by hand -----------------------------


def plain_norm(x: Tensor, kind: type, eps: float, weights: tuple[Tensor, ...] = ()) -> Tensor:
    if kind is SiT:
        x = x - x.mean(-1, keepdim=True)
    x = x / ((x * x).mean(-1, keepdim=True) + eps).sqrt()
    for how, weight in zip(("times", "plus"), weights, strict=False):
        x = x * weight if how == "times" else x + weight
    return x


def plain_turn(vector: Tensor, row: int, column: int) -> Tensor:
    """Turn one head vector (d,) as complex pairs (i, i + d/2)."""
    half = len(vector) // 2
    pairs = torch.complex(vector[:half], vector[half:])
    quarter = half // 2
    rates = [10000 ** (-i / quarter) for i in range(quarter)]
    angles = [column * w for w in rates] + [row * w for w in rates]
    angles = torch.tensor(angles, dtype=torch.float64)
    pairs = pairs * torch.complex(angles.cos(), angles.sin())
    return torch.cat((pairs.real, pairs.imag))


def plain_attention(x: Tensor, w: dict[str, Tensor], kind: type) -> Tensor:
    """Attention of one image, x (N, D): loops over heads, queries and keys."""
    n, width = x.shape
    heads, dim, columns = TINY["heads"], width // TINY["heads"], TINY["grid"][1]
    qkv = x @ w["qkv.weight"].T + w["qkv.bias"]  # (N, 3 D)
    out = torch.zeros(n, width, dtype=x.dtype)
    norms = {
        k: tuple(w[f"{k}_norm.{p}"] for p in ("weight", "bias") if f"{k}_norm.{p}" in w)
        for k in ("query", "key")
    }
    eps = 1e-5 if kind is SiT else 1e-6
    for head in range(heads):
        own = slice(head * dim, (head + 1) * dim)
        q, k, v = (qkv[:, part * width : (part + 1) * width][:, own] for part in range(3))
        q, k = plain_norm(q, kind, eps, norms["query"]), plain_norm(k, kind, eps, norms["key"])
        if kind is LightningDiT:
            q = torch.stack([plain_turn(q[i], *divmod(i, columns)) for i in range(n)])
            k = torch.stack([plain_turn(k[i], *divmod(i, columns)) for i in range(n)])
        rows = []
        for i in range(n):
            score = torch.stack([(q[i] * k[j]).sum() / math.sqrt(dim) for j in range(n)]).exp()
            rows.append(sum(score[j] * v[j] for j in range(n)) / score.sum())
        out = torch.cat((out[:, : own.start], torch.stack(rows), out[:, own.stop :]), dim=1)
    return out @ w["out.weight"].T + w["out.bias"]


def plain_feed_forward(x: Tensor, w: dict[str, Tensor], kind: type) -> Tensor:
    hidden = x @ w["hidden.weight"].T + w["hidden.bias"]
    if kind is SiT:
        inner = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
        hidden = 0.5 * hidden * (1 + inner.tanh())
    else:
        gate, value = hidden[:, : hidden.shape[1] // 2], hidden[:, hidden.shape[1] // 2 :]
        hidden = gate / (1 + (-gate).exp()) * value
    return hidden @ w["out.weight"].T + w["out.bias"]


def plain_position(rows: int, columns: int, width: int) -> Tensor:
    quarter = width // 4
    table = []
    for r in range(rows):
        for c in range(columns):
            rates = [10000 ** (-i / quarter) for i in range(quarter)]
            line = [math.sin(c * a) for a in rates] + [math.cos(c * a) for a in rates]
            table.append(line + [math.sin(r * a) for a in rates] + [math.cos(r * a) for a in rates])
    return torch.tensor(table, dtype=torch.float64)


def plain_network(w: dict[str, Tensor], x: Tensor, t: float, label: int, kind: type) -> Tensor:
    """Velocity (C, H, W) of one image x (C, H, W), patch 1."""

    def below(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in w.items() if k.startswith(prefix)}

    def affine(name: str, value: Tensor) -> Tensor:
        return value @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def silu(value: Tensor) -> Tensor:
        return value / (1 + (-value).exp())

    channels, rows, columns = x.shape
    angles = [t * 10000 ** (-i / 128) for i in range(128)]
    wave = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    time = affine("time_embedding.hidden", torch.tensor(wave, dtype=torch.float64))
    c = silu(affine("time_embedding.out", silu(time)) + w["label_embedding.weight"][label])
    cells = torch.stack([x[:, r, s] for r in range(rows) for s in range(columns)])  # (N, C)
    h = affine("patch_embedding", cells) + plain_position(rows, columns, len(c))
    for b in range(TINY["depth"]):
        name = f"blocks.{b}"
        mod = affine(f"{name}.modulation", c).reshape(6, -1)
        for branch, layer, k in (
            (plain_attention, "attention", 0),
            (plain_feed_forward, "feed_forward", 3),
        ):
            gain = tuple(below(f"{name}.{layer}_norm.").values())
            normed = plain_norm(h, kind, 1e-6, gain) * (1 + mod[k + 1]) + mod[k]
            h = h + mod[k + 2] * branch(normed, below(f"{name}.{layer}."), kind)
    shift, scale = affine("final.modulation", c).reshape(2, -1)
    normed = plain_norm(h, kind, 1e-6, tuple(below("final.norm.").values()))
    out = affine("final.out", normed * (1 + scale) + shift)  # (N, C)
    return out.T.reshape(channels, rows, columns)


def plain_loss(w, x1, labels, x0, t, kind, cosine_weight) -> Tensor:
    squares, cosines = [], []
    for b in range(len(x1)):
        point = t[b] * x1[b] + (1 - t[b]) * x0[b]
        v = plain_network(w, point, t[b].item(), labels[b].item(), kind)
        target = x1[b] - x0[b]
        squares += ((v - target) ** 2).flatten().unbind()
        for r in range(v.shape[1]):
            for c in range(v.shape[2]):
                a, b_ = v[:, r, c], target[:, r, c]
                cosines.append((a * b_).sum() / (a.square().sum() * b_.square().sum()).sqrt())
    mse = sum(squares) / len(squares)
    return mse + cosine_weight * (1 - sum(cosines) / len(cosines))


@pytest.mark.parametrize(
    ("network", "cosine_weight", "betas", "lr"),
    [(SiT, 0.0, (0.9, 0.999), 1e-4), (LightningDiT, 1.0, (0.9, 0.95), 2e-4)],
)
def test_a_training_step_equals_its_restatement_by_hand(network, cosine_weight, betas, lr):
    model = awake(network)
    model.position.copy_(plain_position(*model.tokens, 16))  # tables are rounded to float32
    if model.rotary is not None:
        model.rotary = exact_rotary(model.rotary)
    x1, t, y = inputs(model, 2)
    x0 = draw(tuple(x1.shape), 9)
    plain = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    old = copy.deepcopy({k: v.detach() for k, v in plain.items()})

    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=betas, weight_decay=0)
    loss = flow_matching_loss(model, x1, y, x0, t, cosine_weight)["total"]
    loss.backward()
    optimiser.step()

    again = plain_loss(plain, x1, y, x0, t, network, cosine_weight)
    again.backward()
    assert loss.item() == pytest.approx(again.item(), rel=1e-12)
    for name, weight in model.named_parameters():
        gradient = plain[name].grad
        assert torch.allclose(weight.grad, gradient, rtol=1e-10, atol=1e-14), name
        # first step of AdamW: both moments, corrected for their start at zero
        first = (1 - betas[0]) * gradient / (1 - betas[0])
        second = (1 - betas[1]) * gradient**2 / (1 - betas[1])
        expected = old[name] - lr * first / (second.sqrt() + 1e-8)
        assert torch.allclose(weight, expected, rtol=0, atol=1e-9), name


def exact_rotary(rotary: RotaryPosition) -> nn.Module:
    """Return the rotary position with its tables in full float64."""
    exact = RotaryPosition.__new__(RotaryPosition)
    nn.Module.__init__(exact)
    exact.grid, exact.head_dim = rotary.grid, rotary.head_dim
    exact.register_buffer("cos", rotary.cos.double().clone())
    exact.register_buffer("sin", rotary.sin.double().clone())
    exact.fill()
    return exact
