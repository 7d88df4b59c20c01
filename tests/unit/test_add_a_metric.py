"""Add a metric as docs/extending.md says: a declaration and a function, and nothing else."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from diffusability.study.metrics.metric_group import MetricGroup, MetricGroups, MetricOptions
from diffusability.study.metrics.quantity import Quantity
from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace

DECLARATION = '''@METRIC_GROUPS.add(
    "roughness",
    code="diffusability.metrics.roughness:measure_roughness",
    about="Roughness: how much do neighbouring cells differ?",
    quantities=(Quantity("roughness.step", "mean difference", "lower"),),
    reads=("mean",),
    title="roughness",
    shows={"step": "roughness.step"},
)
class RoughnessMetric(MetricOptions):
    """Mean squared difference between neighbouring cells."""

    power: float = Field(2.0, gt=0, description="of the differences")


class _Metrics(Spec):
'''
FUNCTION = '''"""Roughness of latents."""

from torch import Tensor

from diffusability.metrics.measurement import Measurement


def measure_roughness(latents: Tensor, *, power: float) -> list[Measurement]:
    """Return the mean |difference|^power of cells side by side, of (N, C, h, w) latents."""
    steps = latents.double().diff(dim=3).abs().pow(power).mean((1, 2, 3))  # (N,)
    return [
        Measurement(
            metric="roughness.step",
            value=steps.mean().item(),
            stderr=(steps.std() / len(steps) ** 0.5).item(),
            n=len(steps),
            unit="1",
            higher_is_better=False,
        )
    ]
'''
RUN = """
import json
import torch
from pathlib import Path
from types import SimpleNamespace
from diffusability.analysis.catalogue import PERSPECTIVES, SHOWN, SHOWN_METRICS
from diffusability.lazy import load_code
from diffusability.study.reading.load import load_study
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import STAGES
from diffusability.study.preflight.cost import Costs

study = load_study("study.yaml")
artifact = Plan(study).of_stage("roughness")[0]
class Latents(torch.Tensor):
    def rounded_to(self, rows):
        return None


mean = torch.arange(24.0).reshape(2, 1, 3, 4).as_subclass(Latents)
inputs = SimpleNamespace(
    stage="roughness",
    data=SimpleNamespace(split=lambda name: torch.tensor([0, 1]), masked=False),
    latents=SimpleNamespace(mean=mean),
    rounding=lambda chosen: (),
)
options = METRIC_GROUPS["roughness"].options.model_validate(artifact.spec)
(cell,), _ = load_code(STAGES["roughness"].code)(inputs, options, Path())
print(json.dumps({
    "value": cell.value,
    "spec": dict(artifact.spec),
    "in": sorted(artifact.upstream),
    "title": PERSPECTIVES["roughness"],
    "further": "roughness.step" in SHOWN_METRICS,
    "counted": Costs(study).work(artifact).macs,
}))
"""
STEP = Quantity("x.step", "mean difference", "lower")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the project with one more metric: two files outside the study."""
    workspace = Workspace.create(tmp_path_factory.mktemp("extended") / "work")
    package = workspace.path / "diffusability"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "diffusability", package, ignore=ignored)
    declarations = package / "study" / "metrics" / "groups.py"
    text = declarations.read_text()
    assert text.count("class _Metrics(Spec):\n") == 1
    declarations.write_text(text.replace("class _Metrics(Spec):\n", DECLARATION))
    (package / "metrics" / "roughness.py").write_text(FUNCTION)
    study = (workspace.path / "studies" / "smoke.yaml").read_text()
    assert "\nmetrics:\n" in study
    added = "\nmetrics:\n  roughness: {power: 1.0}\n"
    (workspace.path / "study.yaml").write_text(study.replace("\nmetrics:\n", added))
    return workspace


def run(workspace: Workspace, *command: str) -> str:
    """Return what a command says that imports the extended package."""
    environment = os.environ | {"PYTHONPATH": str(workspace.path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command],
        cwd=workspace.path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_new_metric_is_planned_and_becomes_a_rule(extended: Workspace) -> None:
    output = run(extended, "-m", "snakemake", "-n", "--configfile", "study.yaml")
    assert output.count("\nrule measure_roughness:") == 2  # tokenizers
    assert "results/logs/measure_roughness/conv-base.s0." in output
    listed = run(extended, "-m", "snakemake", "--list-rules", "--configfile", "study.yaml")
    assert "measure_roughness (Roughness: how much do neighbouring cells differ?)" in listed


def test_a_new_metric_is_measured_and_shown(extended: Workspace) -> None:
    found = json.loads(run(extended, "-c", RUN))
    assert found == {
        "value": 1.0,
        "spec": {"split": "val", "power": 1.0},
        "in": ["dataset", "latents", "tokenizer"],
        "title": {"step": "roughness.step"},
        "further": True,
        "counted": None,
    }


def test_the_script_knows_the_new_stage(extended: Workspace) -> None:
    by_hand = ("scripts/make.py", "roughness", "--study", "study.yaml", "--name", "conv-base")
    assert run(extended, *by_hand, "--dry-run").startswith("results/roughness/conv-base/s0/")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"quantities": ()}, "metric group `x`: quantities: states no definition"),
        ({"reads": ("means",)}, "metric group `x`: reads 'means'"),
        ({"upstream": ("images",)}, "upstream 'images'"),
        ({"code": "diffusability.metrics.x"}, "is not `module:function`"),
        ({"shows": {"x": "x.x"}}, "has no title"),
        ({"generator": "draws"}, "generator without reads"),
    ],
)
def test_a_declaration_that_nothing_acts_on_is_an_error(declared: dict, message: str) -> None:
    values = {"code": "a:b", "about": "What.", "quantities": (STEP,), **declared}
    with pytest.raises(TypeError, match=message):
        MetricGroup(name="x", options=MetricOptions, **values)


def test_a_name_is_declared_once() -> None:
    groups = MetricGroups()
    groups.add("x", code="a:b", about="What.", quantities=(STEP,))(MetricOptions)
    with pytest.raises(TypeError, match="`x` is declared already"):
        groups.add("x", code="a:b", about="What.", quantities=(STEP,))(MetricOptions)
