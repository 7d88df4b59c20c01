"""Put in place of scripts/make.py: the same training, struck as its name says.

A checkpoint follows every few steps, and each step adds a line with the job's number to the file
steps/<name>. A fault strikes at one step of the first attempt; the next attempts are left alone.
"""

import os
import signal
import sys
import time
from pathlib import Path

from diffusability.stages.command import run
from diffusability.training.checkpoint import CURRENT
from diffusability.training.loop import Training

STRIKE = 12  # step of 30 after which the fault comes
INTERVAL = 5  # steps between two checkpoints
# until the test has done what befalls them, and says so by a file released/<name>
WAITING = ("out-of-time", "cancelled", "preempted", "node-down", "orphan")
HELD = 1000 * 2**20  # bytes that `out-of-memory` takes at every attempt, beside half as many

_step = Training._take_step


def name_of(training: Training) -> str:
    """Return the tokenizer's name: results/state/tokenizer/<name>/s0/<fingerprint>."""
    return training.run.state.parts[-3]


def first_attempt(training: Training) -> bool:
    """Return whether nobody has tried before."""
    return int((training.run.state / "attempts").read_text()) == 1


def take_step(training: Training) -> dict[str, float]:
    """Take a step, save when it is time, and let the fault strike."""
    row = _step(training)
    name, first = name_of(training), first_attempt(training)
    with Path("steps", name).open("a") as file:
        file.write(f"{os.environ.get('SLURM_JOB_ID', 'local')}\n")
    if training.step % INTERVAL == 0:
        training.save()
    if training.step == STRIKE and name == "out-of-memory":
        held = bytearray(os.urandom(1024)) * (HELD // 1024)  # every page is touched
        time.sleep(300 if first else 4)  # the first attempt is killed meanwhile
        del held
    if training.step == STRIKE and first:
        strike(training, name)
    return row


def strike(training: Training, name: str) -> None:
    """Do what the tokenizer's name says."""
    while name in WAITING and not Path("released", name).exists():
        time.sleep(0.1)
    if name == "half-checkpoint":
        current = training.run.state / CURRENT
        current.write_bytes(current.read_bytes()[: current.stat().st_size // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "fails-once":
        sys.exit(1)


if __name__ == "__main__":
    Training._take_step = take_step  # type: ignore[method-assign]
    Path("steps").mkdir(exist_ok=True)
    sys.exit(run(__doc__))
