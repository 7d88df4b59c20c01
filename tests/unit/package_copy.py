"""A temporary copy of the package, to which a test adds a kind of something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def package_copy(folder: Path) -> Path:
    """Return the copied package, below `folder`."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "diffusability", folder / "diffusability", ignore=ignored))


def append(file: Path, text: str) -> None:
    """Add text at the end of a file."""
    file.write_text(file.read_text() + text)


def run(folder: Path, code: str) -> str:
    """Return what code prints that imports the copy; SMOKE is the path of the smoke study."""
    smoke = f"SMOKE = {str(ROOT / 'studies' / 'smoke.yaml')!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", smoke + code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
