"""Eq. 12: reductions, adaptive weights, perceptual distances, and one full training step."""

import sys
import types

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from diffusability.errors import ArtifactError, StudyError
from diffusability.tokenizers.conv import ConvAutoencoder
from diffusability.tokenizers.objective import adaptive_weight
from diffusability.tokenizers.perceptual import FeaturePerceptual, LpipsPerceptual
from diffusability.tokenizers.posterior import Posterior
from diffusability.tokenizers.training_step import TokenizerLosses
from tests.unit.networks import conv, objective, regularizer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=seeded(seed), dtype=torch.float64) * 2 - 1


def tiny() -> ConvAutoencoder:
    return conv(1, 3, 8, (1, 2), 1, 1).initialise(seeded()).double()


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


# adaptive weight


def test_adaptive_weight_by_hand():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    reference = (weight * torch.tensor([6.0, 8.0])).sum()  # gradient norm 10
    loss = (weight * torch.tensor([0.0, 2.0])).sum()  # gradient norm 2
    found = adaptive_weight(reference, loss, weight, 1e4)
    assert found.item() == pytest.approx(10 / (2 + 1e-4), rel=1e-6)
    assert not found.requires_grad
    (reference + loss).backward()  # the graph is still there
    assert weight.grad.tolist() == [6.0, 10.0]


def test_adaptive_weight_is_clamped_and_survives_a_vanishing_loss():
    weight = torch.tensor([1.0], requires_grad=True)
    assert adaptive_weight(5 * weight.sum(), 1e-3 * weight.sum(), weight, 7.0).item() == 7.0
    vanishing = functional.relu(weight - 2).sum()
    assert adaptive_weight(weight.sum(), vanishing, weight, 1e8).item() == pytest.approx(1e4)
    assert adaptive_weight(vanishing, weight.sum(), weight, 1e8).item() == 0.0


# reductions


def test_reductions_by_hand():
    target, found = uniform(2, 3, 4, 5), uniform(2, 3, 4, 5, seed=1)
    distances = torch.tensor([0.25, 0.75], dtype=torch.float64)
    absolute = sum((target[b] - found[b]).abs().sum() for b in range(2)) / 2  # per image
    total, terms = objective(l1=2.0, perceptual=3.0).reconstruction(
        target, found, lambda a, b: distances
    )
    assert terms["l1"].item() == pytest.approx(absolute.item())
    assert terms["perceptual"].item() == pytest.approx(0.5 * 60)
    assert total.item() == pytest.approx(2 * absolute.item() + 3 * 30)
    mean, _ = objective(l1=2.0, perceptual=3.0, reduction="mean").reconstruction(
        target, found, lambda a, b: distances
    )
    assert mean.item() == pytest.approx(total.item() / 60)


def test_kl_is_summed_over_the_latent_and_averaged_over_the_batch():
    posterior = Posterior(torch.ones(2, 3, 4, 4).double(), torch.zeros(2, 3, 4, 4).double())
    target = uniform(2, 1, 8, 8)
    total, terms = objective(kl=1e-2).divergence(posterior.kl(), target, 0)
    assert terms["kl"].item() == 24.0
    assert total.item() == pytest.approx(0.24)
    total, _ = objective(kl=1e-2, reduction="mean").divergence(posterior.kl(), target, 0)
    assert total.item() == pytest.approx(0.24 / 64)


def test_squared_error_is_summed_over_the_image():
    target, found = uniform(2, 3, 4, 5), uniform(2, 3, 4, 5, seed=1)
    squares = (target - found).square().sum().item() / 2  # per image
    total, terms = objective(l1=0, mse=2.0, perceptual=0).reconstruction(target, found, None)
    assert list(terms) == ["mse"]
    assert terms["mse"].item() == pytest.approx(squares)
    assert total.item() == pytest.approx(2 * squares)


def test_kl_weight_grows_over_its_warm_up():
    annealed = objective(kl=0.5, kl_warmup=4)
    weights = [annealed.kl_weight(step) for step in (0, 1, 3, 4, 99)]
    assert weights == [0.125, 0.25, 0.5, 0.5, 0.5]
    assert objective(kl=0.5).kl_weight(0) == 0.5
    target = uniform(2, 1, 8, 8)
    total, terms = annealed.divergence(torch.full((2,), 8.0).double(), target, 0)
    assert (terms["kl"].item(), total.item()) == (8.0, 1.0)


