"""Validation of a study's jobs by Slurm before the first one is submitted."""

import getpass
import os
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusability.errors import StudyError
from diffusability.execution import snakemake_adapter
from diffusability.execution.run_time import shortest_minutes

PROFILE = "slurm/config.yaml"
# a resource, and its option of sbatch
OPTIONS = {
    "slurm_account": "--account",
    "slurm_partition": "--partition",
    "runtime": "--time",
    "mem_mb": "--mem",
    "nodes": "--nodes",
    "gres": "--gres",
    "constraint": "--constraint",
    "qos": "--qos",
}
# Snakemake writes the outputs into the comment of a job
MADE_BY_SNAKEMAKE = ("rule_", "group_")
NAMED = 5  # jobs listed in the message about an earlier run
SUMMED = ("mem_mb", "gpu")  # summed over the jobs of a group; for all others the maximum counts


@dataclass(frozen=True)
class Request:
    """The largest request of a job of one rule.

    Attributes:
        rule: its name.
        threads: CPUs.
        resources: by Snakemake's names: `slurm_account`, `runtime` (minutes), `mem_mb`, `gpu`...
    """

    rule: str
    threads: int
    resources: Mapping[str, Any]

    def sbatch(self) -> list[str]:
        """Return the command that asks Slurm whether it accepts such a job."""
        given = {option: self.resources.get(name) for name, option in OPTIONS.items()}
        gpus, model = self.resources.get("gpu"), self.resources.get("gpu_model")
        given["--gpus"] = f"{model}:{gpus}" if gpus and model else gpus
        words = [f"{option}={value}" for option, value in given.items() if value]
        extra = shlex.split(str(self.resources.get("slurm_extra", "")))
        cpus = f"--cpus-per-task={self.threads}"
        if gpus and (per_gpu := self.resources.get("cpus_per_gpu")):
            cpus = f"--cpus-per-gpu={per_gpu}"
        return ["sbatch", "--test-only", *words, cpus, *extra, "--wrap=true"]


def check_submission(workflow: Any, trainings: set[str]) -> None:
    """Validate run times before any job is submitted; on Slurm, ask it about each kind of job.

    Args:
        workflow: Snakemake's.
        trainings: rules whose jobs resume from checkpoints.

    Raises:
        StudyError: see ``check_run_times``, ``check_no_stale_jobs`` and ``check_cluster``.
    """
    jobs = snakemake_adapter.jobs_to_run(workflow)
    asked = requests(jobs, snakemake_adapter.jobs_per_group(workflow))
    check_run_times(asked, trainings)
    if snakemake_adapter.executor(workflow) == "slurm":
        check_no_stale_jobs(os.getcwd())
        check_cluster(asked)


def check_no_stale_jobs(folder: str) -> None:
    """Refuse to submit work that jobs of an earlier run, whose driver died, will still do.

    Snakemake's own lock of the folder excludes another running driver, so nothing waits for the
    jobs of this folder in Slurm's queue.

    Args:
        folder: absolute path of the folder in which the workflow runs.

    Raises:
        StudyError: naming the jobs and how to go on.
    """
    fields = "%i|%T|%Z|%k"  # number, state, working directory, comment
    try:
        command = ["squeue", "--me", "--noheader", f"--format={fields}"]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        return  # no Slurm: the executor reports that itself
    jobs = [line.split("|", 3) for line in lines if line.count("|") >= 3]
    earlier = [
        (number, state, comment)
        for number, state, where, comment in jobs
        if comment.startswith(MADE_BY_SNAKEMAKE) and os.path.realpath(where) == folder
    ]
    if not earlier:
        return
    described = [f"  {number} {state.lower()}: {comment}" for number, state, comment in earlier]
    more = [f"  ... and {len(earlier) - NAMED} more"] if len(earlier) > NAMED else []
    numbers = " ".join(number for number, _, _ in earlier)
    raise StudyError(
        f"Slurm still has {len(earlier)} jobs of an earlier run of this folder, whose work would "
        "be done twice; aborted before any job was submitted\n"
        + "\n".join(described[:NAMED] + more)
        + f"\nWait until they have ended, or cancel them: scancel {numbers}\n"
        "A training that is cancelled saves its state, and the next run resumes from it."
    )


