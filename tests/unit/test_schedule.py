"""What a schedule comes to: by hand on small plans, within bounds on the paper's."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusability.execution.estimates import Estimates
from diffusability.execution.plan_table import plan_table
from diffusability.execution.priority import CHAIN, Priorities
from diffusability.execution.schedule import Task, critical_path, schedule
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import STAGES
from diffusability.study.reading.load import load_study
from tests.conftest import REPOSITORY
from tests.workflow.workspace import Workspace

SECONDS = {"tokenizer": 10.0, "latents": 1.0, "diffusion": 5.0, "samples": 2.0, "generation": 1.0}
BYTES = {"tokenizer": 3, "latents": 100, "diffusion": 7, "samples": 40}
MODELS = ("sit-b", "sit-xl", "lightningdit-b", "lightningdit-xl")
ONE_GPU = {"backbones": {name: {"gpus": 1} for name in MODELS}, "bases": {"vae": {"gpus": 1}}}


def smoke(**overrides: Any) -> Plan:
    return Plan(load_study(REPOSITORY / "studies" / "smoke.yaml", overrides))


def tasks_of(plan: Plan, gpus: Callable[[Artifact], int] = lambda a: 1) -> dict[Artifact, Task]:
    """Return tasks of which only the chain to generation takes time, on a GPU."""
    return {
        a: Task(SECONDS.get(a.stage, 0.0), gpus(a) * (a.stage in SECONDS), BYTES.get(a.stage, 0))
        for a in plan
    }


def test_one_gpu_does_one_tokenizer_after_another() -> None:
    plan = smoke()  # two tokenizers, two backbones each
    found = schedule(plan, tasks_of(plan), gpus=1)
    assert found.seconds == 2 * (10 + 1 + 2 * (5 + 2 + 1))
    assert (found.latents, found.latent_bytes, found.sample_bytes) == (1, 100, 40)
    # fullest after the last training: two tokenizers, four models, the samples that are begun, the
    # latents, which the Fisher information of that model is still read from, and the first
    # tokenizer's two sets of samples where they are kept
    assert found.disk == 2 * 3 + 4 * 7 + 100 + 40
    assert found.disk_with_samples == found.disk + 2 * 40


def test_two_gpus_by_hand() -> None:
    plan = smoke()
    found = schedule(plan, tasks_of(plan), gpus=2)
    # 0-10 both tokenizers, 10-11 both latents, 11-16 two models of the first, 16-19 their samples
    # and evaluation beside no other work, for it goes first; then the same of the second
    assert found.seconds == 10 + 1 + 2 * 8
    assert (found.latents, found.latent_bytes, found.sample_bytes) == (2, 200, 80)


def test_many_gpus_take_the_critical_path() -> None:
    plan = smoke()
    tasks = tasks_of(plan)
    chain = critical_path(plan, tasks)
    assert [a.stage for a in chain if a.stage in SECONDS] == list(SECONDS)
    for made, upstream in zip(chain[1:], chain[:-1], strict=True):
        assert upstream in made.upstream.values()
    assert schedule(plan, tasks, gpus=100).seconds == sum(tasks[a].seconds for a in chain) == 19


def test_what_is_done_needs_nothing_but_its_latents_count() -> None:
    plan = smoke()
    tasks = tasks_of(plan)
    left = {a: task for a, task in tasks.items() if a.labels.get("backbone") == "sit-b"}
    found = schedule(plan, left, gpus=1)
    assert found.seconds == 2 * (5 + 2 + 1)
    assert found.latents == 2  # both are there and needed from the start
    assert schedule(plan, {}, gpus=1).seconds == 0


def test_a_job_on_two_gpus_is_not_overtaken_by_what_would_delay_it() -> None:
    plan = smoke()
    tasks = tasks_of(plan, lambda a: 2 if a.labels.get("backbone") == "sit-a" else 1)
    found = schedule(plan, tasks, gpus=2)
    # 0-11 as above, 11-16 sit-a of the first on both. 16-21 its sit-b; sampling sit-a waits for
    # both, and sit-b of the second, which ends in time, fills the gap. 21-24 samples of sit-a.
    # 24-27 samples of both sit-b, and only then 27-35 sit-a of the second
    assert found.seconds == 35
    alone = schedule(plan, tasks, gpus=1)  # takes twice as long on one
    assert alone.seconds == 2 * (10 + 1 + 2 * 8 + 8)


@pytest.fixture(scope="module")
def paper() -> tuple[Plan, dict[Artifact, Task]]:
    """The paper's study with one GPU a job."""
    plan = Plan(load_study(REPOSITORY / "studies" / "imagenet256.yaml", ONE_GPU))
    return plan, Estimates(plan).tasks()


