"""One training step of a tokenizer: a full re-statement, and the isolation of its two phases."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from diffusability.errors import TrainingError
from diffusability.study.entries.regularizer import Baseline
from diffusability.tokenizers.conv import ConvAutoencoder
from diffusability.tokenizers.discriminator import PatchDiscriminator
from diffusability.tokenizers.perceptual import FeaturePerceptual
from diffusability.tokenizers.regularizers.alignment import VisionAlignment
from diffusability.tokenizers.regularizers.interface import Penalty, Regularizer
from diffusability.tokenizers.training_step import TokenizerLosses
from tests.unit.networks import conv, discriminator, objective, regularizer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=seeded(seed), dtype=torch.float64) * 2 - 1


def tiny() -> ConvAutoencoder:
    return conv(1, 3, 8, (1, 2), 1, 1).initialise(seeded()).double()


def judge(layers: int = 1) -> PatchDiscriminator:
    return discriminator(1, 4, layers).initialise(seeded(1)).double()


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def weights(module: nn.Module) -> list[nn.Parameter]:
    """All but biases: some of those have no gradient by symmetry (attention keys, last score)."""
    return [p for name, p in module.named_parameters() if name.endswith("weight")]


def perceptual() -> FeaturePerceptual:
    kernel = uniform(4, 1, 3, 3, seed=5)
    return FeaturePerceptual(lambda images: [functional.conv2d(images, kernel)])


def aligned(weight: float = 0.1) -> VisionAlignment:
    made = regularizer("mcos+mdms", 3, 6, weight=weight)
    return made.initialise(seeded(2)).double()


def restated_step(network, discriminator, projection, images, features):
    """Eq. 12 with alignment, written out; returns the total and its factors."""
    noise = torch.randn(2, 3, 4, 4, generator=seeded(9), dtype=torch.float64)
    moments = network.to_moments(network.encoder_out(network.encoder(images)))
    mean, logvar = moments[:, :3], moments[:, 3:].clamp(-30, 20)
    latents = mean + torch.exp(logvar / 2) * noise
    found = network.decoder_out(network.decoder(network.from_latent(latents)))
    kernel = uniform(4, 1, 3, 3, seed=5)
    one, two = functional.conv2d(images, kernel), functional.conv2d(found, kernel)
    one, two = one / one.norm(dim=1, keepdim=True), two / two.norm(dim=1, keepdim=True)
    distance = ((one - two) ** 2).sum(1).mean((1, 2))  # (B,)
    pixelwise = (images - found).abs() + 1.0 * distance[:, None, None, None]
    reference = pixelwise.sum() / 2
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / 2
    gan = -discriminator(found).mean()
    projected = torch.einsum("dc,bchw->bdhw", projection, latents)
    cosine, distances = 0.0, 0.0
    for b in range(2):
        z = [projected[b, :, i // 4, i % 4] for i in range(16)]
        f = [features[b, :, i // 4, i % 4] for i in range(16)]
        cos = lambda u, v: (u @ v) / (u.norm() * v.norm())  # noqa: E731
        for i in range(16):
            cosine = cosine + torch.relu(0.5 - cos(z[i], f[i])) / 32
            for j in range(16):
                gap = (cos(z[i], z[j]) - cos(f[i], f[j])).abs()
                distances = distances + torch.relu(gap - 0.25) / 512
    alignment = cosine + distances

    def norm(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, weight, retain_graph=True)[0].norm()

    last = network.decoder_out.weight
    gan_factor = (norm(reference, last) / (norm(gan, last) + 1e-4)).detach()
    first = network.encoder_out.weight
    factor = (norm(reference, first) / (norm(alignment, first) + 1e-4)).detach()
    total = reference + 0.5 * gan_factor * gan + 1e-6 * kl + 0.1 * factor * alignment
    return total, gan_factor, factor


def test_one_full_step_equals_its_restatement():
    images, features = uniform(2, 1, 8, 8), uniform(2, 6, 4, 4, seed=3)
    network, discriminator, alignment = tiny(), judge(), aligned()
    losses = TokenizerLosses(
        network, objective(gan_start=0), alignment, discriminator, perceptual()
    )
    found = losses.autoencoder_loss(images, features, 0, seeded(9))
    found.total.backward()
    own = gradients(network) + gradients(alignment)
    for module in (network, alignment):
        module.zero_grad()
    projection = alignment.projection.weight[:, :, 0, 0]
    total, gan_factor, factor = restated_step(network, discriminator, projection, images, features)
    total.backward()
    torch.testing.assert_close(found.total, total, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.terms["gan_factor"], gan_factor, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.terms["mcos+mdms_factor"], factor, rtol=1e-9, atol=0)
    restated = gradients(network) + gradients(alignment)
    assert len(own) == len(restated)
    for mine, theirs in zip(own, restated, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


def test_terms_are_named_detached_scalars():
    losses = TokenizerLosses(tiny(), objective(gan_start=0), aligned(), judge(), perceptual())
    terms = losses.autoencoder_loss(
        uniform(2, 1, 8, 8), uniform(2, 6, 4, 4, seed=3), 0, seeded()
    ).terms
    assert set(terms) == {
        *("l1", "perceptual", "kl", "gan", "gan_factor"),
        *("mcos+mdms", "mcos", "mdms", "mcos+mdms_factor"),
    }
    assert all(term.ndim == 0 and not term.requires_grad for term in terms.values())
    expected = terms["mcos"] + terms["mdms"]
    torch.testing.assert_close(terms["mcos+mdms"], expected, rtol=1e-12, atol=0)


def adversarial(start: int = 0) -> TokenizerLosses:
    chosen = objective(perceptual=0, gan_start=start)
    return TokenizerLosses(tiny(), chosen, regularizer(), judge())


def test_no_gradient_crosses_between_the_phases():
    losses = adversarial()
    images = uniform(2, 1, 8, 8)
    losses.autoencoder_loss(images, None, 0, seeded()).total.backward()
    assert gradients(losses.discriminator) == []
    assert all(p.requires_grad for p in losses.discriminator.parameters())
    before = gradients(losses.tokenizer)
    assert all(p.grad.abs().sum() > 0 for p in weights(losses.tokenizer))
    phase = losses.discriminator_loss()
    phase.total.backward()
    assert all(p.grad.abs().sum() > 0 for p in weights(losses.discriminator))
    for one, two in zip(before, gradients(losses.tokenizer), strict=True):
        assert torch.equal(one, two)
    assert set(phase.terms) == {"real_score", "fake_score"}


def test_the_discriminator_judges_this_steps_target_and_reconstruction():
    losses = adversarial()
    images = uniform(2, 1, 8, 8)
    losses.autoencoder_loss(images, None, 0, seeded(4))
    with torch.no_grad():
        latents = losses.tokenizer.encode(images).sample(seeded(4))
        real = losses.discriminator(images)
        fake = losses.discriminator(losses.tokenizer.decode(latents))
        expected = 0.5 * (torch.relu(1 - real).mean() + torch.relu(1 + fake).mean())
    found = losses.discriminator_loss()
    torch.testing.assert_close(found.total.detach(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.terms["fake_score"], fake.mean(), rtol=1e-9, atol=1e-12)


def test_a_pair_is_judged_once():
    losses = adversarial()
    with pytest.raises(TrainingError, match="autoencoder_loss first"):
        losses.discriminator_loss()
    losses.autoencoder_loss(uniform(2, 1, 8, 8), None, 0, seeded())
    losses.discriminator_loss()
    with pytest.raises(TrainingError, match="autoencoder_loss first"):
        losses.discriminator_loss()


def test_the_game_starts_at_its_step():
    losses = adversarial(start=3)
    images = uniform(2, 1, 8, 8)
    early = losses.autoencoder_loss(images, None, 2, seeded())
    assert set(early.terms) == {"l1", "kl"}
    with pytest.raises(TrainingError, match="from gan_start on"):
        losses.discriminator_loss()
    late = losses.autoencoder_loss(images, None, 3, seeded())
    assert set(late.terms) == {"l1", "kl", "gan", "gan_factor"}
    losses.discriminator_loss()
    expected = early.total + 0.5 * late.terms["gan_factor"] * late.terms["gan"]
    torch.testing.assert_close(late.total, expected, rtol=1e-10, atol=0)


def test_both_networks_change_in_a_step_of_both_phases():
    losses = adversarial()
    before = [[p.clone() for p in weights(m)] for m in (losses.tokenizer, losses.discriminator)]
    optimizers = [
        torch.optim.Adam(list(parameters), 1e-3)
        for parameters in (losses.autoencoder_parameters(), losses.discriminator.parameters())
    ]
    images = uniform(2, 1, 8, 8)
    losses.autoencoder_loss(images, None, 0, seeded()).total.backward()
    optimizers[0].step()
    optimizers[1].zero_grad()
    losses.discriminator_loss().total.backward()
    optimizers[1].step()
    for old, module in zip(before, (losses.tokenizer, losses.discriminator), strict=True):
        for one, two in zip(old, weights(module), strict=True):
            assert not torch.equal(one, two)


def test_a_fixed_weight_is_not_balanced():
    class Fixed(Regularizer[Baseline, None]):
        def penalties(self, posterior, latents, features):
            return [Penalty("pull", posterior.mean.square().mean(), 0.5, adaptive=False)]

    chosen = objective(perceptual=0, gan=0)
    images = uniform(2, 1, 8, 8)
    plain = TokenizerLosses(tiny(), chosen, regularizer())
    with_pull = TokenizerLosses(tiny(), chosen, Fixed(Baseline(method="baseline"), 3))
    one = plain.autoencoder_loss(images, None, 0, seeded())
    two = with_pull.autoencoder_loss(images, None, 0, seeded())
    assert set(two.terms) == {"l1", "kl", "pull"}
    torch.testing.assert_close(two.total, one.total + 0.5 * two.terms["pull"])


def test_a_regularizer_of_weight_zero_is_the_baseline():
    chosen = objective(perceptual=0, gan=0)
    images = uniform(2, 1, 8, 8)
    one = TokenizerLosses(tiny(), chosen, regularizer())
    two = TokenizerLosses(tiny(), chosen, aligned(0.0))
    a = one.autoencoder_loss(images, None, 0, seeded())
    b = two.autoencoder_loss(images, None, 0, seeded())
    assert torch.equal(a.total, b.total)
    assert set(b.terms) == {"l1", "kl"}


def test_autocast_keeps_losses_in_single_precision():
    network = conv(1, 3, 8, (1, 2), 1, 1).initialise(seeded())
    losses = TokenizerLosses(
        network,
        objective(perceptual=0, gan_start=0),
        regularizer("mcos+mdms", 3, 6).initialise(seeded()),
        discriminator(1, 4, 1).initialise(seeded()),
    )
    images, features = uniform(2, 1, 8, 8).float(), uniform(2, 6, 4, 4).float()
    exact = losses.autoencoder_loss(images, features, 0, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = losses.autoencoder_loss(images, features, 0, seeded())
        judged = losses.discriminator_loss()
    assert rounded.total.dtype == judged.total.dtype == torch.float32
    assert rounded.terms["l1"].item() == pytest.approx(exact.terms["l1"].item(), rel=0.01)
    rounded.total.backward()
    judged.total.backward()
