"""Imports point one way: from what a person runs down to the typed study."""

import ast
from pathlib import Path

import pytest

# each layer may import itself and the layers after it
LAYERS = (
    ("cli", "script"),
    ("scoring",),
    ("stages",),
    ("report",),
    ("figures",),
    ("analysis",),
    ("metrics",),
    ("fisher",),
    ("flops", "step_memory"),
    ("diffusion", "tokenizers"),
    ("training",),
    ("latents", "data", "encoders"),
    ("nn",),
    ("execution",),
    ("artifacts", "statistics"),
    ("study",),
    ("errors", "lazy"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# encoders are trained by the loop, and latents are read by shards of images
ALLOWED = {("encoders", "training"), ("latents", "data"), ("encoders", "data")}
MODULES = sorted((Path(__file__).parents[2] / "diffusability").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the layers that a module imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffusability."):
            names.add((node.module or "").split(".")[1])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_imports_point_down(path: Path) -> None:
    relative = path.relative_to(Path(__file__).parents[2] / "diffusability")
    layer = relative.parts[0].removesuffix(".py")
    if layer == "__init__":
        return
    for other in imported(path):
        sideways = RANK[other] == RANK[layer] and other != layer
        upward = RANK[other] < RANK[layer]
        assert not (upward or sideways) or (layer, other) in ALLOWED, f"{layer} imports {other}"
