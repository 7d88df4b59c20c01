"""What users import from the packages of metrics and of Fisher geometry."""

import ast
import subprocess
import sys
from importlib import import_module

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.parametrize("package", ["diffusability.metrics", "diffusability.fisher"])
def test_every_public_name_is_there(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'velocities'; it has"):
        module.velocities  # noqa: B018


def test_every_measure_function_is_public() -> None:
    defined = {
        node.name
        for path in (REPOSITORY / "diffusability/metrics").glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("measure_")
    }
    assert len(defined) > 20
    assert defined <= set(import_module("diffusability.metrics").__all__)


def test_modules_are_imported_when_they_are_asked_for() -> None:
    program = (
        "import sys, diffusability.metrics; print('torch' in sys.modules); "
        "from diffusability.metrics import velocity, measure_velocity; "
        "print(velocity.measure_velocity is measure_velocity); "
        "print('diffusability.metrics.uniformity' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr
