"""GPU selection without a scheduler: a job takes a free GPU and locks it until it ends.

Snakemake counts GPUs (`--resources gpu=4`) but does not assign them. So every job on a workstation
locks its devices in the folder of temporary files, in one folder per machine and user; the
operating system releases the locks when the process ends, however it ends.

    python -m diffusability.execution.gpus 8 COMMAND ...    replaces this process by COMMAND, on 8
    GPUs
"""

import fcntl
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path

from diffusability.artifacts.job import Job
from diffusability.artifacts.progress import Progress, write_progress
from diffusability.errors import ArtifactError, exit_status

logger = logging.getLogger(__name__)
VISIBLE = "CUDA_VISIBLE_DEVICES"
JOBS_PER_GPU = (
    "DIFFUSABILITY_JOBS_PER_GPU"  # jobs per GPU, because small networks do not fill a large GPU
)
# 1 in a job that Snakemake submitted, whose devices the scheduler chose (`job_environment`).
# A workflow that runs as a whole inside an allocation shares it out by locks.
SUBMITTED = "DIFFUSABILITY_SUBMITTED"
LOOK_EVERY = 0.5  # seconds between attempts to find a free device
_held: list[int] = []  # descriptors of locks; the system closes them with the process


def take_gpus(count: int, inherit: bool = False, state: Path | None = None) -> list[str]:
    """Take free GPUs for the rest of this process, and hide all others from CUDA.

    Call it before CUDA is initialised. It waits while too few are free. In a job that was submitted
    to a scheduler, and on a machine without GPUs, it does nothing.

    Args:
        count: number of GPUs; all of them are taken at once, or none.
        inherit: whether a program that replaces this process keeps them.
        state: state folder of the job, where waiting is recorded.

    Returns:
        The devices as now in CUDA_VISIBLE_DEVICES; empty if nothing was done.

    Raises:
        ArtifactError: the machine has fewer, or DIFFUSABILITY_JOBS_PER_GPU is no number.
    """
    devices = [] if os.environ.get(SUBMITTED) == "1" else machine_gpus(os.environ)
    if not devices:
        return []
    if count > len(devices):
        raise ArtifactError(
            f"this job needs {count} GPUs, but {len(devices)} can be used here "
            f"({', '.join(devices)}); give its entry of the study fewer `gpus`"
        )
    slots = list(_slots(devices, lock_folder()))
    taken = _take(slots, count, inherit)
    if taken is None:
        wanted = f"{count} of {len(devices)} GPUs"
        logger.info("waiting for %s to be free", wanted)
        if state is not None:
            write_progress(state, Progress("waiting", waits_for=wanted))
    while taken is None:
        time.sleep(LOOK_EVERY)
        taken = _take(slots, count, inherit)
    os.environ[VISIBLE] = ",".join(taken)
    return taken


def machine_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that jobs may take: those of CUDA_VISIBLE_DEVICES, else all there are."""
    if VISIBLE in environment:
        names = [name.strip() for name in environment[VISIBLE].split(",")]
        seen = takewhile(lambda name: name != "-1", names)  # CUDA hides what follows -1
        return list({_uuid(name): name for name in seen if name}.values())
    # by UUID, because CUDA and the driver may number them differently
    return list(_uuids().values())


@cache
def _uuids() -> dict[str, str]:
    """Return the UUID of every GPU of the machine by its number; that itself if unknown."""
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    if not devices:
        return {}
    try:
        output = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {str(k): str(k) for k, _ in enumerate(devices)}
    return dict(line.split(", ") for line in output.splitlines())


def _uuid(name: str) -> str:
    """Return the UUID of a device, which CUDA_VISIBLE_DEVICES may give by number or shortened.

    A name that stands for no device, or for several, stays as it is.
    """
    known = _uuids()
    begun = [uuid for uuid in known.values() if uuid.startswith(name)]
    return known.get(name, begun[0] if len(begun) == 1 else name)


def lock_folder() -> Path:
    """Return the folder of this machine's locks; create it if needed."""
    folder = Path(tempfile.gettempdir(), f"diffusability-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _take(slots: Sequence[tuple[str, Path]], count: int, inherit: bool) -> list[str] | None:
    """Return `count` devices, locked, or None; one process chooses at a time."""
    taken: dict[str, int] = {}
    with (slots[0][1].parent / "choosing").open("w") as choosing:
        fcntl.flock(choosing, fcntl.LOCK_EX)
        for device, lock in slots:
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
    """Yield every device with its lock file, once per job that may share it.

    A lock has the device's UUID, however CUDA_VISIBLE_DEVICES calls it. Numbers are taken to be
    those of nvidia-smi, as they are where all devices are alike or CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    text = os.environ.get(JOBS_PER_GPU, "1")
    if not text.isdecimal() or int(text) < 1:
        raise ArtifactError(
            f"{JOBS_PER_GPU}={text}: write a number of jobs, 1 or more, or unset it"
        )
    for k in range(int(text)):
        for device in devices:
            name = _uuid(device).replace("/", "_")
            yield device, folder / f"{name}.{k}.lock"


def _state(command: Sequence[str]) -> Path | None:
    """Return the state folder of the job in a command's JSON argument, if there is one."""
    if "--job" not in command[:-1]:
        return None
    return Job.from_json(command[command.index("--job") + 1]).state


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process by a command with as many free GPUs as the first argument says."""
    count, *command = sys.argv[1:] if argv is None else argv

    def replace() -> None:
        take_gpus(int(count), inherit=True, state=_state(command))
        os.execvp(command[0], command)

    return exit_status(replace)


if __name__ == "__main__":
    sys.exit(main())
