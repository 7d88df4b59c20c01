"""The U-Net: sizes, symmetries, derivatives, and a re-statement of an EDM training step by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diffusability.diffusion.edm import denoising_loss
from diffusability.diffusion.latent_diffusion import LatentDenoiser
from diffusability.diffusion.unet import LatentUNet, UNetBlock
from diffusability.errors import StudyError
from diffusability.nn.attention import forward_mode_attention
from tests.unit.awake_network import draw, woken
from tests.unit.networks import diffusion

TINY = {
    **{"latent_channels": 3, "grid": (4, 4), "num_classes": 5, "width": 8, "multipliers": (1, 2)},
    **{"blocks": 1, "attention": (4,), "heads": 2},
}


def awake(**changes) -> LatentUNet:
    """Return a float64 network none of whose weights is zero, as after training."""
    return woken(diffusion(LatentUNet, **TINY | changes))


def inputs(model: LatentUNet, n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    x = draw((n, model.latent_channels, *model.grid), 1)
    condition = torch.linspace(-1.5, 1.1, n, dtype=torch.float64)
    return x, condition, torch.arange(n) % (model.num_classes + 1)


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("multipliers", "side", "published"), [((1, 2, 2, 2), 64, 61.8e6), ((2, 2, 2), 32, 55.7e6)]
)
def test_size_is_the_published_one_but_for_what_differs(multipliers, side, published):
    options = {"width": 128, "multipliers": multipliers}
    model = diffusion(LatentUNet, 3, (side, side), 0, seed=None, **options)
    ours = sum(p.numel() for p in model.parameters())
    # EDM adds the noise embedding (one number a channel) where this network scales and shifts
    # (two); it has no label table, and takes nine numbers on augmentation
    scales = sum(m.modulation.weight[: len(m.modulation.bias) // 2].numel() for m in blocks(model))
    biases = sum(len(m.modulation.bias) // 2 for m in blocks(model))
    theirs = ours - scales - biases - model.label_embedding.weight.numel() + 9 * 128
    assert round(theirs, -5) == published


def blocks(model: LatentUNet) -> list[UNetBlock]:
    return [module for module in model.modules() if isinstance(module, UNetBlock)]


@pytest.mark.parametrize(
    ("grid", "multipliers", "attention"),
    [
        ((4, 4), (1, 1, 2), (4, 1)),
        ((8, 8), (1, 2, 2), (4,)),
        ((4, 8), (1, 2), ()),
        ((6, 6), (1, 3), (3,)),
        ((1, 1), (1,), (1,)),
    ],
)
def test_any_grid_that_halves(grid, multipliers, attention):
    model = awake(grid=grid, multipliers=multipliers, attention=attention, blocks=2)
    x, t, y = inputs(model)
    assert model(x, t, y).shape == x.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"grid": (6, 4), "multipliers": (1, 1, 1)},
            "need 2 halvings, too many for the 6 x 6 latent grid",
        ),
        ({"attention": (3,)}, "3 is the side of no resolution \\(4, 2\\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(StudyError, match=message):
        diffusion(LatentUNet, **TINY | changes)


# --- initial weights -------------------------------------------------------------------------


def test_it_starts_at_zero_so_that_the_denoiser_starts_as_that_of_a_normal():
    network = diffusion(LatentUNet, **TINY).double()
    x, t, y = inputs(network)
    assert torch.count_nonzero(network(x, t, y)) == 0
    model = LatentDenoiser(network, sigma_data=0.7)
    sigma = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    skip = 0.49 / (sigma**2 + 0.49)  # c_skip
    torch.testing.assert_close(model(x, sigma, y), skip[:, None, None, None] * x)
    assert torch.count_nonzero(awake()(x, t, y)) > 0


def test_weights_depend_on_the_generator_alone():
    before = torch.get_rng_state()
    first = diffusion(LatentUNet, **TINY, seed=7)
    torch.rand(5)
    second = diffusion(LatentUNet, **TINY, seed=None)
    torch.set_rng_state(before)
    second.initialise(torch.Generator().manual_seed(7))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(first.start.weight, diffusion(LatentUNet, **TINY).start.weight)


def test_kernels_are_drawn_for_unit_gain():
    options = {"width": 64, "multipliers": (1,), "blocks": 1, "attention": ()}
    model = diffusion(LatentUNet, 3, (4, 4), 5, **options)
    weight = model.down[0].conv1.weight  # (64, 64, 3, 3)
    limit = math.sqrt(6 / (9 * 128))
    assert weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.01)


# --- symmetries and derivatives --------------------------------------------------------------


def test_permuting_the_batch_permutes_the_output():
    model = awake()
    order = torch.tensor([3, 0, 4, 1, 2])
    x, t, y = inputs(model, 5)
    out = model(x, t, y)
    assert torch.allclose(model(x[order], t[order], y[order]), out[order], atol=1e-12)
    assert torch.allclose(model(x[2:3], t[2:3], y[2:3]), out[2:3], atol=1e-12)
    assert not torch.allclose(model(x, t.flip(0), y), out)
    assert not torch.allclose(model(x, t, y.flip(0)), out)


def test_forward_mode_derivative_equals_finite_differences():
    model = awake()
    x, t, y = inputs(model)
    direction, rate = draw(tuple(x.shape), 5), draw((3,), 6)
    with forward_mode_attention():
        value, tangent = torch.func.jvp(lambda a, b: model(a, b, y), (x, t), (direction, rate))
    assert torch.allclose(value, model(x, t, y), atol=1e-12)
    h = 1e-5
    ahead = model(x + h * direction, t + h * rate, y)
    behind = model(x - h * direction, t - h * rate, y)
    assert torch.allclose(tangent, (ahead - behind) / (2 * h), atol=1e-8, rtol=1e-6)


def test_bfloat16_autocast_stays_close_to_float32():
    model = awake().float()
    x, t, y = inputs(model)
    exact = model(x.float(), t.float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(x.float(), t.float(), y)
    assert (rough.float() - exact).norm() < 0.03 * exact.norm()


# --- the network and its training step, written again by hand --------------------------------


def plain_norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """Group norm of one image (C, h, w), group by group; four channels a group."""
    channels = len(x)
    groups = max(1, channels // 4)
    out = []
    for part in x.chunk(groups):
        out += list((part - part.mean()) / (part.var(correction=0) + 1e-6).sqrt())
    scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
    return torch.stack([out[c] * scale[c] + shift[c] for c in range(channels)])


def plain_conv(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """Convolution of one image as a sum over the places of the kernel."""
    kernel, reach = w[f"{name}.weight"], w[f"{name}.weight"].shape[2] // 2
    _, height, width = x.shape
    framed = functional.pad(x, (reach,) * 4)
    out = w[f"{name}.bias"][:, None, None].expand(-1, height, width)
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            seen = framed[:, row : row + height, column : column + width]
            out = out + torch.einsum("oi,ihw->ohw", kernel[:, :, row, column], seen)
    return out


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def plain_attention(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    channels, height, width = x.shape
    cells = plain_norm(x, w, f"{name}.norm").reshape(channels, -1).T  # (N, C)
    qkv = cells @ w[f"{name}.attention.qkv.weight"].T + w[f"{name}.attention.qkv.bias"]
    query, key, value = qkv.split(channels, dim=1)
    heads, out = [], TINY["heads"]
    for part in torch.arange(channels).chunk(out):
        scores = (query[:, part] @ key[:, part].T / math.sqrt(len(part))).exp()
        heads.append(scores / scores.sum(1, keepdim=True) @ value[:, part])
    mixed = torch.cat(heads, 1) @ w[f"{name}.attention.out.weight"].T
    mixed = mixed + w[f"{name}.attention.out.bias"]
    return (x + mixed.T.reshape(channels, height, width)) / math.sqrt(2)


def plain_block(
    x: Tensor, condition: Tensor, w: dict[str, Tensor], name: str, moved: str = ""
) -> Tensor:
    def move(a: Tensor) -> Tensor:
        if moved == "down":
            return (a[:, ::2, ::2] + a[:, 1::2, ::2] + a[:, ::2, 1::2] + a[:, 1::2, 1::2]) / 4
        return a.repeat_interleave(2, 1).repeat_interleave(2, 2) if moved == "up" else a

    hidden = plain_conv(move(silu(plain_norm(x, w, f"{name}.norm1"))), w, f"{name}.conv1")
    modulation = w[f"{name}.modulation.weight"] @ condition + w[f"{name}.modulation.bias"]
    scale, shift = modulation[:, None, None].chunk(2)
    hidden = silu(plain_norm(hidden, w, f"{name}.norm2") * (1 + scale) + shift)
    x = move(x)
    if f"{name}.skip.weight" in w:
        x = plain_conv(x, w, f"{name}.skip")
    x = (x + plain_conv(hidden, w, f"{name}.conv2")) / math.sqrt(2)
    return plain_attention(x, w, f"{name}.mix") if f"{name}.mix.norm.weight" in w else x


def plain_network(w: dict[str, Tensor], x: Tensor, level: float, label: int) -> Tensor:
    """The tiny network, one image: two resolutions of one block, attention on the finer."""
    angles = torch.tensor([level * 10000 ** (-i / 4) for i in range(4)], dtype=torch.float64)
    wave = torch.cat((angles.cos(), angles.sin()))
    hidden = silu(w["time_embedding.hidden.weight"] @ wave + w["time_embedding.hidden.bias"])
    time = w["time_embedding.out.weight"] @ hidden + w["time_embedding.out.bias"]
    c = silu(time + w["label_embedding.weight"][label])
    start = plain_conv(x, w, "start")
    first = plain_block(start, c, w, "down.0")
    halved = plain_block(first, c, w, "down.1", "down")
    second = plain_block(halved, c, w, "down.2")
    h = plain_block(plain_block(second, c, w, "middle.0"), c, w, "middle.1")
    h = plain_block(torch.cat((h, second)), c, w, "up.0")
    h = plain_block(torch.cat((h, halved)), c, w, "up.1")
    h = plain_block(h, c, w, "up.2", "up")
    h = plain_block(torch.cat((h, first)), c, w, "up.3")
    h = plain_block(torch.cat((h, start)), c, w, "up.4")
    return plain_conv(silu(plain_norm(h, w, "norm")), w, "out")


def test_an_edm_training_step_equals_its_restatement_by_hand():
    network, lr, scale = awake(), 2e-4, 0.8
    x, _, y = inputs(network, 2)
    noise, sigma = draw(tuple(x.shape), 9), torch.tensor([0.3, 4.0], dtype=torch.float64)
    plain = {k: v.detach().clone().requires_grad_() for k, v in network.named_parameters()}
    old = {k: v.detach().clone() for k, v in network.named_parameters()}

    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0)
    loss = denoising_loss(LatentDenoiser(network, scale), x, sigma, noise, scale, y)
    loss.backward()
    optimiser.step()

    squares = []
    for b, s in enumerate(sigma.tolist()):
        point = x[b] + s * noise[b]
        total = s**2 + scale**2
        inner = plain_network(plain, point / math.sqrt(total), math.log(s) / 4, int(y[b]))
        denoised = scale**2 / total * point + s * scale / math.sqrt(total) * inner
        squares += (total / (s * scale) ** 2 * (denoised - x[b]) ** 2).flatten().unbind()
    again = sum(squares) / len(squares)
    again.backward()
    assert loss.item() == pytest.approx(again.item(), rel=1e-12)
    for name, weight in network.named_parameters():
        gradient = plain[name].grad
        assert torch.allclose(weight.grad, gradient, rtol=1e-9, atol=1e-13), name
        assert torch.count_nonzero(gradient), name
        expected = old[name] - lr * gradient / (gradient.abs() + 1e-8)  # first step of AdamW
        assert torch.allclose(weight, expected, rtol=0, atol=1e-9), name
