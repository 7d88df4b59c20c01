"""What a Fréchet distance is called: by its extractor, and FID in Inception's features alone."""

from diffusability.study.names import INCEPTION, INCEPTION_SPATIAL


def distance_name(distance: str, extractor: str) -> str:
    """Return the name of a Fréchet distance in metric names.

    Args:
        distance: "fd", "fd_infinity" or "ifd".
        extractor: name of the feature extractor; a study reserves `inception` for the network
            that the FID is defined with.

    Returns:
        ``<distance>_<extractor>``; for Inception "fid", "fid_infinity", "ifid", and for its
        spatial features the same with an "s" in front.
    """
    if extractor == INCEPTION:
        return distance.replace("fd", "fid")
    if extractor == INCEPTION_SPATIAL:
        return "s" + distance.replace("fd", "fid")
    return f"{distance}_{extractor}"
