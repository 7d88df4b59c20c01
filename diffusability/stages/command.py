"""The command line that makes artifacts: a job from Snakemake, or a study and a name by hand."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from threadpoolctl import threadpool_limits

from diffusability.artifacts.bulk import evicted
from diffusability.artifacts.card import read_card
from diffusability.artifacts.job import Job
from diffusability.errors import ArtifactError, DiffusabilityError
from diffusability.execution.fork_client import lost_fork
from diffusability.execution.gpus import SUBMITTED, take_gpus
from diffusability.execution.this_machine import available_cores
from diffusability.study.core.problems import nearest
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import STAGES
from diffusability.study.reading.load import load_study

# variables that torchrun sets, and their least values
TORCHRUN = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}


def run(description: str | None, argv: Sequence[str] | None = None) -> int:
    """Make one artifact and return the process's exit status.

    Started by torchrun, the processes make it together; the first of them writes it.

    Args:
        description: first lines of the help text.
        argv: arguments, the stage first; by default those of the process.

    Returns:
        0 if the artifact exists, made here or by another process; 75 if the same command should be
        run again to resume (time is up); else the error's own status.
    """
    arguments = _parser(description).parse_args(argv)
    stage: str = arguments.stage
    try:
        rank = _check_environment()
    except ArtifactError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    logging.basicConfig(
        level=logging.WARNING if rank else logging.INFO,
        format=f"%(asctime)s {stage}: %(message)s",
        datefmt="%H:%M:%S",
    )
    try:
        job = _job(stage, arguments)
        if arguments.dry_run:
            print(f"{job.path}\n{dict(job.spec)}")
            return 0
        made = _restore(job) if arguments.restore else _make(job)
    except DiffusabilityError as error:
        print(f"error{f' in process {rank}' if rank else ''}: {error}", file=sys.stderr)
        return error.exit_code
    did = "restored" if arguments.restore else "wrote"
    logging.info("%s %s", did if made else "another process has made", job.path)
    return 0


def _make(job: Job) -> bool:
    """Return whether this process made the artifact; False if another did while it waited."""
    # imported here, so that --help and wrong arguments respond at once
    from diffusability.stages.make import make

    if "WORLD_SIZE" not in os.environ:
        if _made_by_another(job):
            return False
        with job.writing() as folder:
            make(job, folder)
        return True
    import torch

    from diffusability.training.distributed import joined

    with joined(job.device) as together:
        made = together.leads and _made_by_another(job)
        if together.any(made, torch.device(job.device)):
            return False
        if together.leads:
            with job.writing() as folder:
                make(job, folder)
                together.wait()  # the state is removed when it is no longer read
        else:
            with TemporaryDirectory() as unused:
                make(job, Path(unused))
            together.wait()
    return True


def _made_by_another(job: Job) -> bool:
    """Wait while another process makes the artifact; return whether it or a lost fork has made it.

    A fork of this job whose status was lost has ended, so its lock is free.
    """
    asked = lost_fork()
    return job.made_by_another() or (asked is not None and job.made_since(asked))


def _restore(job: Job) -> bool:
    """Make evicted files again; return False if another process did while this one waited."""
    from diffusability.stages.make import make

    waited = job.made_by_another() or lost_fork() is not None
    there = waited and not evicted(job.path, read_card(job.path))
    with job.restoring() as folder:
        if not there:
            make(job, folder)
    return not there


def _parser(description: str | None) -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:22}{entry.about}" for name, entry in STAGES.items())
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"stages:\n{listing}",
    )
    parser.add_argument("stage", choices=STAGES, metavar="stage", help="what to make, see below")
    parser.add_argument("--job", help="the job as JSON, as Snakemake passes it")
    parser.add_argument("--study", help="study file (the default study)")
    parser.add_argument(
        "--name", help="without --job: the artifact's name or a prefix, e.g. conv-base/s0"
    )
    parser.add_argument(
        "--device", default="auto", help="torch device; auto: a GPU if there is one"
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="CPU threads of torch (all cores; processes of torchrun share all)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="save the state and stop before this time is over (not where Snakemake starts the job "
        "on its own machine)",
    )
    parser.add_argument(
        "--restore", action="store_true", help="make evicted files of a finished artifact again"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved job and stop")
    return parser


def _job(stage: str, arguments: argparse.Namespace) -> Job:
    text = arguments.job
    if text is None:
        plan = Plan(load_study(arguments.study))
        text = _named(plan, stage, arguments.name).job()
    _check_processes(stage)
    threads = arguments.threads or int(os.environ.get("OMP_NUM_THREADS") or available_cores())
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun's processes share what the job was given
        threads = max(1, available_cores() // int(os.environ["LOCAL_WORLD_SIZE"]))
    _limit_threads(threads)
    # a scheduler ends what takes longer; nothing ends what Snakemake starts on its own machine
    minutes = None if os.environ.get(SUBMITTED) == "0" else arguments.minutes
    job = Job.from_json(text, minutes=minutes)
    if job.stage != stage:
        raise ArtifactError(f"--job: is of stage {job.stage}, not {stage}")
    if arguments.dry_run:
        return job
    # by itself; torchrun was started on the GPUs that its processes share
    if STAGES[stage].gpu and arguments.device in ("auto", "cuda") and "RANK" not in os.environ:
        take_gpus(1, state=job.state)  # before torch looks at them
    from diffusability.stages.precision import set_float32_precision

    device = _device(arguments.device)
    set_float32_precision(stage, device)
    return replace(job, device=device)


def _limit_threads(count: int) -> None:
    """Set the number of threads of numerical libraries, imported already or not."""
    # libraries imported later read these once
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)
    if torch := sys.modules.get("torch"):  # in a fork of the server
        torch.set_num_threads(count)
        threadpool_limits(count)


def _check_environment() -> int:
    """Return the number of this process, after a look at what torchrun sets in the environment."""
    found = {}
    for name, least in TORCHRUN.items():
        text = os.environ.get(name)
        if text is None:
            continue
        if not text.isdecimal() or int(text) < least:
            raise ArtifactError(
                f"the environment variable {name} is {text!r}, not a number of processes as "
                f"torchrun sets it; remove it with `unset {name}`"
            )
        found[name] = int(text)
    return found.get("RANK", 0)


def _check_processes(stage: str) -> None:
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and not STAGES[stage].distributed:
        able = ", ".join(name for name, entry in STAGES.items() if entry.distributed)
        raise ArtifactError(
            f"torchrun started {count} processes, but stage {stage} runs in one; only {able} "
            "divides its batches. Start it with python"
        )
    if count > 1 and not {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ArtifactError(
            f"the environment variable WORLD_SIZE is {count}, but the others that torchrun sets "
            "(RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) are not; start the job with torchrun, or "
            "`unset WORLD_SIZE`"
        )


def _named(plan: Plan, stage: str, name: str | None) -> Artifact:
    """Return the one artifact of the stage whose name begins with `name`."""
    artifacts = plan.of_stage(stage)
    matches = [a for a in artifacts if a.name == name] or [
        a for a in artifacts if a.name.startswith(name or "")
    ]
    if len(matches) == 1:
        return matches[0]
    names = [a.name for a in artifacts]
    if not matches:
        raise ArtifactError(f"--name {name}: no {stage} of that name ({nearest(name, names)})")
    listing = ", ".join(a.name for a in matches)
    raise ArtifactError(f"--name {name or ''}: which one? {listing}")


def _device(name: str) -> str:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ArtifactError(f"--device {name}: not usable here ({error!s:.80})") from None
    return name
