"""Make one artifact of a stage; the same command resumes an interrupted training."""

import sys
from collections.abc import Sequence

from diffusability.stages.command import run


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 done, 75 run again to resume, else an error."""
    return run(__doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
