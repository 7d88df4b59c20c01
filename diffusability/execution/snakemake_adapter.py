"""All access to Snakemake's workflow object, most of which is private API.

`workflow` is the object of that name in a Snakefile. Only tested versions of Snakemake are
accepted: at least `LEAST`, below `BELOW` (as in pyproject.toml).
"""

import gc
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from snakemake.checkpoints import Checkpoint  # type: ignore[import-untyped]
from snakemake.resources import Resource  # type: ignore[import-untyped]

from diffusability.errors import StudyError
from diffusability.study.core.workflow_files import DEFAULT_STUDY, NO_FILE, PACKAGE, shown

Function = TypeVar("Function", bound=Callable[..., Any])
LEAST, BELOW = (9, 20), (10,)


def check_version(found: str | None = None) -> None:
    """Refuse versions of Snakemake that this module was not tested with.

    Raises:
        StudyError: naming the version that is installed and those that work.
    """
    found = found or version("snakemake")
    parts = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if not LEAST <= parts < BELOW:
        raise StudyError(
            f"Snakemake {found} is installed; this workflow needs at least 9.20 and less than 10: "
            "pip install 'snakemake>=9.20,<10'"
        )


def workflow_folder(workflow: Any) -> Path:
    """Return the folder of the Snakefile whose rules/ are being read, also if used as a module.

    For a remote Snakefile, the files of the package are used.
    """
    rules = Path(workflow.current_basedir.get_path_or_uri(secret_free=True))
    if rules.is_dir():
        return rules.absolute().parent
    installed = PACKAGE / "workflow"
    return installed if installed.is_dir() else PACKAGE.parent


