# The study behind the rules, and the few look-ups that turn wildcards into inputs and options.
import os

from snakemake.exceptions import WorkflowError

from diffusability.errors import StudyError
from diffusability.study.earlier_jobs import check_no_earlier_jobs
from diffusability.study.interpreter import put_interpreter_on_path
from diffusability.study.load import DEFAULT_STUDY, load_study
from diffusability.study.needs import check_needs
from diffusability.study.plan import Plan
from diffusability.study.stages import RESULTS, path_template
from diffusability.study.targets import (
    ANALYSIS_TABLES,
    CLAIMS,
    CLAIMS_TABLE,
    COLLECTED_TABLES,
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

TABLES = table_files(STUDY)
FIGURES = figure_files(STUDY)
PICTURES = picture_files(PLAN)
REPORT = report_file(STUDY)
STUDY_ARGUMENTS = study_arguments(STUDY_FILES, workflow.config_settings.config)
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"


onstart:
    try:
        check_needs(STUDY)
        if workflow.executor_plugin.name == "slurm":
            check_no_earlier_jobs(os.getcwd())
    except StudyError as error:
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


def gpus(stage):
    """Return a resources function: the GPUs that share one artifact of `stage`."""

    def count(wildcards):
        return PLAN.find(stage, dict(wildcards)).local.get("gpus", 1)

    return count


def launcher(wildcards, resources):
    """Return the command in front of a script: one process for each GPU."""
    if resources.gpu == 1:
        return "python"
    return (
        f"python -m torch.distributed.run --standalone --nproc-per-node {resources.gpu}"
    )
