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
    ("claims",),
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
    ("lazy",),
    ("errors",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# and inside of the study
STUDY_LAYERS = (
    ("preflight", "fisher_toy"),
    ("planning", "reading"),
    ("study",),
    ("metrics",),
    ("entries",),
    ("sources",),
    ("core",),
)
STUDY_RANK = {name: rank for rank, names in enumerate(STUDY_LAYERS) for name in names}
# encoders are trained by the loop, and latents are read by shards of images
ALLOWED = {("encoders", "training"), ("latents", "data"), ("encoders", "data")}
PACKAGE = Path(__file__).parents[2] / "diffusability"
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path, package: str = "diffusability") -> set[str]:
    """Return the parts of a package that a module imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            names.add((node.module or "").removeprefix(f"{package}.").split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_imports_point_down(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if layer == "__init__":
        return
    for other in imported(path):
        sideways = RANK[other] == RANK[layer] and other != layer
        upward = RANK[other] < RANK[layer]
        assert not (upward or sideways) or (layer, other) in ALLOWED, f"{layer} imports {other}"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "study").rglob("*.py")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_imports_inside_the_study_point_down(path: Path) -> None:
    layer = path.relative_to(PACKAGE / "study").parts[0].removesuffix(".py")
    if layer == "__init__":
        return
    for other in imported(path, "diffusability.study") - {layer}:
        assert STUDY_RANK[other] > STUDY_RANK[layer], f"study.{layer} imports study.{other}"