@pytest.mark.parametrize("gpus", [1, 8, 32])
def test_no_more_tokenizers_than_gpus_have_latents_that_are_needed(
    paper: tuple[Plan, dict[Artifact, Task]], gpus: int
) -> None:
    plan, tasks = paper
    found = schedule(plan, tasks, gpus)
    assert found.latents <= gpus
    work = sum(task.seconds * task.gpus for task in tasks.values())
    longest = sum(tasks[a].seconds for a in critical_path(plan, tasks))
    # Graham's bounds of list scheduling, from below and from above; a chain also has the dataset
    # and one statistic of latents, which hold no GPU
    cores = {a.stage: task.seconds for a, task in tasks.items() if not task.gpus}
    waits = cores.pop("dataset") + max(cores.values())
    assert max(longest, work / gpus) <= found.seconds * (1 + 1e-9)
    assert found.seconds <= work / gpus + longest * (1 - 1 / gpus) + waits / gpus
    assert found.disk < found.disk_with_samples < sum(task.bytes for task in tasks.values())


def test_the_bound_is_the_priorities_doing(
    paper: tuple[Plan, dict[Artifact, Task]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, tasks = paper
    inside = Priorities.of
    monkeypatch.setattr(Priorities, "of", lambda self, a: -(inside(self, a) % CHAIN))
    assert schedule(plan, tasks, 8).latents == 86


def test_priorities_finish_a_tokenizer_before_the_next() -> None:
    plan = smoke()
    priorities = Priorities(plan)
    by_chain = [
        [priorities.of(a) for a in plan if a.labels.get("tokenizer") == name]
        for name in plan.study.selected_tokenizers
    ]
    assert min(by_chain[0]) > max(by_chain[1])
    shared = [priorities.of(a) for a in plan.of_stage("dataset", "encoder")]
    assert min(shared) > max(by_chain[0])


def test_rules_ask_for_these_priorities_and_for_gpus_where_stages_have_them(tmp_path: Path) -> None:
    plan = Plan(load_study(REPOSITORY / "studies" / "smoke.yaml"))
    priorities = Priorities(plan)
    snakemake = ("snakemake", "-n", "--configfile", "studies/smoke.yaml")
    output = Workspace.create(tmp_path).run(*snakemake).stdout
    asked = {
        card: (number, "gpu=" in block)
        for block in output.split("\nrule ")
        for card in re.findall(r"output: (\S+/provenance.json)", block)
        for number in re.findall(r"priority: (\d+)", block) or ["0"]
    }
    assert len(asked) == len(plan)
    for artifact in plan:
        wanted = (str(priorities.of(artifact)), STAGES[artifact.stage].gpu)
        assert asked[artifact.card] == wanted, artifact.path


@pytest.mark.usefixtures("workplace")
def test_the_plan_says_how_long_and_how_full() -> None:
    text = plan_table(Plan(load_study(REPOSITORY / "studies" / "imagenet256.yaml")), gpus=[16])
    assert re.search(r"critical path: 37\.\d h \(dataset .*, tokenizer .* generation ", text)
    assert re.search(
        r" 16 +2,0\d\d\.\d h +[\d,.]+ h  21\.4 TiB / 12\.\d TiB / [\d.]+ [TG]iB\n", text
    )
    assert re.search(r"latents of \d+ tokenizers \([\d.]+ [TG]iB\), [\d.]+ GiB of samples\n", text)
