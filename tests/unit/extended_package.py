"""A copy of the package with an addition, as docs/extending.md describes one, and a run in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

PACKAGE = "diffusability"


class ExtendedPackage:
    """A copy in which files are changed; it counts which ones."""

    def __init__(self, folder: Path) -> None:
        """Copy the package into a folder."""
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / PACKAGE, folder / PACKAGE, ignore=ignored)

    def insert(self, file: str, text: str, before: str) -> None:
        """Insert text into a file of the package, before the only occurrence of another."""
        path = self.folder / PACKAGE / file
        content = path.read_text()
        assert content.count(before) == 1
        path.write_text(content.replace(before, f"{text}\n\n{before}"))

    def add(self, file: str, text: str) -> None:
        """Add a file to the package."""
        path = self.folder / PACKAGE / file
        assert not path.exists()
        path.write_text(text)

    def changed(self) -> set[str]:
        """Return the files that differ from the repository's."""
        found = set()
        for path in (self.folder / PACKAGE).rglob("*.py"):
            relative = path.relative_to(self.folder)
            original = REPOSITORY / relative
            if not original.exists() or original.read_bytes() != path.read_bytes():
                found.add(str(relative))
        return found

    def run(self, program: str) -> str:
        """Run a Python program with the copy, in its folder; return what it prints."""
        paths = os.pathsep.join((str(self.folder), str(REPOSITORY)))  # tests are the repository's
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
