"""The fifteen vision models of Table 1: where weights lie, what goes in, which feature comes out.

Facts as in the registry of End2End-Diffusion/iREPA, whose model names the paper shares; network
names are those of timm 1.0 (webssl-300m: transformers). A network sees images on a scale of
0 ... 1, resized to `patch` pixels per cell of the feature grid and then normalised by mean and
standard deviation, channel by channel.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CELL = 16  # image pixels per cell of the feature grid, along one side, whatever the patch
WEIGHT_FILE = "model.safetensors"  # in every repository of the hub

VisionModel = Literal[
    "clip-l",
    "cradio-b",
    "cradio-l",
    "dinov2-b",
    "dinov2-l",
    "dinov3-b",
    "dinov3-l",
    "langpe-l",
    "mae-l",
    "mocov3-l",
    "pe-b",
    "pe-l",
    "spatialpe-b",
    "spatialpe-l",
    "webssl-300m",
]
Colour = tuple[float, float, float]
Normalisation = tuple[Colour, Colour]
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Normalisation = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class VisionFacts:
    """What is known of one vision model.

    `revision` counts how often this project has changed what the features are; it is part of an
    encoder's fingerprint from 2 on.

    Attributes:
        network: name of the architecture in its library.
        hub: repository of the model hub whose weight file fits.
        patch: pixels of the network's input per token, along one side.
        channels: D of a token.
        depth: blocks.
        prefix: class and register tokens in front of the patch tokens; they are dropped.
        norm: mean and standard deviation of an image in 0 ... 1, by channel.
        final_norm: whether the feature is taken after the last norm, or before it.
        resize: mode of interpolation where the image is not of the input's size.
        library: where the architecture comes from.
        positions: how a table of absolute positions is resampled to another grid: bicubic with
            antialiasing, or by plain bilinear interpolation between the centres of cells.
        has_final_norm: whether the network ends in a norm that `final_norm` may ask for.
        revision: see above.
    """

    network: str
    hub: str
    patch: int
    channels: int
    depth: int
    prefix: int
    norm: Normalisation
    final_norm: bool
    resize: Literal["bicubic", "bilinear"]
    library: Literal["timm", "transformers"] = "timm"
    positions: Literal["bicubic", "bilinear"] = "bicubic"
    has_final_norm: bool = True
    revision: int = 1

    def input_side(self, image_side: int) -> int:
        """Return the side of the network's input in pixels for a square image.

        One patch per CELL image pixels, rounded down: 256 px give 16 x 16 features. An image of
        fewer than CELL pixels is enlarged to one patch.
        """
        return self.patch * max(1, image_side // CELL)


def _timm(
    network: str,
    patch: int,
    size: tuple[int, int],
    prefix: int,
    norm: Normalisation,
    final_norm: bool,
    resize: Literal["bicubic", "bilinear"] = "bilinear",
    hub: str | None = None,
    **more: Any,
) -> VisionFacts:
    """Return a row; timm's repositories carry the names of its networks."""
    hub = hub or f"timm/{network}"
    return VisionFacts(network, hub, patch, *size, prefix, norm, final_norm, resize, **more)


def _radio(network: str, size: tuple[int, int], revision: int) -> VisionFacts:
    """Return a row of C-RADIO: no final norm, positions of a 128 x 128 grid."""
    more: dict[str, Any] = {"positions": "bilinear", "has_final_norm": False, "revision": revision}
    return _timm(network, 16, size, 8, CLIP, False, **more)


def _perception(
    network: str, patch: int, size: tuple[int, int], has_final_norm: bool
) -> VisionFacts:
    """Return a row of Meta's Perception Encoder, whose rotary positions count cells from 1."""
    more: dict[str, Any] = {
        "positions": "bilinear",
        "has_final_norm": has_final_norm,
        "revision": 2,
    }
    return _timm(network, patch, size, 1, HALF, False, **more)


