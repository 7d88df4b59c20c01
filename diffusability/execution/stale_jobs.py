"""Jobs of an earlier run of the same folder that a cluster still holds."""

import os
import subprocess

from diffusability.errors import StudyError

# Snakemake says in the comment of a job what it makes
MADE_BY_SNAKEMAKE = ("rule_", "group_")
NAMED = 5  # jobs that the message describes


def check_no_stale_jobs(folder: str) -> None:
    """Refuse to submit work that jobs of an earlier run, whose driver died, are still to do.

    Snakemake's own lock of the folder says that no other driver is alive, so whatever Slurm holds
    of this folder has nobody left to wait for it.

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
        return  # no Slurm: the executor says so itself
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
        f"Slurm still holds {len(earlier)} jobs of an earlier run of this folder, whose work would "
        "be done twice; nothing was submitted\n"
        + "\n".join(described[:NAMED] + more)
        + f"\nWait until they have ended, or end them: scancel {numbers}\n"
        "A training that is cancelled saves its state, and the next run goes on from there."
    )
