"""Encoders of `arch: vit`: what a token sees, their losses restated, and what a token knows."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from diffusability.data.digits import load_digits
from diffusability.data.images import ImageSet
from diffusability.encoders.contrastive import ContrastiveLoss, ContrastiveNetwork, dense_nt_xent
from diffusability.encoders.held_out import entropy_rank, held_out_numbers, token_numbers
from diffusability.encoders.masked import (
    ROUNDING,
    MaskedLoss,
    MaskedVit,
    hidden_cells,
    normalised_cells,
    pixels_of,
)
from diffusability.encoders.pretext import ClassificationLoss
from diffusability.encoders.vit import VitEncoder
from diffusability.nn.layers import SwiGLU
from diffusability.nn.transformer import Transformer
from diffusability.study.core.spec import TrainSpec
from diffusability.study.entries.pixel_dataset import DigitsDataset
from diffusability.training.images import TrainingImages
from diffusability.training.loop import train
from diffusability.training.run import Batch, Losses, Phase, Run
from tests.unit import networks

SMALL = {"arch": "vit", "width": 32, "features": 16, "factor": 4, "depth": 2}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vit(classes: int = 0, size: int = 16, **options: object) -> VitEncoder:
    """A small encoder with seeded weights."""
    spec = networks.encoder_spec("supervised", **SMALL | options)
    return VitEncoder(spec, 1, size, classes).initialise(seeded())


def images(count: int = 4, size: int = 16) -> Tensor:
    return torch.rand(count, 1, size, size, generator=seeded(1)) * 2 - 1


def test_shapes_and_pooling() -> None:
    model = vit(classes=10)
    grid = model.grid(images())
    assert grid.shape == (4, 16, 4, 4)
    torch.testing.assert_close(model.features(images()), grid.mean((2, 3)))
    torch.testing.assert_close(model(images()), model.head(grid.mean((2, 3))))
    assert model.grid(torch.zeros(1, 1, 16, 8)).shape == (1, 16, 4, 2)


def test_every_token_sees_the_whole_image() -> None:
    shown = images(1).requires_grad_()
    vit().grid(shown)[0, :, 0, 0].square().sum().backward()
    assert (shown.grad.abs() > 0).all()


def test_the_blocks_are_those_of_torch() -> None:
    # torch's own encoder layer, given the same weights; its norm and feed-forward are replaced
    width, heads = 32, 4
    ours = Transformer(width, 1, heads, 4)
    nn.init.normal_(ours.positions.table, generator=seeded())
    block = ours.blocks[0]
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, batch_first=True)
    layer.self_attn.in_proj_weight.data.copy_(block.attention.qkv.weight)
    layer.self_attn.in_proj_bias.data.copy_(block.attention.qkv.bias)
    layer.self_attn.out_proj.load_state_dict(block.attention.out.state_dict())
    x = torch.randn(2, 16, width, generator=seeded(2))
    no_rotation = block(x, lambda heads: heads)
    normed = block.norm1(x)
    restated = x + layer.self_attn(normed, normed, normed, need_weights=False)[0]
    assert isinstance(block.mlp, SwiGLU)
    gate, value = block.mlp.hidden(block.norm2(restated)).chunk(2, dim=2)
    restated = restated + block.mlp.out(gate * gate.sigmoid() * value)
    torch.testing.assert_close(no_rotation, restated, rtol=1e-5, atol=1e-5)


def test_patches_that_are_left_out_do_not_change_the_others_positions() -> None:
    model = vit()
    everything = torch.arange(16).expand(4, 16)
    torch.testing.assert_close(model.tokens(images(), everything), model.tokens(images()))
    # in any order: a position belongs to its patch
    order = torch.randperm(16, generator=seeded())
    shuffled = model.tokens(images(), everything[:, order])
    torch.testing.assert_close(shuffled, model.tokens(images())[:, order])


def test_the_contrast_of_tokens_against_a_loop() -> None:
    count, cells, tau = 3, 5, 0.3
    tokens = torch.randn(2 * count, cells, 4, generator=seeded(), dtype=torch.float64)
    projected = torch.randn(2 * count, cells, 6, generator=seeded(1), dtype=torch.float64)

    def unit(vector: Tensor) -> Tensor:
        return vector / vector.norm()

    losses = []
    for image in range(2 * count):
        other = (image + count) % (2 * count)  # the same image in the other view
        view = range(count) if other < count else range(count, 2 * count)
        for token in range(cells):
            near = [float(unit(tokens[image, token]) @ unit(t)) for t in tokens[other]]
            mine = unit(projected[image, token])
            partner = projected[other, near.index(max(near))]
            positive = math.exp(float(mine @ unit(partner)) / tau)
            negative = 0.0
            for k in view:
                if k != other:
                    mean = sum(unit(p) for p in projected[k]) / cells
                    negative += math.exp(float(mine @ unit(mean)) / tau)
            losses.append(-math.log(positive / (positive + negative)))
    expected = sum(losses) / len(losses)
    assert dense_nt_xent(tokens, projected, tau).item() == pytest.approx(expected, rel=1e-12)
    same = torch.ones(8, 3, 2)
    assert dense_nt_xent(same, same, tau).item() == pytest.approx(math.log(4), rel=1e-6)


def test_the_share_of_the_tokens_contrast() -> None:
    def loss(**options: object) -> tuple[float, dict[str, Tensor]]:
        spec = networks.encoder_spec("contrastive", **SMALL | options)
        model = ContrastiveNetwork(spec, VitEncoder(spec, 1, 16, 0)).initialise(seeded())
        batch = Batch(0, torch.arange(4), seeded())
        found = ContrastiveLoss(spec, model, lambda batch: images())(batch)
        return found.total.item(), dict(found.terms)

    total, terms = loss()  # half of it by default
    dense, whole = loss(dense=1.0)[0], loss(dense=0.0)[0]
    assert terms["dense"].item() == pytest.approx(dense)
    assert total == pytest.approx((whole + dense) / 2)
    assert networks.encoder_spec("contrastive").dense_share == 0  # of a convnet


def test_masked_targets_restated() -> None:
    shown, factor = images(), 4
    target = normalised_cells(shown, factor)
    for row in range(4):
        for column in range(4):
            cell = (slice(None), 0, slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
            pixels = shown[cell].flatten(1)
            scale = (pixels.var(1, correction=1, keepdim=True) + ROUNDING).sqrt()
            expected = (pixels - pixels.mean(1, keepdim=True)) / scale
            torch.testing.assert_close(target[cell].flatten(1), expected)
    assert not normalised_cells(torch.ones(1, 1, 8, 8), 4).any()  # an empty cell has no pattern


def test_the_masked_loss_is_of_hidden_normalised_cells_and_sees_none_of_them() -> None:
    spec = networks.encoder_spec("masked", ratio=0.75, **SMALL)
    model = MaskedVit(spec, VitEncoder(spec, 1, 16, 0), 1).initialise(seeded())
    shown, cells = images(), hidden_cells(4, (4, 4), 0.75, seeded(3))
    hidden = pixels_of(cells, shown)[:, None]
    predicted = model(shown, cells)
    assert predicted.shape == shown.shape
    torch.testing.assert_close(model(torch.where(hidden, -shown, shown), cells), predicted)
    assert not torch.allclose(model(torch.where(hidden, shown, -shown), cells), predicted)
    found = MaskedLoss(spec, model, lambda batch: shown)(Batch(0, torch.arange(4), seeded(3)))
    expected = (predicted - normalised_cells(shown, 4))[hidden].square().mean()
    torch.testing.assert_close(found.total, expected)
    found.total.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("supervised", {"depth": 2}, "option of `arch: vit`"),
        ("supervised", {"arch": "vit", "width": 40}, "multiple of 4 x heads"),
        ("masked", {"arch": "vit", "factor": 1}, "factor of 2 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    kind: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        networks.encoder_spec(kind, **options)


def test_a_convnet_keeps_the_options_that_it_is_fingerprinted_by() -> None:
    for kind, own in (("supervised", set()), ("contrastive", {"projection", "temperature"})):
        named = set(networks.encoder_spec(kind).canonical())
        assert named == {"kind", "width", "features", "factor", "seed", "train"} | own
    assert {"arch", "depth"} <= set(networks.encoder_spec("masked", **SMALL).canonical())


def test_entropy_rank_of_known_covariances() -> None:
    draws = torch.randn(20_000, 6, generator=seeded(), dtype=torch.float64)
    assert entropy_rank(draws) == pytest.approx(6, rel=1e-3)
    assert entropy_rank(draws[:, :1] @ torch.ones(1, 6, dtype=torch.float64)) == pytest.approx(1)


def test_tokens_that_hold_the_label_are_probed_exactly() -> None:
    data = load_digits(DigitsDataset(kind="digits", size=8))
    labels = {
        bytes(i.numpy().tobytes()): int(y) for i, y in zip(data.images, data.labels, strict=True)
    }

    class Oracle(VitEncoder):
        """Knows the label in the left half of the grid alone, where it is one-hot."""

        def __init__(self) -> None:
            nn.Module.__init__(self)

        def grid(self, shown: Tensor) -> Tensor:
            pixels = ((shown + 1) * 127.5).round().to(torch.uint8)
            names = torch.tensor([labels[bytes(i.numpy().tobytes())] for i in pixels])
            grid = torch.zeros(len(shown), 10, 2, 2)
            grid[:, :, :, 0] = torch.eye(10)[names][:, :, None]
            return grid

    numbers = token_numbers(Oracle(), data, seeded())
    assert numbers["probe_mean"] == 1
    assert numbers["probe_token"] == pytest.approx(0.5 + 0.5 * 0.1, abs=0.02)  # half by chance
    assert numbers["probe_mean_stderr"] == 0


@pytest.mark.parametrize(
    ("labels", "held_out", "expected"),
    [
        ([0] * 8, 4, {"token_rank", "validation_loss"}),
        ([0] * 8, 0, {"token_rank"}),
        ([0, 1] * 4, 0, {"token_rank"}),
        ([0, 0, 0, 0, 0, 1, 0, 1], 4, {"token_rank", "validation_loss"}),
    ],
)
def test_one_class_has_no_accuracy_and_no_validation_no_held_out_numbers(
    labels: list[int], held_out: int, expected: set[str]
) -> None:
    validation = torch.arange(8) >= 8 - held_out
    pixels = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=seeded())
    data = ImageSet(pixels, torch.tensor(labels), torch.zeros(8, 16, 16), validation, 2)

    def loss_on(asked: Tensor) -> Callable[[Batch], Losses]:
        return lambda batch: Losses(torch.tensor(float(len(asked))))

    found = token_numbers(vit(), data, seeded())
    found |= held_out_numbers(vit(), data, loss_on, "loss", 2, seeded())
    assert set(found) == expected
    assert found["token_rank"] > 1


@pytest.mark.release
def test_training_makes_single_tokens_know_their_class(tmp_path: Path) -> None:
    data = load_digits(DigitsDataset(kind="digits", size=16))
    chosen = data.split("train")
    model = vit(classes=10)
    before = token_numbers(model, data, seeded())
    loss = ClassificationLoss(model, TrainingImages(data, chosen, "cpu", 0), data.labels[chosen])
    spec = TrainSpec(steps=150, batch=64, lr=3e-3, schedule="cosine", warmup=10, clip=1.0)
    train(
        Run(
            "toy",
            spec,
            {"encoder": model},
            [Phase("cross_entropy", list(model.parameters()), loss)],
            len(chosen),
            0,
            tmp_path,
        )
    )
    after = token_numbers(model, data, seeded())
    assert after["probe_mean"] > 0.8
    assert after["probe_token"] > before["probe_token"] + 0.3