BASE, LARGE = (768, 12), (1024, 24)  # channels, depth
# C-RADIO takes 0 ... 1 and normalises inside, with CLIP's values; timm's network leaves that to us.
# Its positions are those of NVlabs/RADIO since commit cb07f55 (28 June 2025), which iREPA loads:
# cells of a grid, not its corners (align_corners=False), for every model. Before, and in timm until
# today for the base model, the corners were aligned.
# CLIP: the plain repository holds the weights, the quickgelu network the activation they had.
# MAE: before the final norm, as iREPA; VA-VAE takes it after (`final_norm: true` of the encoder).
FACTS: dict[VisionModel, VisionFacts] = {
    "clip-l": _timm(
        *("vit_large_patch14_clip_quickgelu_224.openai", 14, LARGE, 1, CLIP, False, "bicubic"),
        hub="timm/vit_large_patch14_clip_224.openai",
    ),
    "cradio-b": _radio("vit_base_patch16_radio_v3.c_radio", BASE, revision=2),
    "cradio-l": _radio("vit_large_patch16_radio_v3.c_radio", LARGE, revision=1),
    "dinov2-b": _timm("vit_base_patch14_dinov2.lvd142m", 14, BASE, 1, IMAGENET, True, "bicubic"),
    "dinov2-l": _timm("vit_large_patch14_dinov2.lvd142m", 14, LARGE, 1, IMAGENET, True, "bicubic"),
    "dinov3-b": _timm("vit_base_patch16_dinov3.lvd1689m", 16, BASE, 5, IMAGENET, True),
    "dinov3-l": _timm("vit_large_patch16_dinov3.lvd1689m", 16, LARGE, 5, IMAGENET, True),
    "langpe-l": _perception("vit_pe_lang_large_patch14_448.fb", 14, (1024, 23), False),
    "mae-l": _timm("vit_large_patch16_224.mae", 16, LARGE, 1, IMAGENET, False),
    "mocov3-l": _timm(
        *("vit_large_patch16_224", 16, LARGE, 1, IMAGENET, True),
        hub="nyu-visionx/moco-v3-vit-l",
    ),
    "pe-b": _perception("vit_pe_core_base_patch16_224.fb", 16, BASE, True),
    "pe-l": _perception("vit_pe_core_large_patch14_336.fb", 14, LARGE, True),
    "spatialpe-b": _perception("vit_pe_spatial_base_patch16_512.fb", 16, BASE, False),
    "spatialpe-l": _perception("vit_pe_spatial_large_patch14_448.fb", 14, LARGE, False),
    "webssl-300m": VisionFacts(
        network="Dinov2Model",
        hub="facebook/webssl-dino300m-full2b-224",
        patch=14,
        channels=1024,
        depth=24,
        prefix=1,
        norm=IMAGENET,
        final_norm=True,
        resize="bicubic",
        library="transformers",
    ),
}


def hub_cache() -> Path:
    """Return the folder in which the model hub's client keeps what was downloaded."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    user_cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{user_cache}/huggingface")
    return Path(home).expanduser() / "hub"


def cached_repository(repository: str) -> Path:
    """Return the folder of a hub repository in the local cache, whether it is there or not.

    The revision is the one that `main` was when it was downloaded; nothing is asked for outside.
    """
    folder = hub_cache() / f"models--{repository.replace('/', '--')}"
    main = folder / "refs" / "main"
    revision = main.read_text().strip() if main.is_file() else "main"
    return folder / "snapshots" / revision


def cached_weights(repository: str) -> Path:
    """Return the weight file of a hub repository in the local cache, whether it is there or not."""
    return cached_repository(repository) / WEIGHT_FILE


def weight_file(model: VisionModel, weights: str | None) -> Path:
    """Return where the weights of a model are looked for: the file given, else the hub's cache."""
    return Path(weights) if weights else cached_weights(FACTS[model].hub)
