"""A change to the code of a stage is either a new version or a stated cosmetic one."""

import ast
import json

from diffusability.study.stages import STAGES
from tests.stage_digests import FILE, code_of, stage_digests


def test_changed_code_is_versioned_or_accepted() -> None:
    accepted, present = json.loads(FILE.read_text()), stage_digests()
    assert accepted.keys() == present.keys()
    changed = [stage for stage in present if accepted[stage] != present[stage]]
    assert not changed, (
        f"the code behind {', '.join(changed)} is not the accepted one. If it changes what the "
        "stage produces, raise the stage's version in diffusability/study/stages.py; then, and "
        "also if the change is cosmetic, run: python -m tests.stage_digests --accept"
    )


def test_the_code_of_a_stage_is_followed_through_its_imports() -> None:
    code = code_of("diffusability.stages.tokenizer")
    assert "diffusability.tokenizers.regularizers.lcr" in code
    assert "diffusability.training.loop" in code
    assert "diffusability.study.fingerprint" in code
    assert "diffusability.artifacts.job" not in code
    assert "diffusability.diffusion.sit" not in code


def test_every_stage_has_code_and_a_script(repository) -> None:
    for entry in STAGES.values():
        script = repository / "scripts" / f"{entry.rule}.py"
        assert script.exists()
        assert len(script.read_text().splitlines()) <= 40
        ast.parse(script.read_text())
