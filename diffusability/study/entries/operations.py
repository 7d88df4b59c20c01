"""Parameters, multiplications and memory of a study's networks, counted once and remembered.

torch counts the networks themselves (`diffusability.flops`, `diffusability.step_memory`). Its
import takes seconds, and a study is read in every process of a workflow, so the counts are kept in
the user's cache, under the options that they belong to and the code that they were counted with.
One multiply-accumulate (MAC) is two floating-point operations.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusability.study.core.spec import Precision
from diffusability.study.core.user_cache import cached, recall, remember
from diffusability.study.entries.backbone import Backbone
from diffusability.study.entries.network import Network
from diffusability.study.entries.vision_models import FACTS, VisionModel

if TYPE_CHECKING:  # these state their own cost with what is counted here
    from diffusability.study.entries.encoder import EncoderEntry, TrainedEncoder
    from diffusability.study.entries.tokenizer import LinearTokenizer
    from diffusability.study.entries.trained_tokenizer import ObjectiveSpec

UNTRAINED = {"train": {"steps": 1}}  # how it is trained changes no count
PACKAGE = Path(__file__).parents[2]
COUNTER = "diffusability.flops"
STEP_COUNTER = "diffusability.step_memory"
FILE = "operations.json"  # in the user's cache
# whose code decides the counts
COUNTED = (
    *("flops.py", "step_memory.py", "nn/**/*.py", "tokenizers/**/*.py"),
    *("diffusion/*.py", "encoders/*.py"),
)


@dataclass(frozen=True)
class Size:
    """What a network, or a part of one, weighs.

    Attributes:
        parameters: trained numbers.
        macs: multiply-accumulates of one image's forward pass.
    """

    parameters: int = 0
    macs: int = 0

    def __add__(self, other: "Size") -> "Size":
        """Return both parts together."""
        return Size(self.parameters + other.parameters, self.macs + other.macs)


@dataclass(frozen=True)
class Kept:
    """Bytes that a training step keeps for its backward pass, without weights.

    Attributes:
        fixed: whatever the number of images.
        image: per image.
    """

    fixed: int
    image: int


# Inception-v3 at 299 x 299 and VGG-16's convolutions at 224 x 224, published figures
INCEPTION = Size(23_900_000, 5_730_000_000)
VGG16, VGG16_SIDE = Size(14_714_688, 15_346_630_656), 224


@dataclass(frozen=True)
class Autoencoder:
    """Both halves of a tokenizer; all its parameters stand with the encoder."""

    encoder: Size
    decoder: Size

    @property
    def whole(self) -> Size:
        """Encoder and decoder together."""
        return self.encoder + self.decoder


@lru_cache
def autoencoder(network: Network, channels: int, side: int) -> Autoencoder:
    """Return the size of a tokenizer for images of `channels` x `side` x `side`."""
    options = {"network": network.canonical(), "channels": channels, "side": side}
    return Autoencoder(*_counted("autoencoder", options))


@lru_cache
def backbone(spec: Backbone, channels: int, grid: int, classes: int) -> Size:
    """Return the size of a diffusion network on latents of `channels` x `grid` x `grid`."""
    entry = spec.canonical() | UNTRAINED
    options = {"spec": entry, "latent": [channels, grid, grid], "num_classes": classes}
    return _counted("backbone", options)[0]


@lru_cache
def tokenizer_step(
    network: Network,
    objective: "ObjectiveSpec",
    perceptual: "EncoderEntry | None",
    channels: int,
    side: int,
    precision: Precision,
    recomputed: bool = False,
) -> Kept:
    """Return what a step of a tokenizer keeps; `perceptual` is the encoder of that distance."""
    entry = None
    if perceptual is not None:
        entry = perceptual.canonical()
        entry |= UNTRAINED if "train" in entry else {}
    options = {
        "network": network.canonical(),
        "objective": objective.canonical(),
        "perceptual": entry,
        "channels": channels,
        "side": side,
        "precision": precision,
        "recomputed": recomputed,
    }
    return _kept("tokenizer_step", options)


@lru_cache
def backbone_step(
    spec: Backbone,
    channels: int,
    grid: int,
    classes: int,
    precision: Precision,
    recomputed: bool = False,
) -> Kept:
    """Return what a step of a network keeps on latents of `channels` x `grid` x `grid`."""
    options = {
        "spec": spec.canonical() | UNTRAINED,
        "latent": [channels, grid, grid],
        "num_classes": classes,
        "precision": precision,
        "recomputed": recomputed,
    }
    return _kept("backbone_step", options)


@lru_cache
def trained_encoder(spec: "TrainedEncoder", channels: int, side: int, classes: int) -> Size:
    """Return the size of a convolutional encoder of the study's own."""
    entry = spec.canonical() | UNTRAINED
    options = {"spec": entry, "channels": channels, "side": side, "num_classes": classes}
    return _counted("encoder", options)[0]


