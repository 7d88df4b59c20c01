"""All that is read of Snakemake's workflow object, most of which is no public interface.

`workflow` is what a Snakefile sees under that name. Snakemake is therefore needed in versions
that were tried: at least `LEAST`, below `BELOW` (as in pyproject.toml).
"""

import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from snakemake.checkpoints import Checkpoint  # type: ignore[import-untyped]

from diffusability.errors import StudyError
from diffusability.study.workflow_files import DEFAULT_STUDY, NO_FILE, PACKAGE, shown

LEAST, BELOW = (9, 20), (10,)


def check_version(found: str | None = None) -> None:
    """Refuse versions of Snakemake that this module was not tried with.

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
    """Return the folder of the Snakefile whose rules/ are being read, also as a module of another.

    Of a Snakefile that is not on this machine, the package's own files are used.
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
    """Whether another Snakefile uses the one that is being read as a module."""
    return not workflow.modifier.is_main_snakefile()


def starts_run(workflow: Any) -> bool:
    """Whether this process is the one that a person started, and not a job of it."""
    return bool(workflow.is_main_process)


def snakefile(workflow: Any) -> Path:
    """Return the Snakefile that was started."""
    return Path(workflow.main_snakefile).absolute()


def given_directory(workflow: Any) -> str:
    """Return the absolute path of what was given as --directory; empty if nothing was."""
    return str(Path.cwd()) if workflow.overwrite_workdir else ""  # Snakemake is there already


def uses_conda(workflow: Any) -> bool:
    """Whether jobs run in environments that Snakemake makes (--sdm conda)."""
    methods = workflow.deployment_settings.deployment_method
    return any(method.name == "CONDA" for method in methods)


def submits_jobs(workflow: Any) -> bool:
    """Whether jobs run elsewhere than in this process's own children."""
    return not workflow.local_exec


def executor(workflow: Any) -> str:
    """Return the name of the executor: local, slurm, kubernetes..."""
    return str(workflow.executor_plugin.name)


def jobs_to_run(workflow: Any) -> Iterable[Any]:
    """Return the jobs that are to run, each with `rule.name`, `group`, `threads`, `resources`."""
    return list(workflow.dag.needrun_jobs())


def jobs_per_group(workflow: Any) -> dict[str, int]:
    """Return, by rule, how many jobs of its group are submitted as one at most."""
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


def lift_default_rate_limit(workflow: Any) -> None:
    """Let only `jobs` and `cores` bound what is started, unless another limit was given.

    Snakemake's default of 100 jobs per second looks for ready jobs again a second after every
    look, for good, and every job that ends is one look more: after a thousand jobs, a thousand
    looks per second. A longer timespan (`--max-jobs-per-timespan 1000/10s`) divides that by ten,
    and keeps a thread waiting for each of these looks, and Snakemake from ending, for as long.
    No option says "no limit".
    """
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit is not None and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
