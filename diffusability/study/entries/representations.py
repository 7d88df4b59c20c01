"""The published networks of FDr6, other than Inception: what goes in, which feature comes out.

Source: the evaluation of "Representation Fréchet Loss for Visual Generation" (arXiv 2604.28190).
Network names are those of timm 1.0, whose repositories on the model hub carry the same names. An
image on a scale of 0 ... 1 is resized (bicubic, antialiased) and then normalised by the model's own
mean and standard deviation; the network runs in bfloat16.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusability.study.entries.vision_models import (
    CLIP,
    HALF,
    IMAGENET,
    Normalisation,
    cached_weights,
)

Representation = Literal["convnext", "dinov2", "mae", "siglip2", "clip"]
FDR6_SPACES = 6  # these five and Inception


@dataclass(frozen=True)
class RepresentationFacts:
    """What is known of one network of FDr6.

    Attributes:
        network: name of the architecture and its weights in timm.
        input_side: side in pixels that images are resized to; a transformer pads it to whole
            patches and interpolates its positions.
        feature: what is taken of the network: the mean over positions, the class token after the
            last norm, or what its attention pools.
        channels: values of that feature.
        norm: mean and standard deviation of an image in 0 ... 1, by channel.
        parameters: of the network, approximately.
        macs: multiply-accumulates of an image, approximately.
    """

    network: str
    input_side: int
    feature: Literal["spatial mean", "class token", "attention pool"]
    channels: int
    norm: Normalisation
    parameters: float
    macs: float

    @property
    def hub(self) -> str:
        """Repository of the model hub that holds the weights."""
        return f"timm/{self.network}"


# CLIP is this network, without quickgelu, because FDr6 was published with it
REPRESENTATIONS: dict[Representation, RepresentationFacts] = {
    "convnext": RepresentationFacts(
        *("convnextv2_base.fcmae_ft_in22k_in1k", 224, "spatial mean", 1024, IMAGENET),
        *(87.7e6, 15.4e9),
    ),
    "dinov2": RepresentationFacts(
        *("vit_large_patch14_dinov2.lvd142m", 256, "class token", 1024, IMAGENET),
        *(304e6, 116e9),
    ),
    "mae": RepresentationFacts(
        *("vit_large_patch16_224.mae", 224, "class token", 1024, IMAGENET),
        *(303e6, 61e9),
    ),
    "siglip2": RepresentationFacts(
        *("vit_so400m_patch16_siglip_256.v2_webli", 224, "attention pool", 1152, HALF),
        *(428e6, 83e9),
    ),
    "clip": RepresentationFacts(
        *("vit_large_patch14_clip_224.openai", 256, "class token", 1024, CLIP),
        *(303e6, 116e9),
    ),
}


def representation_file(model: Representation, weights: str | None) -> Path:
    """Return where the weights are looked for: the file given, else the model hub's cache."""
    return Path(weights) if weights else cached_weights(REPRESENTATIONS[model].hub)
