"""Description of the machine for provenance cards; not part of any fingerprint."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("diffusability", "torch", "numpy", "scipy", "scikit-learn", "safetensors")


def describe_machine(device: str) -> dict[str, Any]:
    """Return versions, device and thread count as plain JSON values."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "host": platform.node(),
        "device": _device_name(device),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "commit": _commit(),
    }


def peak_memory(device: str) -> int:
    """Return the peak memory in bytes, of the device if it has its own memory."""
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device_name(device: str) -> str:
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        return str(torch.cuda.get_device_name())
    return device


def _commit() -> str | None:
    """Return the commit of the library's checkout, marked if it has uncommitted changes."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():  # installed, perhaps below another repository
        return None
    try:
        output = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return output.stdout.strip() or None
