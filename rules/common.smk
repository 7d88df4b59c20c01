# The study behind the rules, and the few look-ups that turn wildcards into inputs and options.
import os
from pathlib import Path

from snakemake.exceptions import WorkflowError

from diffusability.artifacts.bulk import marker
from diffusability.artifacts.inventory import evicted_inputs
from diffusability.errors import DiffusabilityError
from diffusability.execution import snakemake_adapter
from diffusability.execution.disk_check import check_results
from diffusability.execution.fork_server import share_imports
from diffusability.execution.job_environment import prepare_jobs
from diffusability.execution.slurm import check_submission
from diffusability.study.commands import study_arguments
from diffusability.study.cost import Costs
from diffusability.study.load import load_study
from diffusability.study.needs import check_needs
from diffusability.study.plan import Plan
from diffusability.execution.priority import Priorities
from diffusability.execution.run_time import (
    is_resumed,
    more_memory,
    more_minutes,
    run_minutes,
)
from diffusability.study.stages import CARD, RESULTS, STAGES, path_template
from diffusability.study.targets import (
    ANALYSIS_TABLES,
    CLAIMS_TABLE,
    COLLECTED_TABLES,
    digest,
    figure_files,
    picture_files,
    report_file,
    table_files,
    table_names,
)
from diffusability.study.workflow_files import (
    CAPTIONS,
    CLAIMS,
    FISHER_CLAIMS,
    LATENT_CLAIMS,
    toy_study,
)

try:
    snakemake_adapter.check_version()
    STUDY_FILES, OVERRIDES = snakemake_adapter.given_study(workflow, config)
    prepare_jobs(workflow, STUDY_FILES, OVERRIDES)
    STUDY = load_study(STUDY_FILES, OVERRIDES)
except DiffusabilityError as error:
    raise WorkflowError(str(error))
PLAN = Plan(STUDY)
PRIORITIES = Priorities(PLAN)
COSTS = Costs(STUDY)
TRAININGS = {STAGES[artifact.stage].rule for artifact in PLAN if is_resumed(artifact)}

TABLES = table_files(STUDY)
FIGURES = figure_files(STUDY)
PICTURES = picture_files(PLAN)
REPORT = report_file(STUDY)
STUDY_ARGUMENTS = study_arguments(STUDY_FILES, OVERRIDES)
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
RESTORE = {}  # checkpoint of every stage whose files can be evicted; see restore.smk
ASKED = set()  # paths of artifacts that this process has had restored


onstart:
    # in the process that a person started, and not in those of its jobs
    snakemake_adapter.lift_default_rate_limit(workflow)
    try:
        check_needs(STUDY)
        warning = check_results(PLAN)
        if warning:
            logger.warning(warning)
        if snakemake_adapter.submits_jobs(workflow):
            check_submission(workflow, TRAININGS)
        else:
            share_imports()
    except DiffusabilityError as error:
        raise WorkflowError(str(error))


wildcard_constraints:
    fingerprint="[0-9a-f]{12}",
    dataset="[^/]+",
    encoder="[^/]+",
    tokenizer="[^/]+",
    tokenizer_seed="[0-9]+",
    backbone="[^/]+",
    seed="[0-9]+",
    guidance="[0-9.]+",


def made_from(stage):
    """Return an input function: the cards of what an artifact of `stage` is made from.

    Their paths hold fingerprints, so what they stand for cannot change under the same name: their
    age says nothing (`ancient`), and a copy, a checkout or a touch retrains nothing.
    """

    def cards(wildcards):
        upstream = PLAN.find(stage, dict(wildcards)).upstream
        return {role: ancient(artifact.card) for role, artifact in upstream.items()}

    return cards


def restored(stage):
    """Return an input function: no file, but evicted files that a job reads are restored first.

    It asks only for what is to be made and only in the process that a person started. So the
    inputs of a finished job never change, and a job on another machine never restores anything.
    """
    made = STAGES[stage]

    def restore(wildcards):
        artifact = PLAN.find(stage, dict(wildcards))
        files = [f"{artifact.path}/{name}" for name in (CARD, *made.outputs)]
        forced = snakemake_adapter.is_forced(workflow, made.rule, files)
        if not RESTORE or (os.path.exists(artifact.card) and not forced):
            return []
        for upstream in evicted_inputs(artifact):
            if upstream.path not in ASKED:
                # left by an earlier restore, whose files were removed by hand
                marker(Path(upstream.path)).unlink(missing_ok=True)
                ASKED.add(upstream.path)
            labels = {**upstream.labels, "fingerprint": upstream.fingerprint}
            RESTORE[upstream.stage].get(**labels)
        return []

    return restore


def job(stage):
    """Return a params function: the job of an artifact as canonical JSON.

    Asking for `threads` tells Snakemake not to compare it with the job of the last run: what the
    job makes is in the path, and how it is made (`train.compile`) is no reason to make it again.
    """

    def as_json(wildcards, threads):
        return PLAN.find(stage, dict(wildcards)).job()

    return as_json


def study_options(wildcards, threads):
    """Return the arguments that tell a script of the study, as a param.

    Asking for `threads` tells Snakemake not to compare them with those of the last run: a study
    file that was moved or renamed is no reason to make anything again.
    """
    return STUDY_ARGUMENTS


def priority(stage):
    """Return a priority function: tokenizers are finished in the order of the study."""

    def of(wildcards):
        return PRIORITIES.of(PLAN.find(stage, dict(wildcards)))

    return of


def files(stage):
    """Return the paths of a stage's outputs, its card first; pictures go into the report."""
    folder = path_template(stage)
    yield f"{folder}/{CARD}"
    for name in STAGES[stage].outputs:
        path, (kind, _, suffix) = f"{folder}/{name}", name.partition(".")
        if suffix == "png":
            path = report(
                path, caption=f"{CAPTIONS}/{kind}.rst", category=kind.capitalize()
            )
        yield path


def gpus(stage):
    """Return the resource `gpu`, where a stage needs one: GPUs that share one artifact."""

    def count(wildcards):
        return PLAN.find(stage, dict(wildcards)).local.get("gpus", 1)

    return {"gpu": count} if STAGES[stage].gpu else {}


def memory(megabytes):
    """Return a resources function: memory that grows with the attempt."""

    def at_attempt(wildcards, attempt):
        return more_memory(megabytes, attempt)

    return at_attempt


def fixed_minutes(least):
    """Return a resources function: a time that does not depend on the study, but on the attempt."""

    def at_attempt(wildcards, attempt):
        return more_minutes(least, attempt)

    return at_attempt


def minutes(stage, least):
    """Return a resources function: how long a job of `stage` may run, by what it has to compute."""

    def at_attempt(wildcards, attempt):
        artifact = PLAN.find(stage, dict(wildcards))
        return run_minutes(artifact, COSTS.work(artifact).seconds, least, attempt)

    return at_attempt


def command(stage, options=""):
    """Return a params function: what makes an artifact of `stage`, one process per GPU.

    A job whose training resumes is told its time. As with `job`, asking for `resources` tells
    Snakemake not to compare the command with that of the last run.
    """

    def line(wildcards, resources):
        limit = f" --minutes {resources.runtime}" if STAGES[stage].resumes else ""
        if resources.get("gpu", 1) <= 1:
            return f"python -m diffusability.script make.py {stage}{options}{limit}"
        return (
            f"python -m diffusability.execution.gpus {resources.gpu}"
            f" python -m torch.distributed.run --standalone --nproc-per-node {resources.gpu}"
            f' "$DIFFUSABILITY_WORKFLOW/scripts/make.py" {stage}{options}{limit}'
        )

    return line
