# The study behind the rules, and the few look-ups that turn wildcards into inputs and options.
import os

from snakemake.exceptions import WorkflowError

from diffusability.artifacts.room import check_results
from diffusability.artifacts.slurm import check_submission
from diffusability.errors import DiffusabilityError, StudyError
from diffusability.study.cost import Costs
from diffusability.study.interpreter import put_interpreter_on_path
from diffusability.study.load import DEFAULT_STUDY, load_study
from diffusability.study.needs import check_needs
from diffusability.study.plan import Plan
from diffusability.study.priority import Priorities
from diffusability.study.run_time import (
    is_resumed,
    more_memory,
    more_minutes,
    run_minutes,
)
from diffusability.study.stages import CARD, RESULTS, STAGES, path_template
from diffusability.study.targets import (
    ANALYSIS_TABLES,
    CLAIMS,
    CLAIMS_TABLE,
    COLLECTED_TABLES,
    LATENT_CLAIMS,
    figure_files,
    picture_files,
    report_file,
    study_arguments,
    table_files,
)

put_interpreter_on_path()

# a study given on the command line replaces the default one; Snakemake's own `configfile:` would
# merge the two and leave the default's tokenizers in every other study
STUDY_FILES = [os.path.relpath(f) for f in workflow.config_settings.configfiles] or [
    DEFAULT_STUDY
]
try:
    STUDY = load_study(STUDY_FILES, workflow.config_settings.config)
except StudyError as error:
    raise WorkflowError(str(error))
PLAN = Plan(STUDY)
PRIORITIES = Priorities(PLAN)
COSTS = Costs(STUDY)
TRAININGS = {STAGES[artifact.stage].rule for artifact in PLAN if is_resumed(artifact)}

TABLES = table_files(STUDY)
FIGURES = figure_files(STUDY)
PICTURES = picture_files(PLAN)
REPORT = report_file(STUDY)
STUDY_ARGUMENTS = study_arguments(STUDY_FILES, workflow.config_settings.config)
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"


def lift_default_limit():
    """Let only `jobs` and `cores` bound what is started, unless another limit was stated.

    Snakemake's default of 100 jobs a second looks again a second after every look, and every job
    that ends is one more: after a thousand jobs, a thousand looks a second.
    """
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit is not None and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


onstart:
    # of the jobs that are to run; those that they start in turn come here no more
    lift_default_limit()
    try:
        check_needs(STUDY)
        warning = check_results(PLAN)
        if warning:
            logger.warning(warning)
        if not workflow.local_exec:
            check_submission(workflow, TRAININGS)
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


def job(stage):
    """Return a params function: the job of an artifact as canonical JSON.

    Asking for `threads` tells Snakemake not to compare it with the job of the last run: what the
    job makes is in the path, and how it is made (`train.compile`) is no reason to make it again.
    """

    def as_json(wildcards, threads):
        return PLAN.find(stage, dict(wildcards)).job()

    return as_json


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
                path, caption=f"../report/{kind}.rst", category=kind.capitalize()
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


def command(stage):
    """Return a params function: what makes an artifact of `stage`, one process per GPU.

    A job whose training resumes is told its time. As with `job`, asking for `resources` tells
    Snakemake not to compare the command with that of the last run.
    """
    script = f"scripts/make.py {stage}"

    def line(wildcards, resources):
        limit = f" --minutes {resources.runtime}" if STAGES[stage].resumes else ""
        if resources.get("gpu", 1) <= 1:
            return f"python {script}{limit}"
        return (
            f"python -m diffusability.artifacts.gpus {resources.gpu}"
            f" python -m torch.distributed.run --standalone --nproc-per-node {resources.gpu}"
            f" {script}{limit}"
        )

    return line
