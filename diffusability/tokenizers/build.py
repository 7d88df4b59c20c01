"""Networks, regularizers and objectives of tokenizers from study entries."""

from pydantic import TypeAdapter

from diffusability.study.network import (
    ConvNetwork,
    HierarchicalNetwork,
    Network,
    NetworkSpec,
    VectorNetwork,
)
from diffusability.study.regularizer import (
    Eq,
    Lcr,
    Lmr,
    Mae,
    Mcos,
    McosMdms,
    Mdms,
    PythonRegularizer,
    Repa,
)
from diffusability.study.tokenizer import ObjectiveSpec, TokenizerSpec
from diffusability.tokenizers.conv import ConvAutoencoder
from diffusability.tokenizers.hierarchical import HierarchicalAutoencoder
from diffusability.tokenizers.interface import Tokenizer
from diffusability.tokenizers.objective import Objective
from diffusability.tokenizers.regularizers.eq import Equivariance
from diffusability.tokenizers.regularizers.interface import Regularizer
from diffusability.tokenizers.regularizers.lcr import LocalCorrelation
from diffusability.tokenizers.regularizers.lmr import LatentMasking
from diffusability.tokenizers.regularizers.mae import ImageMasking
from diffusability.tokenizers.regularizers.mcos import MarginalCosine
from diffusability.tokenizers.regularizers.mdms import MarginalDistance
from diffusability.tokenizers.regularizers.repa import RepresentationAlignment
from diffusability.tokenizers.regularizers.vision_alignment import VisionAlignment
from diffusability.tokenizers.vector import VectorAutoencoder
from diffusability.tokenizers.vit import VitAutoencoder


def build_tokenizer(spec: Network, image_channels: int, size: int) -> Tokenizer:
    """Return the network of an entry for images of `size` pixels; its weights are not yet drawn."""
    if isinstance(spec, ConvNetwork):
        return ConvAutoencoder(
            image_channels=image_channels,
            latent_channels=spec.channels,
            width=spec.width,
            multipliers=spec.multipliers,
            encoder_blocks=spec.encoder_blocks,
            decoder_blocks=spec.decoder_blocks,
            attention=spec.attention,
        )
    if isinstance(spec, VectorNetwork):
        return VectorAutoencoder(
            image_channels=image_channels,
            size=size,
            latent_channels=spec.channels,
            factor=spec.factor,
            width=spec.width,
            multipliers=spec.multipliers,
        )
    if isinstance(spec, HierarchicalNetwork):
        return HierarchicalAutoencoder(
            image_channels=image_channels,
            latent_channels=spec.channels,
            levels=spec.levels,
            factor=spec.factor,
            width=spec.width,
            blocks=spec.blocks,
        )
    return VitAutoencoder(
        image_channels=image_channels,
        latent_channels=spec.channels,
        patch=spec.factor,
        grid=size // spec.factor,
        width=spec.width,
        depth=spec.depth,
        heads=spec.heads,
    )


def build_regularizer(spec: TokenizerSpec, feature_channels: int | None) -> Regularizer:
    """Return the regularizer of an entry; `feature_channels` are those of its encoder, if any."""
    chosen, latent = spec.regularizer, spec.network.channels
    features = feature_channels or 0
    match chosen:
        case Repa():
            return RepresentationAlignment(latent, features, chosen.hidden, chosen.weight)
        case Mcos():
            cosine = MarginalCosine(chosen.cosine_margin)
            return VisionAlignment(latent, features, (cosine,), chosen.weight)
        case Mdms():
            distances = MarginalDistance(chosen.distance_margin)
            return VisionAlignment(latent, features, (distances,), chosen.weight)
        case McosMdms():
            cosine = MarginalCosine(chosen.cosine_margin)
            distances = MarginalDistance(chosen.distance_margin)
            return VisionAlignment(latent, features, (cosine, distances), chosen.weight)
        case Eq():
            return Equivariance(chosen.operators, chosen.probability, chosen.prior_probability)
        case Lcr():
            return LocalCorrelation(chosen.weight, chosen.threshold, chosen.factor)
        case Lmr():
            return LatentMasking(latent, chosen.probabilities, chosen.shared)
        case Mae():
            return ImageMasking(chosen.ratio)
        case PythonRegularizer():
            # imported late: the module is of artifacts and images too
            from diffusability.tokenizers.python_object import build_python_regularizer

            return build_python_regularizer(chosen, latent, features)
    return Regularizer()


def build_objective(spec: ObjectiveSpec) -> Objective:
    """Return the weights of Eq. 12 of an entry."""
    return Objective(
        l1=spec.l1,
        mse=spec.mse,
        perceptual=spec.perceptual,
        gan=spec.gan,
        kl=spec.kl,
        kl_warmup=spec.kl_warmup,
        kl_balance=spec.kl_balance,
        reduction=spec.reduction,
        gan_start=spec.gan_start,
    )


def tokenizer_network(values: dict[str, object]) -> Network:
    """Return the typed network of an entry from its plain values."""
    network: Network = TypeAdapter(NetworkSpec).validate_python(values)
    return network
