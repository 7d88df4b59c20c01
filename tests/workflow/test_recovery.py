"""What runs after Snakemake was killed, or when a job is forced."""

import base64
from pathlib import Path

import pytest

from diffusability.study.load import read_yaml
from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace

pytestmark = pytest.mark.slow


def test_the_whole_study_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Snakemake alone would make what it had marked as unfinished, and call that everything."""
    workspace = Workspace.create(tmp_path)
    workspace.write_study(read_yaml(REPOSITORY / "studies" / "smoke.yaml"))
    workspace.run("snakemake", "-c1", "--configfile", "study.yaml", "--until", "prepare_dataset")
    left = workspace.planned()
    assert len(left) > 20
    (card,) = workspace.path.glob("results/dataset/*/*/provenance.json")
    name = str(card.relative_to(workspace.path))
    mark = base64.urlsafe_b64encode(name.encode()).decode()
    (workspace.path / ".snakemake" / "incomplete" / mark).write_text("{}")
    assert workspace.planned() == left
    forced = workspace.planned("-R", "prepare_dataset")
    assert forced == {**left, "prepare_dataset": ["dataset=digits"]}
