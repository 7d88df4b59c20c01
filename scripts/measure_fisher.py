"""Measure Fisher information, its rate and the MMSE rate of fits to cached latents."""

import sys
from collections.abc import Sequence

from diffusability.stages.command import run


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 done, 75 run again to go on, else an error."""
    return run("fisher", __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
