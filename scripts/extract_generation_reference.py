"""Extract the features of real images that samples are compared with, once for a dataset."""

import sys
from collections.abc import Sequence

from diffusability.stages.command import run


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 done, 75 run again to go on, else an error."""
    return run("generation_reference", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
