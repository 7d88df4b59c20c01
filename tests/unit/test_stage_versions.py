"""A change to the code of a stage is either a new version or a stated cosmetic one."""

import json
from inspect import signature
from pathlib import Path

import pytest
import yaml

from diffusability.errors import DiffusabilityError
from diffusability.lazy import load_code
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.planning.stages import BULK, ON_LATENTS, STAGES, stage_code
from tests.stage_digests import FILE, code_of, stage_digests


def test_changed_code_is_versioned_or_accepted() -> None:
    accepted, present = json.loads(FILE.read_text()), stage_digests()
    added = sorted(accepted.keys() ^ present.keys())
    assert not added, (
        f"{', '.join(added)}: added or removed; run: python -m tests.stage_digests --accept"
    )
    changed = [stage for stage in present if accepted[stage] != present[stage]]
    assert not changed, (
        f"the code behind {', '.join(changed)} is not the accepted one. If it changes what the "
        "stage produces, raise its version in diffusability/study/planning/stages.py; then, and "
        "also if the change is cosmetic, run: python -m tests.stage_digests --accept"
    )


def test_the_code_of_a_stage_is_followed_through_its_imports() -> None:
    code = code_of("diffusability.stages.tokenizer")
    assert "diffusability.tokenizers.regularizers.lcr" in code
    assert "diffusability.training.loop" in code
    assert "diffusability.study.core.fingerprint" in code
    assert "diffusability.artifacts.job" not in code
    assert "diffusability.diffusion.transformer" not in code


def test_every_stage_has_code() -> None:
    for stage, entry in STAGES.items():
        code = load_code(entry.code)
        assert list(signature(code).parameters) == ["inputs", "spec", "out"], stage
    for group in METRIC_GROUPS.values():
        assert callable(load_code(group.code))


def test_code_that_is_not_there_is_named() -> None:
    for code in ("diffusability.metrics.nowhere:measure", "diffusability.metrics.velocity:nothing"):
        with pytest.raises(DiffusabilityError, match=f"{code}: declared, but not found"):
            load_code(code)


def test_the_code_of_a_plain_metric_is_that_of_its_function_too() -> None:
    code = code_of(*stage_code("velocity"))
    assert {"diffusability.metrics.velocity", "diffusability.stages.make"} <= set(code)
    assert "diffusability.metrics.semantics" not in code


def test_the_slurm_profile_groups_rules_as_stages_say(repository: Path) -> None:
    profile = yaml.safe_load((repository / "slurm" / "config.yaml").read_text())
    grouped = {entry.rule: entry.group for entry in STAGES.values() if entry.group}
    assert profile["groups"] == grouped
    assert set(profile["group-components"]) == set(grouped.values())
    on_gpu = {entry.rule for entry in STAGES.values() if entry.gpu}
    on_gpu |= {f"restore_{stage}" for stage in BULK if STAGES[stage].gpu}
    assert set(profile["set-resources"]) == on_gpu
    members = list(grouped.values()).count(ON_LATENTS)
    assert profile["group-components"][ON_LATENTS] >= members