@lru_cache
def discriminator(objective: "ObjectiveSpec", channels: int, side: int) -> Size:
    """Return the size of the patch discriminator of an objective."""
    options = {"width": objective.gan_width, "layers": objective.gan_layers}
    return _counted("discriminator", options | {"channels": channels, "side": side})[0]


def linear_map(entry: "LinearTokenizer", channels: int, side: int) -> Autoencoder:
    """Return the size of a linear map: that of its matrix, where it has one."""
    pixels = channels * side**2
    if entry.source not in ("pca", "projection"):
        return Autoencoder(Size(), Size())
    matrix = entry.channels * (side // entry.factor) ** 2 * pixels
    return Autoencoder(Size(matrix + pixels, matrix), Size(0, matrix))


def vision_model(model: VisionModel, side: int) -> Size:
    """Return the approximate size of a published vision model for images of `side` pixels.

    Twelve matrices of width² per block, attention, and the patches: within two per cent.
    """
    facts = FACTS[model]
    patches = (facts.input_side(side) // facts.patch) ** 2
    tokens, width = patches + facts.prefix, facts.channels
    block = Size(12 * width**2, 12 * width**2 * tokens + 2 * tokens**2 * width)
    embedding = 3 * facts.patch**2 * width
    return Size(
        facts.depth * block.parameters + embedding + width,
        facts.depth * block.macs + embedding * patches,
    )


def vgg16(side: int) -> Size:
    """Return the convolutions of VGG-16, which LPIPS compares features of."""
    return Size(VGG16.parameters, round(VGG16.macs * (side / VGG16_SIDE) ** 2))


def _counted(what: str, options: dict[str, Any]) -> list[Size]:
    """Return the sizes of the parts of a network."""
    return [Size(*part) for part in _looked_up(COUNTER, what, options)]


def _kept(what: str, options: dict[str, Any]) -> Kept:
    """Return what a training step keeps."""
    return Kept(*_looked_up(STEP_COUNTER, what, options)[0])


def _looked_up(counter: str, what: str, options: dict[str, Any]) -> list[list[int]]:
    """Return counts: from memory, from the file, or made now and kept."""
    text = json.dumps([what, options], sort_keys=True)
    key = hashlib.sha256((code_digest() + text).encode()).hexdigest()[:24]
    return _remembered(key, counter, what, text)


@cache
def _remembered(key: str, counter: str, what: str, text: str) -> list[list[int]]:
    known = recall(cached(FILE))
    if key not in known:
        known[key] = import_module(counter).count(what, json.loads(text)[1])
        remember(cached(FILE), known)
    counts: list[list[int]] = known[key]
    return counts


@cache
def code_digest() -> str:
    """Return a digest of the code of all networks; a change of it makes every count anew."""
    sha = hashlib.sha256()
    for pattern in COUNTED:
        for path in sorted(PACKAGE.glob(pattern)):
            sha.update(path.read_bytes())
    return sha.hexdigest()
