"""A small hierarchical VAE: Gaussian latents at several resolutions, drawn from coarse to fine.

After NVAE (Vahdat & Kautz, arXiv 2007.03898): a deterministic encoder runs up to the coarsest
features; a top-down path draws one latent per level, each from a prior that the coarser ones
predict, and the posterior is stated relative to that prior.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffusability.errors import StudyError
from diffusability.nn.layers import group_norm
from diffusability.study.entries.network import HierarchicalNetwork, ImageShape
from diffusability.tokenizers.conv import Downsample, ResidualBlock, Upsample
from diffusability.tokenizers.interface import NetworkTokenizer
from diffusability.tokenizers.objective import Objective
from diffusability.tokenizers.posterior import LOGVAR_RANGE, Posterior
from diffusability.training.run import Losses

LOGVAR_BOUND = 5.0  # bound of the prior's log-variance, and of the posterior's relative to it
KL_FLOOR = 0.01  # nats, so that a level without information still has a weight


def gaussian_kl(posterior: Posterior, prior: Posterior) -> Tensor:
    """Return KL(posterior ‖ prior) of diagonal Gaussians, summed over the latent of each image.

    ½ Σ [(m_q - m_p)² / v_p + v_q / v_p - 1 - ln(v_q / v_p)].

    Returns:
        (B,), nats, at least zero.
    """
    relative = posterior.logvar - prior.logvar
    moved = (posterior.mean - prior.mean).square() * torch.exp(-prior.logvar)
    return 0.5 * (moved + relative.exp() - 1.0 - relative).sum((1, 2, 3))


def _head(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return nn.Sequential(group_norm(channels_in), nn.SiLU(), convolution)


def balanced_kl(divergences: Mapping[int, Tensor], sizes: Mapping[int, int]) -> Tensor:
    """Return the sum of the levels' divergences, weighted by information per latent entry.

    Level l has the weight γ_l ∝ (E KL_l + 0.01) / n_l, of mean one over the levels and without
    gradient, as in NVAE's published training: a level with little information has a small penalty,
    so it does not collapse before the decoder has learned to use it.

    Args:
        divergences: (B,) of each level by its factor, in nats.
        sizes: cells n_l of its latent; all levels have as many channels.

    Returns:
        (B,), nats.
    """
    stacked = torch.stack(list(divergences.values()))  # (L, B)
    cells = stacked.new_tensor([sizes[factor] for factor in divergences])
    shares = (stacked.detach().mean(1) + KL_FLOOR) / cells  # (L,)
    weights = shares / shares.mean()
    return (weights[:, None] * stacked).sum(0)


class HierarchicalAutoencoder(NetworkTokenizer):
    """The hierarchical VAE as a tokenizer of one of its levels.

    Its latent is z of the chosen level. Encoding sets the coarser levels to their posterior means.
    Decoding sets all other levels to their prior means; the prior of finer levels depends on this
    level. The reconstruction therefore contains only the information of this level.
    """

    def __init__(self, spec: HierarchicalNetwork, image: ImageShape) -> None:
        """Build the layers on the meta device; `initialise` or loaded weights fill them."""
        super().__init__(spec, image)
        self.levels: tuple[int, ...] = spec.levels
        width, blocks, latent_channels = spec.width, spec.blocks, spec.channels
        halvings = self.levels[-1].bit_length() - 1
        names = [str(level) for level in self.levels]
        with torch.device("meta"):
            self.stem = nn.Conv2d(image.channels, width, 3, padding=1)
            self.down = nn.ModuleList(
                nn.Sequential(Downsample(width), *_blocks(width, blocks)) for _ in range(halvings)
            )
            self.start = nn.Parameter(torch.empty(1, width, 1, 1))
            self.to_prior = nn.ModuleDict(
                {name: _head(width, 2 * latent_channels) for name in names[:-1]}
            )
            self.to_posterior = nn.ModuleDict(
                {name: _head(2 * width, 2 * latent_channels) for name in names}
            )
            self.from_latent = nn.ModuleDict(
                {name: nn.Conv2d(latent_channels, width, 1) for name in names}
            )
            self.refine = nn.ModuleList(
                nn.Sequential(*_blocks(width, blocks)) for _ in range(halvings + 1)
            )
            self.up = nn.ModuleList(Upsample(width) for _ in range(halvings))
            self.out = _head(width, image.channels)

    def fill(self, _generator: torch.Generator) -> None:
        """Set the initial state of the top-down path to zero."""
        self.start.zero_()

    @property
    def encoder_last_weight(self) -> Tensor:
        """Weight of the layer that outputs the chosen level's posterior."""
        layer = self.to_posterior[str(self._factor)].get_submodule("2")
        return layer.get_parameter("weight")

    @property
    def decoder_last_weight(self) -> Tensor:
        """Weight of the layer that outputs the pixels."""
        return self.out.get_submodule("2").get_parameter("weight")

    def encode(self, images: Tensor, mask: Tensor | None = None) -> Posterior:
        """Return the chosen level's posterior; see `Tokenizer.encode`. Masks are not supported."""
        if mask is not None:
            raise StudyError("HierarchicalAutoencoder: images cannot be masked, it has no tokens")
        features = self._features(images)
        state, factor = self._start(features[self.levels[-1]]), self.levels[-1]
        while factor > self._factor:
            if factor in self.levels:
                prior = self._prior(state, factor)
                state = self._absorb(
                    state, self._posterior(state, features, prior, factor).mean, factor
                )
            state, factor = self._descend(state, factor)
        return self._posterior(state, features, self._prior(state, factor), factor)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoded images, with the other levels at their prior means."""
        ratio = self.levels[-1] // self._factor
        batch, _, height, width = latents.shape
        if height % ratio or width % ratio:
            raise StudyError(
                f"HierarchicalAutoencoder: a latent of {height}x{width} cells has no coarsest "
                f"level, {ratio} times smaller"
            )
        state = self.start.expand(batch, -1, height // ratio, width // ratio)
        factor = self.levels[-1]
        while factor >= 1:
            if factor in self.levels:
                given = factor == self._factor
                z = latents if given else self._prior(state, factor).mean
                state = self._absorb(state, z, factor)
            state, factor = self._descend(state, factor)
        return self._image(state)

    def reconstruct(
        self, images: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Sample every level's latent from its posterior, coarse to fine, and decode them.

        Args:
            images: (B, C, H, W), in [-1, 1].
            generator: source of the draws.

        Returns:
            Images (B, C, H, W), and the divergence (B,) of every level given the coarser ones, in
            nats, by its factor; their sum estimates KL(q(z | x) ‖ p(z)) without bias.
        """
        features = self._features(images)
        state, factor = self._start(features[self.levels[-1]]), self.levels[-1]
        divergences = {}
        while factor >= 1:
            if factor in self.levels:
                prior = self._prior(state, factor)
                posterior = self._posterior(state, features, prior, factor)
                divergences[factor] = gaussian_kl(posterior, prior)
                state = self._absorb(state, posterior.sample(generator), factor)
            state, factor = self._descend(state, factor)
        return self._image(state), divergences

    def _features(self, images: Tensor) -> dict[int, Tensor]:
        """Return the encoder's features by factor, each (B, W, H / factor, W / factor)."""
        self.grid(images)
        coarsest = self.levels[-1]
        if images.shape[-2] % coarsest or images.shape[-1] % coarsest:
            raise StudyError(
                f"HierarchicalAutoencoder: images of {images.shape[-2]}x{images.shape[-1]} pixels "
                f"do not divide by the coarsest level's factor {coarsest}"
            )
        features = {1: self.stem(images)}
        for halvings, layer in enumerate(self.down, start=1):
            features[2**halvings] = layer(features[2 ** (halvings - 1)])
        return features

    def _start(self, coarsest: Tensor) -> Tensor:
        return self.start.expand(len(coarsest), -1, *coarsest.shape[-2:])

    def _prior(self, state: Tensor, factor: int) -> Posterior:
        """Return p(z | coarser levels): standard normal at the coarsest."""
        if factor == self.levels[-1]:
            shape = (len(state), self.latent_channels, *state.shape[-2:])
            return Posterior(state.new_zeros(shape), state.new_zeros(shape))
        return _gaussian(self.to_prior[str(factor)](state))

    def _posterior(
        self, state: Tensor, features: dict[int, Tensor], prior: Posterior, factor: int
    ) -> Posterior:
        """Return q(z | x, coarser levels), predicted relative to the prior."""
        joined = torch.cat([state, features[factor]], dim=1)  # (B, 2W, h, w)
        relative = _gaussian(self.to_posterior[str(factor)](joined))
        logvar = prior.logvar + relative.logvar
        # the shift is in units of the prior's standard deviation
        mean = prior.mean + torch.exp(0.5 * prior.logvar) * relative.mean
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    def _absorb(self, state: Tensor, z: Tensor, factor: int) -> Tensor:
        """Return the state after adding a level's latent."""
        added: Tensor = state + self.from_latent[str(factor)](z)
        return added

    def _descend(self, state: Tensor, factor: int) -> tuple[Tensor, int]:
        """Return the state at the next finer resolution, and its factor; 0 after the finest."""
        halvings = factor.bit_length() - 1
        state = self.refine[halvings](state)
        return (state, 0) if factor == 1 else (self.up[halvings - 1](state), factor // 2)

    def _image(self, state: Tensor) -> Tensor:
        image: Tensor = self.out(state)
        return image


def _blocks(width: int, blocks: int) -> list[nn.Module]:
    return [ResidualBlock(width, width) for _ in range(blocks)]


def _gaussian(moments: Tensor) -> Posterior:
    """Split (B, 2d, h, w) into means and smoothly bounded log-variances."""
    wide = moments.to(torch.promote_types(moments.dtype, torch.float32))
    mean, logvar = wide.chunk(2, dim=1)
    return Posterior(mean, LOGVAR_BOUND * torch.tanh(logvar / LOGVAR_BOUND))


def hierarchical_loss(
    tokenizer: HierarchicalAutoencoder,
    objective: Objective,
    images: Tensor,
    step: int,
    generator: torch.Generator,
) -> Losses:
    """Return the negative evidence bound: reconstruction plus the divergence of all levels.

    Args:
        tokenizer: the network.
        objective: weights of L1, squared error and KL; other terms are not used.
        images: (B, C, H, W), in [-1, 1].
        step: counted from zero, in batches; the KL's weight grows with it.
        generator: source of the posterior noise.

    Returns:
        Scalar total (lower is better) and its unweighted terms, with the divergence of each level.
    """
    decoded, divergences = tokenizer.reconstruct(images, generator)
    decoded = decoded.to(torch.promote_types(decoded.dtype, torch.float32))
    reference, terms = objective.reconstruction(images, decoded, None)
    total = torch.stack(list(divergences.values())).sum(0)  # (B,)
    divergence, parts = objective.divergence(total, images, step)
    if objective.options.kl_balance and step < objective.options.kl_warmup:
        cells = images.shape[-2] * images.shape[-1]
        sizes = {factor: cells // factor**2 for factor in divergences}
        divergence, _ = objective.divergence(balanced_kl(divergences, sizes), images, step)
    levels = {f"kl_f{factor}": kl.mean() for factor, kl in divergences.items()}
    named = {**terms, **parts, **levels}
    return Losses(reference + divergence, {name: term.detach() for name, term in named.items()})
