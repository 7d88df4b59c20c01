"""`snakemake --profile slurm` through a stub of Slurm: what it asks for, what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from diffusability.study.core.merge import merge
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import read_yaml
from diffusability.study.reading.resolve import resolve_study
from tests.cluster import stub_slurm, warm_snakemake
from tests.cluster.simulation import ON_SLURM, create, simulate
from tests.conftest import REPOSITORY

pytest.importorskip("snakemake_executor_plugin_slurm")

STUDY = merge(
    read_yaml(REPOSITORY / "studies" / "smoke.yaml"),
    {
        "backbones": {"sit-b": {"gpus": 8}},
        "sampling": {"guidance": [1.0, 1.5]},
        "select": {"tokenizers": ["conv-base"]},
    },
)
PLAN = Plan(resolve_study(STUDY, "study.yaml"))
SAMPLES = [a for a in PLAN.of_stage("samples") if a.labels["backbone"] == "sit-a"]
HERE = [a.card for a in (*PLAN.of_stage("latents", "pixel_fisher"), *SAMPLES)]
MEASURED = [
    artifact.card for artifact in PLAN.measured if artifact.labels.get("backbone") != "sit-b"
]
(TRAINED,) = (a.card for a in PLAN.of_stage("diffusion") if a.labels["backbone"] == "sit-b")
FAILS = [["train_diffusion", "OUT_OF_MEMORY"], ["latents", "FAILED"]]


class Run:
    """What is ready once samples are there, on Slurm; a training and a whole group fail once."""

    def __init__(self, folder: Path) -> None:
        self.workspace = create(folder / "work", STUDY)
        here = simulate(self.workspace, "-c2", *HERE)
        assert here.status == 0, here.output
        self.cluster = folder / "slurm"
        wanted = [*MEASURED, TRAINED]
        with warm_snakemake.serving(folder) as snakemake:
            commands = [stub_slurm.install(self.cluster, fails=FAILS, snakemake=snakemake)]
            self.outcome = simulate(self.workspace, *ON_SLURM, *wanted, commands=commands)
        self.jobs = stub_slurm.submitted(self.cluster)

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the submissions of a rule or of a group."""
        return [job for job in self.jobs if job["comment"].startswith(f"rule_{name}")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that the tests look at."""
    run = Run(tmp_path_factory.mktemp("slurm"))
    assert run.outcome.status == 0, run.outcome.output
    return run


def test_jobs_without_gpu_are_one_group_of_a_tokenizer(run: Run) -> None:
    first, second = run.of("latents.conv-base.0")
    names = ("fisher", "semantics", "smoothness", "spatial", "uniformity", "velocity")
    together = "_".join(f"measure_{name}" for name in names)
    said = first["comment"].removesuffix("...")  # a long comment is cut
    assert f"rule_latents.conv-base.0_{together}".startswith(said)
    assert (first["partition"], first["cpus_per_task"], first["time"]) == ("cpu", "6", "120")
    assert "gpus" not in first
    assert "gres" not in first
    # it failed once, and got more of both
    assert [first["state"], second["state"]] == ["FAILED", "COMPLETED"]
    assert [first["mem"], second["mem"]] == ["96000", "192000"]
    assert second["time"] == "240"


@pytest.mark.parametrize(
    ("name", "cpus"), [("images.conv-base.0", "3"), ("generation.conv-base.0.sit-a.0", "5")]
)
def test_jobs_of_a_group_share_one_gpu(run: Run, name: str, cpus: str) -> None:
    (job,) = run.of(name)
    assert (job["partition"], job["gres"], job["cpus_per_task"]) == ("gpu", "gpu:1", cpus)
    assert "gpus" not in job


def test_a_training_gets_its_gpus_and_more_memory_when_it_was_killed_for_it(run: Run) -> None:
    first, second = run.of("train_diffusion")
    # the comment says rule, tokenizer and backbone
    assert first["comment"].startswith("rule_train_diffusion_wildcards_conv-base_0_sit-b_0")
    assert (first["partition"], first["gpus"], first["cpus_per_gpu"]) == ("gpu", "8", "8")
    assert first["nodes"] == "1"
    assert [first["state"], second["state"]] == ["OUT_OF_MEMORY", "COMPLETED"]
    assert [first["mem"], second["mem"]] == ["64000", "128000"]
    assert first["time"] == second["time"] == "720"


def test_every_job_is_accounted_named_requeued_and_logged(run: Run) -> None:
    logs = f"{run.workspace.path}/results/logs/slurm/"
    for job in run.jobs:
        assert (job["account"], job["requeue"]) == ("study", True)
        assert job["job_name"].startswith("diffusability_")
        assert job["output"].startswith(logs)
    failed = [job for job in run.jobs if job["state"] != "COMPLETED"]
    assert len(failed) == 2
    (report,) = Path(logs).glob("efficiency_report_*.csv")
    assert len(report.read_text().splitlines()) == 1 + len(run.jobs)


def test_all_that_was_asked_for_is_there(run: Run) -> None:
    assert all((run.workspace.path / card).exists() for card in [*MEASURED, TRAINED])
    measured = [a for a in PLAN.measured if a.card in MEASURED]
    assert len(measured) == 9 + 1 + 2
    # twelve measurements were three jobs of Slurm, one of them twice; the judge was trained before
    assert len(run.jobs) == 4 + 2 + len(run.of("train_encoder"))


def test_evicted_latents_are_restored_by_a_job_of_their_own(run: Run, tmp_path: Path) -> None:
    workspace = run.workspace.copy(tmp_path / "work")
    shutil.rmtree(workspace.path / "results/cache/latents")
    wanted = PLAN.of_stage("velocity", "semantics", "reconstruction")
    for artifact in wanted:
        shutil.rmtree(workspace.path / artifact.path)
    with warm_snakemake.serving(tmp_path) as snakemake:
        commands = [stub_slurm.install(tmp_path / "slurm", snakemake=snakemake)]
        cards = [artifact.card for artifact in wanted]
        outcome = simulate(workspace, *ON_SLURM, *cards, commands=commands)
    assert outcome.status == 0, outcome.output
    first, *others = stub_slurm.submitted(tmp_path / "slurm")
    assert first["comment"].startswith("rule_restore_latents_wildcards_conv-base_0")
    assert (first["partition"], first["gpus"], first["cpus_per_task"]) == ("gpu", "1", "8")
    assert (first["mem"], first["time"]) == ("32000", "240")
    # the readers share jobs as ever
    names = sorted(job["comment"].partition("_")[2].partition(".")[0] for job in others)
    assert names == ["images", "latents"]
    assert all((workspace.path / card).exists() for card in cards)


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        ("slurm_account=", "(no account; yours: other, study): You must specify an account"),
        ("gpu_model=h1oo", "`h1oo`, which this cluster does not have; it has h100"),
        ("runtime=3", "train_tokenizer: a `runtime` of 3 min ends before the first checkpoint"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_submitted(
    tmp_path: Path, resource: str, message: str
) -> None:
    workspace = create(tmp_path / "work", STUDY)
    commands = [stub_slurm.install(tmp_path / "slurm")]
    change = ("--set-resources", f"train_tokenizer:{resource}")
    (tokenizer,) = PLAN.of_stage("tokenizer")
    outcome = simulate(workspace, *ON_SLURM, tokenizer.card, *change, commands=commands)
    assert outcome.status != 0
    assert message in outcome.output
    assert stub_slurm.submitted(tmp_path / "slurm") == []
    dry = simulate(workspace, *ON_SLURM, tokenizer.card, *change, "-n")
    assert dry.status == 0, dry.output
