"""Jobs of an earlier run in the same folder that are still in the cluster's queue."""

import os
import subprocess

from diffusability.errors import StudyError

# Snakemake writes the outputs into the comment of a job
MADE_BY_SNAKEMAKE = ("rule_", "group_")
NAMED = 5  # jobs listed in the message


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