def requests(jobs: Iterable[Any], together: Mapping[str, int]) -> list[Request]:
    """Return one request per rule: the largest value of every resource over its jobs.

    Args:
        jobs: of Snakemake. together: by rule, most jobs that its group submits as one.
    """
    jobs = list(jobs)
    sizes = Counter(job.group for job in jobs)
    largest: dict[str, dict[str, Any]] = {}
    for job in jobs:
        asked = largest.setdefault(job.rule.name, {"threads": 1})
        times = min(together.get(job.rule.name, 1), sizes[job.group])
        values = {key: value for key, value in job.resources.items() if key[0] != "_"}
        for key, value in (values | {"threads": job.threads}).items():
            if isinstance(value, int):
                value = times * value if key in (*SUMMED, "threads") else value
                asked[key] = max(value, asked.get(key, 0))
            else:
                asked[key] = value
    return [Request(rule, asked.pop("threads"), asked) for rule, asked in largest.items()]


def check_run_times(asked: Iterable[Request], trainings: set[str]) -> None:
    """Refuse run times that end before a training's first checkpoint.

    Raises:
        StudyError: a rule of `trainings` has fewer minutes than between two checkpoints.
    """
    least = shortest_minutes()
    for request in asked:
        minutes = request.resources.get("runtime")
        if request.rule in trainings and isinstance(minutes, int) and minutes < least:
            raise StudyError(
                f"{request.rule}: a `runtime` of {minutes} min ends before the first checkpoint, "
                f"so no attempt would make progress; give it {least} min or more in "
                "the profile (set-resources)"
            )


def check_cluster(asked: Iterable[Request]) -> None:
    """Ask Slurm whether it accepts each kind of job; nothing is submitted.

    Raises:
        StudyError: it refuses one: a missing account, an unknown partition or GPU type, or too
            much time, memory or CPUs.
    """
    asked = list(asked)
    known = gpu_types(_answer(["sinfo", "--noheader", "--format=%P %G"])[1])
    for request in asked:
        model = request.resources.get("gpu_model") or _typed(request.resources.get("gres"))
        if model and known and model not in known:
            raise StudyError(
                f"{PROFILE}: {request.rule} asks for GPUs of type `{model}`, which this cluster "
                f"does not have; it has {', '.join(sorted(known))}"
            )
    for request in asked:
        taken, said = _answer(request.sbatch())
        if not taken:
            account = request.resources.get("slurm_account")
            named = f"account {account}" if account else "no account"
            raise StudyError(
                f"{PROFILE}: Slurm refuses a job of {request.rule} ({named}; yours: "
                f"{_accounts()}): {said}; change the profile until this is accepted: "
                f"{shlex.join(request.sbatch())}"
            )


def gpu_types(listing: str) -> set[str]:
    """Return the types of GPU in lines of sinfo's `%P %G`; empty if it names none."""
    return set(re.findall(r"\bgpu:([A-Za-z_][\w.-]*)", listing))


def _typed(gres: Any) -> str | None:
    """Return the type in a request such as gpu:h100:1."""
    found = re.fullmatch(r"gpu:([A-Za-z_][\w.-]*)(:\d+)?", str(gres or ""))
    return found[1] if found else None


def _answer(command: list[str]) -> tuple[bool, str]:
    """Return whether a command succeeded and its output (on failure, the last line)."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StudyError(
            f"{command[0]}: cannot be run here ({error}); start Snakemake on a login node of the "
            "cluster"
        ) from None
    if done.returncode == 0:
        return True, done.stdout
    said = ((done.stderr or done.stdout).strip().splitlines() or ["no reason given"])[-1]
    return False, re.sub(r"^(sbatch: error|allocation failure): ", "", said)


def _accounts() -> str:
    """Return the user's Slurm accounts, if Slurm reports them."""
    user = f"user={getpass.getuser()}"
    listing = ["sacctmgr", "--noheader", "--parsable2", "list", "associations", user]
    known, text = _answer([*listing, "format=account"])
    return ", ".join(sorted(set(text.split()))) if known else "unknown"