def given_study(workflow: Any, config: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the study files and the overrides that Snakemake was given.

    A study given on the command line replaces the default one; Snakemake's own `configfile:` would
    merge the two and leave the default's tokenizers in every other study. A Snakefile that uses
    this one as a module gives the study as the module's `config`.

    Args:
        workflow: Snakemake's. config: as the Snakefile sees it.

    Returns:
        Files, and what overrides them; a module's study is all in the latter.
    """
    if is_module(workflow) and config:
        return [NO_FILE], dict(config)
    settings = workflow.config_settings
    files = settings.configfiles or [workflow_folder(workflow) / DEFAULT_STUDY]
    return [shown(file) for file in files], dict(settings.config)


def is_module(workflow: Any) -> bool:
    """Whether the Snakefile being read is used as a module of another."""
    return not workflow.modifier.is_main_snakefile()


def starts_run(workflow: Any) -> bool:
    """Whether this is the main process, and not one of its jobs."""
    return bool(workflow.is_main_process)


def snakefile(workflow: Any) -> Path:
    """Return the main Snakefile."""
    return Path(workflow.main_snakefile).absolute()


def given_directory(workflow: Any) -> str:
    """Return the absolute path given as --directory; empty if none was given."""
    return str(Path.cwd()) if workflow.overwrite_workdir else ""  # Snakemake is there already


def uses_conda(workflow: Any) -> bool:
    """Whether jobs run in environments created by Snakemake (--sdm conda)."""
    methods = workflow.deployment_settings.deployment_method
    return any(method.name == "CONDA" for method in methods)


def submits_jobs(workflow: Any) -> bool:
    """Whether jobs run elsewhere than in child processes."""
    return not workflow.local_exec


def executor(workflow: Any) -> str:
    """Return the name of the executor: local, slurm, kubernetes..."""
    return str(workflow.executor_plugin.name)


def jobs_to_run(workflow: Any) -> Iterable[Any]:
    """Return the jobs that are to run, each with `rule.name`, `group`, `threads`, `resources`."""
    return list(workflow.dag.needrun_jobs())


def outputs_to_make(workflow: Any) -> dict[str, str]:
    """Return the rule of every job that is to run, by its first output; its number without one."""
    jobs = enumerate(jobs_to_run(workflow))
    return {str(next(iter(job.output), number)): str(job.rule.name) for number, job in jobs}


def event(record: logging.LogRecord) -> str:
    """Return the kind of a message of Snakemake's logger, as in its `LogEvent`; empty for text."""
    kind = getattr(record, "event", None)
    return str(kind.name) if kind is not None else ""


def is_idle(record: logging.LogRecord) -> bool:
    """Whether a message only says that the scheduler is at work."""
    return record.getMessage() == "Select jobs to execute..."


def progress_printer(workflow: Any, logger: logging.Logger) -> "logging.StreamHandler[Any] | None":
    """Return the handler that prints messages; None if the command line asks for other output.

    That is: --quiet or --quiet progress, --verbose, --printshellcmds, or --logger.
    """
    settings = workflow.output_settings
    quiet = {choice.name for choice in settings.quiet or ()}
    if quiet & {"ALL", "PROGRESS"} or settings.verbose or settings.printshellcmds:
        return None
    handlers = (h for h in logger.handlers if h.name == "DefaultStreamHandler")
    return next((h for h in handlers if isinstance(h, logging.StreamHandler)), None)


def failed_jobs(workflow: Any) -> list[tuple[str, list[str]]]:
    """Return the rule and the log files of every job that failed; those of a group one by one."""
    failed = list(workflow.scheduler.failed) if workflow.scheduler is not None else []
    jobs = [part for job in failed for part in (job.jobs if job.is_group() else [job])]
    return [(str(job.rule.name), [str(log) for log in job.log]) for job in jobs]


def jobs_per_group(workflow: Any) -> dict[str, int]:
    """Return, by rule, the maximum number of its jobs that a group submits as one."""
    grouped = workflow.group_settings
    return {
        rule: grouped.group_components.get(group, 1)
        for rule, group in grouped.overwrite_groups.items()
    }


def make_checkpoint(rule: Any, checkpoints: Any) -> Any:
    """Turn a rule into a checkpoint and return it; `get(**wildcards)` has it run first.

    The keyword `checkpoint` would do so in the processes of jobs too. There Snakemake would then
    look at everything that a job is made from, instead of at the job alone.
    """
    rule.is_checkpoint = True
    return Checkpoint(rule, checkpoints)


def is_forced(workflow: Any, rule: str, files: Iterable[str]) -> bool:
    """Whether a rule is to make one of the files again although it is there (-f or -R)."""
    settings = workflow.dag_settings
    forced = {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}
    return not {rule, *files}.isdisjoint(os.path.relpath(name) for name in forced)


def with_known_arguments(function: Function) -> Function:
    """Remember the arguments of a function of the rules; Snakemake asks for them at every call.

    It looks for this attribute first, and `inspect.signature` for the other one. Without them,
    these questions are a fifth of the time of a dry run.
    """
    signature = inspect.signature(function)
    function.__signature__ = signature  # type: ignore[attr-defined]
    function._overwrite_params = signature.parameters  # type: ignore[attr-defined]
    return function


def know_arguments_of_resources() -> None:
    """Remember the arguments of the function by which Snakemake computes every resource."""
    with_known_arguments(Resource.evaluate)


def collect_garbage_rarely() -> None:
    """Let Python look for cycles less often: a plan is millions of objects that all stay.

    With the default thresholds that is a fifth of the time of a dry run.
    """
    gc.set_threshold(100_000, 50, 100)


def lift_default_rate_limit(workflow: Any) -> None:
    """Limit job starts only by `jobs` and `cores`, unless another limit was given.

    With Snakemake's default of 100 jobs per second, every check for ready jobs schedules another
    one a second later, without end, and every finished job adds a check: after a thousand jobs, a
    thousand checks per second.

    Why not an option: `max-jobs-per-timespan` has no value for "no limit", on the command line or
    in a profile (null gives the default). A longer timespan (1000/10s) divides the checks by ten,
    but each keeps a thread waiting for that long, and Snakemake does not end before them.
    """
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit is not None and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
