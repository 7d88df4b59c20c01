"""Datasets that a study can name."""

from typing import Literal

from pydantic import Field

from diffusability.study.spec import Spec

DIGITS_IMAGES = 1797


class DigitsDataset(Spec):
    """Scikit-learn's handwritten digits: 1,797 real scans of 8 x 8 in 17 grey levels.

    The images are enlarged bilinearly; ink is the foreground.
    """

    kind: Literal["digits"]
    size: Literal[8, 16, 32] = Field(16, description="side of the square images in pixels")
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of every class that is held out for validation"
    )

    @property
    def image_channels(self) -> int:
        """Grey images."""
        return 1

    @property
    def num_classes(self) -> int:
        """The ten digits."""
        return 10


DatasetSpec = DigitsDataset
