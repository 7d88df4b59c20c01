"""Which GPU a job takes where no scheduler says so: a free one, held by a lock until it ends.

Snakemake counts GPUs (`--resources gpu=4`) and does not say which. So every job on a workstation
takes devices by locks in the folder of temporary files, one folder a machine and user; the
operating system releases them when the process ends, however it ends.

    python -m diffusability.execution.gpus 8 COMMAND ...    COMMAND in place of this, on 8 GPUs
"""

import fcntl
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diffusability.artifacts.job import Job
from diffusability.artifacts.progress import Progress, write_progress
from diffusability.errors import ArtifactError, DiffusabilityError

logger = logging.getLogger(__name__)
VISIBLE = "CUDA_VISIBLE_DEVICES"
JOBS_PER_GPU = "DIFFUSABILITY_JOBS_PER_GPU"  # small networks leave a large GPU idle: share it
# a job of Slurm, PBS, LSF, Grid Engine or Kubernetes sees the devices that it was given
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "KUBERNETES_SERVICE_HOST")
LOOK_EVERY = 0.5  # seconds between looks for a free device
_held: list[int] = []  # descriptors of locks; the system closes them with the process


def take_gpus(count: int, inherit: bool = False, state: Path | None = None) -> list[str]:
    """Take free GPUs for the rest of this process, and let CUDA see no others.

    Call it before CUDA is initialised. It waits while too few are free. Under a scheduler, and on
    a machine without GPUs, nothing is done.

    Args:
        count: of GPUs, all of which are taken or none.
        inherit: whether a program that replaces this process keeps them.
        state: state folder of the job that waits for them, where that is noted.

    Returns:
        The devices, as CUDA_VISIBLE_DEVICES now names them; empty where nothing was done.

    Raises:
        ArtifactError: the machine has fewer.
    """
    devices = [] if scheduled(os.environ) else machine_gpus(os.environ)
    if not devices:
        return []
    if count > len(devices):
        raise ArtifactError(
            f"this job wants {count} GPUs, and {len(devices)} can be used here "
            f"({', '.join(devices)}); give its entry of the study fewer `gpus`"
        )
    folder = lock_folder()
    taken = _take(devices, count, folder, inherit)
    if taken is None:
        wanted = f"{count} of {len(devices)} GPUs"
        logger.info("waiting for %s to be free", wanted)
        if state is not None:
            write_progress(state, Progress("waiting", waits_for=wanted))
    while taken is None:
        time.sleep(LOOK_EVERY)
        taken = _take(devices, count, folder, inherit)
    os.environ[VISIBLE] = ",".join(taken)
    return taken


def scheduled(environment: Mapping[str, str]) -> bool:
    """Whether a scheduler has chosen this process's devices."""
    return any(name in environment for name in SCHEDULERS)


def machine_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that jobs may take: those of CUDA_VISIBLE_DEVICES, else all there are."""
    if VISIBLE in environment:
        names = [name.strip() for name in environment[VISIBLE].split(",")]
        return [name for name in names if name and name != "-1"]
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return []
    try:  # by identity: CUDA may count them in another order than the driver
        output = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return [str(k) for k, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    return output.split()


def lock_folder() -> Path:
    """Return the folder of this machine's locks, created if need be."""
    folder = Path(tempfile.gettempdir(), f"diffusability-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _take(devices: Sequence[str], count: int, folder: Path, inherit: bool) -> list[str] | None:
    """Return `count` devices, locked, or None; one process chooses at a time."""
    taken: dict[str, int] = {}
    with (folder / "choosing").open("w") as choosing:
        fcntl.flock(choosing, fcntl.LOCK_EX)
        for device, lock in _slots(devices, folder):
            if device in taken:
                continue
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            taken[device] = descriptor
            if len(taken) == count:
                break
        if len(taken) < count:
            for descriptor in taken.values():
                os.close(descriptor)
            return None
    for descriptor in taken.values():
        os.set_inheritable(descriptor, inherit)
        _held.append(descriptor)
    return list(taken)


def _slots(devices: Sequence[str], folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield every device with the file of its lock: once, or as often as jobs may share it."""
    for k in range(int(os.environ.get(JOBS_PER_GPU, "1"))):
        for device in devices:
            yield device, folder / f"{device.replace('/', '_')}.{k}.lock"


def _state(command: Sequence[str]) -> Path | None:
    """Return the state folder of the job that a command is given as JSON, if it is given one."""
    if "--job" not in command[:-1]:
        return None
    return Job.from_json(command[command.index("--job") + 1]).state


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process by a command that sees as many free GPUs as the first argument says."""
    count, *command = sys.argv[1:] if argv is None else argv
    try:
        take_gpus(int(count), inherit=True, state=_state(command))
        os.execvp(command[0], command)
    except DiffusabilityError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
