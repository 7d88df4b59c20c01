# The study behind the rules, and the few look-ups that turn wildcards into inputs and options.
import os
from pathlib import Path

from snakemake.exceptions import WorkflowError

from diffusability.artifacts.bulk import marker
from diffusability.artifacts.inventory import evicted_inputs
from diffusability.artifacts.named_content import check_named_contents
from diffusability.artifacts.records import record_study
from diffusability.errors import DiffusabilityError
from diffusability.execution import snakemake_adapter
from diffusability.execution.disk_check import check_results
from diffusability.execution.failures import failure_report
from diffusability.execution.fork_server import share_imports
from diffusability.execution.gpus import machine_gpus
from diffusability.execution.job_environment import prepare_jobs, say_who_shares_gpus
from diffusability.execution.rule_functions import (
    StageFunctions,
    fixed_minutes,
    memory,
)
from diffusability.execution.run_progress import end_progress, show_progress
from diffusability.execution.run_time import is_resumed
from diffusability.execution.slurm import check_submission
from diffusability.execution.stale_lock import remove_stale_lock
from diffusability.study.core.commands import study_arguments
from diffusability.study.core.workflow_files import (
    CAPTIONS,
    CLAIMS,
    FISHER_CLAIMS,
    LATENT_CLAIMS,
    toy_study,
)
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import CARD, RESULTS, STAGES, path_template
from diffusability.study.planning.tables import (
    ANALYSIS_TABLES,
    CLAIMS_TABLE,
    COLLECTED_TABLES,
)
from diffusability.study.planning.targets import (
    digest,
    figure_files,
    picture_files,
    report_file,
    table_files,
    table_names,
)
from diffusability.study.preflight.class_sizes import check_prepared
from diffusability.study.preflight.memory import check_memory
from diffusability.study.preflight.needs import check_needs
from diffusability.study.reading.load import load_study

if snakemake_adapter.starts_run(workflow) and remove_stale_lock():
    logger.warning(
        "An earlier Snakemake was killed in this folder; its lock was removed."
    )
snakemake_adapter.collect_garbage_rarely()
snakemake_adapter.know_arguments_of_resources()
try:
    snakemake_adapter.check_version()
    STUDY_FILES, OVERRIDES = snakemake_adapter.given_study(workflow, config)
    prepare_jobs(workflow, STUDY_FILES, OVERRIDES)
    STUDY = load_study(STUDY_FILES, OVERRIDES)
    if snakemake_adapter.starts_run(workflow):
        # here too, since onstart is left out where nothing is to be done
        check_named_contents(STUDY, record=False)
    PLAN = Plan(STUDY)
except DiffusabilityError as error:
    raise WorkflowError(str(error))
TOY_STUDY = toy_study()
STAGE_FUNCTIONS = StageFunctions(PLAN, TOY_STUDY)
TRAININGS = {STAGES[artifact.stage].rule for artifact in PLAN if is_resumed(artifact)}

TABLES = table_files(STUDY)
FIGURES = figure_files(STUDY)
PICTURES = picture_files(PLAN)
REPORT = report_file(STUDY)
STUDY_ARGUMENTS = study_arguments(STUDY_FILES, OVERRIDES)
LOGS = f"{RESULTS}/logs"
RESTORE = {}  # checkpoint of every stage whose files can be evicted; see restore.smk
ASKED = set()  # paths of artifacts that this process has had restored


onstart:
    # in the process that a person started, and not in those of its jobs
    snakemake_adapter.lift_default_rate_limit(workflow)
    say_who_shares_gpus(workflow)
    try:
        check_needs(STUDY)
        check_prepared(PLAN)
        if snakemake_adapter.submits_jobs(workflow) or machine_gpus(os.environ):
            check_memory(PLAN)
        warning = check_results(PLAN)
        record_study(PLAN, STUDY_FILES, OVERRIDES)
        if warning:
            logger.warning(warning)
        check_named_contents(STUDY, record=True)
        if snakemake_adapter.submits_jobs(workflow):
            check_submission(workflow, TRAININGS)
        else:
            share_imports()
    except DiffusabilityError as error:
        raise WorkflowError(str(error))
    show_progress(workflow, logger, PLAN)


onsuccess:
    end_progress(logger)


onerror:
    end_progress(logger)
    logger.error(failure_report(snakemake_adapter.failed_jobs(workflow)))


wildcard_constraints:
    fingerprint="[0-9a-f]{12}",
    dataset="[^/]+",
    encoder="[^/]+",
    tokenizer="[^/]+",
    tokenizer_seed="[0-9]+",
    backbone="[^/]+",
    space="[^/]+",
    network="[^/]+",
    seed="[0-9]+",
    guidance="[0-9.]+",
    snapshot="(-step[0-9]+)?",


def restored(stage):
    """Return an input function: no file, but evicted files that a job reads are restored first.

    It asks only for what is to be made and only in the process that a person started. So the
    inputs of a finished job never change, and a job on another machine never restores anything.
    """
    made = STAGES[stage]

    @snakemake_adapter.with_known_arguments
    def restore(wildcards):
        artifact = STAGE_FUNCTIONS.find(stage, wildcards)
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


@snakemake_adapter.with_known_arguments
def study_options(wildcards, threads):
    """Return the arguments that name the study to a script, as a param.

    Asking for `threads` tells Snakemake not to compare them with those of the last run: a study
    file that was moved or renamed is no reason to make anything again.
    """
    return STUDY_ARGUMENTS


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
