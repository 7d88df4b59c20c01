"""What Snakemake calls for the rules of stages: resources, commands and look-ups."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from diffusability.errors import StudyError
from diffusability.execution.rule_functions import StageFunctions, fixed_minutes, memory
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(load_study([str(REPOSITORY / "studies" / "smoke.yaml")]))


@pytest.fixture(scope="module")
def functions(plan: Plan) -> StageFunctions:
    return StageFunctions(plan, str(REPOSITORY / "studies" / "fisher_toy.yaml"))


def wildcards(artifact) -> dict[str, str]:
    return {**artifact.labels, "fingerprint": artifact.fingerprint}


def test_memory_and_time_grow_with_the_attempt() -> None:
    assert [memory(1000)({}, attempt) for attempt in (1, 2, 3)] == [1000, 2000, 2000]
    assert [fixed_minutes(30)({}, attempt) for attempt in (1, 2)] == [30, 60]


def test_a_diffusion_training_has_room_for_its_latents_and_no_more_when_it_comes_again() -> None:
    """Slurm is asked beforehand about the first attempt only: later ones must fit there too."""
    plan = Plan(load_study([str(REPOSITORY / "studies" / "imagenet256.yaml")]))
    memory = StageFunctions(plan, "").memory("diffusion")
    for tokenizer, asked in (("conv-f16d32-baseline", 151), ("conv-f16d64-baseline", 238)):
        artifact = next(a for a in plan.of_stage("diffusion") if a.labels["tokenizer"] == tokenizer)
        found = [memory(wildcards(artifact), attempt) / 1000 for attempt in (1, 2, 3)]
        assert found == [pytest.approx(asked, abs=1)] * 3


def test_inputs_are_cards_whose_age_says_nothing(plan, functions, workplace: Path) -> None:
    latents = plan.of_stage("latents")[0]
    made_from = functions.made_from("latents")
    # a missing one is found also behind a job that is forced
    assert not any(hasattr(card, "flags") for card in made_from(wildcards(latents)).values())
    Path(latents.path).mkdir(parents=True)
    Path(latents.card).touch()
    cards = made_from(wildcards(latents))
    assert {role: str(card) for role, card in cards.items()} == {
        "dataset": latents.upstream["dataset"].card,
        "tokenizer": latents.upstream["tokenizer"].card,
    }
    assert all(card.flags["ancient"] for card in cards.values())


def test_one_process_per_gpu(functions) -> None:
    command = functions.command("diffusion")
    one = command({}, SimpleNamespace(runtime=60, get=lambda name, default: default))
    assert one == "python -m diffusability.script make.py diffusion --minutes 60"
    four = command({}, SimpleNamespace(gpu=4, runtime=60, get=lambda name, default: 4))
    assert '--nproc-per-node 4 "$DIFFUSABILITY_WORKFLOW/scripts/make.py" diffusion' in four


def test_only_trainings_are_told_their_time(functions) -> None:
    restore = functions.command("latents", " --restore")
    command = restore({}, SimpleNamespace(runtime=60, get=lambda name, default: default))
    assert command == "python -m diffusability.script make.py latents --restore"
    assert functions.gpus("velocity") == {}


def test_the_toy_study_is_read_when_it_is_needed(plan) -> None:
    functions = StageFunctions(plan, "nowhere.yaml")
    assert functions.find("latents", wildcards(plan.of_stage("latents")[0]))
    with pytest.raises(StudyError, match="nowhere.yaml"):
        functions.find("fisher_toy", {})
