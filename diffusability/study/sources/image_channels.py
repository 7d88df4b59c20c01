"""Which images an autoencoder of diffusers takes: grey ones, or colour ones.

A network for colour images takes grey ones as three equal channels, which loses nothing; of what it
decodes, the mean of the three is the grey image. Colour images are never made grey: what the
scores would be of is another set of images.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.json"
GREY, COLOUR = 1, 3


def taken_channels(config: Mapping[str, Any]) -> int:
    """Return the channels of the images that a configuration is of; by default diffusers' 3."""
    found: int = config.get("in_channels", config.get("num_channels", COLOUR))
    return found


def channels_of_folder(folder: str) -> int | None:
    """Return the channels of the images that a folder's autoencoder takes; None: not known."""
    try:
        config = json.loads(Path(folder, CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # what is wrong with it is said when it is read
    found = taken_channels(config) if isinstance(config, dict) else None
    return found if isinstance(found, int) else None


def repeats_grey(taken: int | None, given: int) -> bool:
    """Return whether images of `given` channels are repeated for a network of `taken` channels."""
    return (taken, given) == (COLOUR, GREY)


def channels_misfit(taken: int, given: int) -> str:
    """Return why a network of `taken` channels cannot encode images of `given`; empty: it can."""
    if taken == given or repeats_grey(taken, given):
        return ""
    if (taken, given) == (GREY, COLOUR):
        return (
            "takes grey images, and these are in colour, which would be lost: name grey images "
            "(datasets of kind idx or digits), or wrap it in a class of your own that makes them "
            "grey in encode and repeats them in decode (source python; of a score: --tokenizer "
            "my_package:MyVAE)"
        )
    return f"takes images of {taken} channels, and these have {given}: name others of either"
