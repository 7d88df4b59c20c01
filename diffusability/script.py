"""Run a script of the workflow, in a fork of a prepared process where the run offers one.

    python -m diffusability.script make.py velocity --job ...

Rules start every script this way. Only small modules are imported here: see `fork_server`.
"""

import os
import runpy
import sys

from diffusability.execution.fork_client import hand_over
from diffusability.study.core.workflow_files import VARIABLE


def main() -> None:
    """Run the script that is named first, with the other arguments as its own."""
    script = os.path.join(os.environ[VARIABLE], "scripts", sys.argv[1])
    sys.argv = [script, *sys.argv[2:]]
    hand_over()
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
