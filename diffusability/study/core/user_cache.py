"""What is remembered between runs of all studies: small JSON files in the user's cache folder.

They lie in `$XDG_CACHE_HOME/diffusability`, by default `~/.cache/diffusability`. Everything in them
can be computed again, so a file that cannot be read or written is no error.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def cached(*parts: str) -> Path:
    """Return the path of a file in the cache."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # a user without a home
        cache = Path(tempfile.gettempdir(), f"cache-{os.getuid()}")
    return cache.joinpath("diffusability", *parts)


def recall(path: Path) -> dict[str, Any]:
    """Return the mapping that a file of the cache holds; empty if there is none."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def remember(path: Path, known: dict[str, Any]) -> None:
    """Replace a file of the cache at once; what another process adds meanwhile may be lost."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
        try:
            with os.fdopen(handle, "w") as out:
                json.dump(known, out, sort_keys=True)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