def test_terms_of_weight_zero_are_not_computed():
    def never(*arguments: torch.Tensor) -> torch.Tensor:
        raise AssertionError("computed")

    target = uniform(2, 1, 8, 8)
    _, terms = objective(perceptual=0).reconstruction(target, -target, never)
    assert list(terms) == ["l1"]
    posterior = Posterior(target, target)
    assert objective(kl=0).divergence(posterior.kl(), target, 0)[1] == {}
    distance = lambda a, b: (a - b).square().mean((1, 2, 3))  # noqa: E731
    assert list(objective(l1=0).reconstruction(target, -target, distance)[1]) == ["perceptual"]


def test_objectives_that_cannot_work_are_refused():
    with pytest.raises(ValidationError, match="nothing is reconstructed"):
        objective(l1=0, perceptual=0)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        objective(kl=-1.0)
    with pytest.raises(StudyError, match="gan has weight"):
        TokenizerLosses(tiny(), objective(perceptual=0), regularizer())
    with pytest.raises(StudyError, match="perceptual has weight"):
        TokenizerLosses(tiny(), objective(gan=0), regularizer())


# perceptual distances


def test_feature_distance_by_hand():
    def features(images: torch.Tensor) -> list[torch.Tensor]:
        return [images, images[:, :, :1, :1]]

    target = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).view(2, 2, 1, 1)
    found = torch.tensor([[6.0, 8.0], [0.0, 5.0]]).view(2, 2, 1, 1)
    # parallel vectors: 0; orthogonal ones: 2
    torch.testing.assert_close(FeaturePerceptual(features)(target, found), torch.tensor([0.0, 2.0]))


def test_feature_distance_averages_positions_and_layers():
    def features(images: torch.Tensor) -> list[torch.Tensor]:
        return [images, torch.ones_like(images)]

    target = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    found = target.clone()
    found[0, :, 0, 0] = torch.tensor([0.0, 1.0])  # one position of four is orthogonal
    assert FeaturePerceptual(features)(target, found).item() == pytest.approx(2 / 4 / 2)


def test_feature_network_is_frozen_and_passes_gradients_to_the_reconstruction():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    distance = FeaturePerceptual(lambda images: [network(images)])
    assert network.training  # a bare function is left alone

    class Extractor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [self.network(images)]

    distance = FeaturePerceptual(Extractor())
    assert not network.training
    target = uniform(2, 1, 8, 8).float().requires_grad_()
    found = uniform(2, 1, 8, 8, seed=1).float().requires_grad_()
    distance(target, found).sum().backward()
    assert found.grad.abs().sum() > 0
    assert target.grad is None
    assert gradients(network) == []


def test_lpips_says_what_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "vgg.pth"
    with pytest.raises(ArtifactError, match=r"no VGG-16 weights at .*vgg\.pth"):
        LpipsPerceptual.from_vgg(path)
    torch.save({}, path)
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(StudyError, match="`paper` extra"):
        LpipsPerceptual.from_vgg(path)


def test_lpips_loads_its_trunk_from_the_file_and_repeats_grey(tmp_path, monkeypatch):
    class Stand(nn.Module):  # the structure of the package's network, one layer deep
        def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
            super().__init__()
            self.net = nn.Module()
            self.net.slice1 = nn.Sequential()
            self.net.slice1.add_module("0", nn.Conv2d(3, 2, 1))

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            features = [self.net.slice1(images) for images in (a, b)]
            return (features[0] - features[1]).square().mean((1, 2, 3), keepdim=True)

    package = types.ModuleType("lpips")
    package.LPIPS = Stand
    monkeypatch.setitem(sys.modules, "lpips", package)
    path = tmp_path / "vgg.pth"
    torch.save({"features.0.weight": torch.ones(2, 3, 1, 1)}, path)
    with pytest.raises(ArtifactError, match=r"lacks features\.0\.bias"):
        LpipsPerceptual.from_vgg(path)
    weights = {"features.0.weight": torch.ones(2, 3, 1, 1), "features.0.bias": torch.zeros(2)}
    torch.save(weights, path)
    state = torch.get_rng_state()
    distance = LpipsPerceptual.from_vgg(path)
    assert torch.equal(state, torch.get_rng_state())
    target = torch.zeros(2, 1, 4, 4)
    found = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 2.0)])
    assert distance(target, found).tolist() == [0.0, 36.0]  # three equal channels: (3 * 2)²
