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
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "diffusability"
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path, package: str = "diffusability") -> set[str]:
    """Return the parts of a package that a module imports, also inside functions."""
    whole: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            whole += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            whole += [alias.name for alias in node.names]
    folder = ROOT / package.replace(".", "/")
    inside = [name.removeprefix(f"{package}.") for name in whole if name.startswith(f"{package}.")]
    names = {name.split(".")[0] for name in inside}
    return {name for name in names if list(folder.glob(name)) or list(folder.glob(f"{name}.py"))}


def test_every_form_of_import_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "import diffusability.cli\nfrom diffusability import report\n"
        "def f():\n    from diffusability.stages.make import make\n"
        "from diffusability import score\n"
    )
    assert imported(module) == {"cli", "report", "stages"}
    assert len(MODULES) > 250


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
