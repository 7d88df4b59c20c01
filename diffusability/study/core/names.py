"""How things may be called: names become folders and parts of metric names."""

from typing import Annotated

from pydantic import Field

NAME = r"^[a-z0-9][a-z0-9.+-]*$"
ENCODER_NAME = r"^[a-z0-9][a-z0-9_-]*$"
MAX_NAME = 100  # characters; file systems take 255, and a file is named by several
Name = Annotated[str, Field(pattern=NAME, max_length=MAX_NAME)]
# an encoder's name becomes part of metric names (`generation.fd_judge`), where dots part levels
EncoderName = Annotated[
    str, Field(pattern=ENCODER_NAME, max_length=MAX_NAME, description="an entry of `encoders`")
]

# encoders of these names make distances that are called FID and sFID, so only Inception has them
INCEPTION = "inception"  # its pooled features
INCEPTION_SPATIAL = "inception-spatial"  # a part of its early feature map


def fdr6_role(index: int) -> str:
    """Return the role, among what an artifact is made from, of an FDr6 extractor by its index."""
    return f"fdr6_extractor_{index}"


def distance_name(distance: str, extractor: str) -> str:
    """Return the name of a Fréchet distance in metric names.

    Args:
        distance: "fd" or "ifd".
        extractor: name of the feature extractor; a study reserves `inception` for the network
            that the FID is defined with.

    Returns:
        ``<distance>_<extractor>``; for Inception "fid", "ifid", and for its
        spatial features the same with an "s" in front.
    """
    if extractor == INCEPTION:
        return distance.replace("fd", "fid")
    if extractor == INCEPTION_SPATIAL:
        return "s" + distance.replace("fd", "fid")
    return f"{distance}_{extractor}"
