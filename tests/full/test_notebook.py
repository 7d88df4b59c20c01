"""The notebook of the documentation runs from top to bottom."""

import json
import os
import subprocess
import sys

from tests.conftest import REPOSITORY

NOTEBOOK = "docs/score.ipynb"


def test_the_notebook_runs() -> None:
    command = [sys.executable, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider", NOTEBOOK]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_pictures_are_in_it() -> None:
    cells = json.loads((REPOSITORY / NOTEBOOK).read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not [o for o in outputs if o["output_type"] in ("stream", "error")]
