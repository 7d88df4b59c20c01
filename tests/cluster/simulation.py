"""A whole study with stand-ins for its scripts: every rule and every job, no training."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import stub_stage
from tests.workflow.workspace import Workspace

HERE = ("--cores", "2", "--scheduler", "greedy", "--retries", "11", "--keep-going")
ON_SLURM = ("--profile", "slurm", "--slurm-init-seconds-before-status-checks", "1")
ON_SLURM += ("--latency-wait", "5")
NO_NEEDS = ("--snakefile", "without_needs.smk")  # images, weights and room need not be there
WITHOUT_NEEDS = """include: "Snakefile"


onstart:
    snakemake_adapter.lift_default_rate_limit(workflow)
"""
KIB_IN_MIB = 1024
LAUNCHER = """from diffusability.execution import rule_functions

rule_functions.LAUNCHER = "simulated_torchrun"
"""
# in the place of torch.distributed.run: it starts the one process that would write
TORCHRUN = """import os, sys
script = next(k for k, word in enumerate(sys.argv) if word.endswith(".py") and k)
os.execvp("python", ["python", *sys.argv[script:]])
"""


@dataclass(frozen=True)
class Outcome:
    """What a simulated run was and cost.

    Attributes:
        status: exit status of Snakemake. output: what it wrote.
        seconds: wall time. driver_mib: largest memory of Snakemake itself, without its jobs.
    """

    status: int
    output: str
    seconds: float
    driver_mib: float

    @property
    def jobs(self) -> int:
        """Jobs that Snakemake planned, without the target."""
        return int(re.findall(r"^total +(\d+)$", self.output, re.MULTILINE)[0]) - 1

    @property
    def finished(self) -> int:
        """Jobs that came to their end, once each: those of a group end again with it."""
        return len(set(re.findall(r"^Finished jobid: (\d+)", self.output, re.MULTILINE)))

    @property
    def failed_attempts(self) -> int:
        """Jobs that it reported as failed, each time anew."""
        return len(re.findall(r"^ *Error in rule \w+:$", self.output, re.MULTILINE))


def create(folder: Path, study: Mapping[str, Any]) -> Workspace:
    """Copy the workflow, put stand-ins in the place of the stages' scripts, write the study."""
    workspace = Workspace.create(folder)
    stand_in = Path(stub_stage.__file__).read_text()
    (folder / "scripts" / "make.py").write_text(stand_in)
    (folder / "simulated_torchrun.py").write_text(TORCHRUN)
    rules = folder / "rules" / "common.smk"
    rules.write_text(LAUNCHER + rules.read_text())
    (folder / NO_NEEDS[1]).write_text(WITHOUT_NEEDS)
    (folder / "study.yaml").write_text(yaml.safe_dump(dict(study), sort_keys=False))
    return workspace


def simulate(
    workspace: Workspace, *arguments: str, commands: Sequence[Path] = (), failures: float = 0.0
) -> Outcome:
    """Run Snakemake in a workspace of `create` and wait for it; SIGINT is passed on to it, once.

    Args:
        workspace: where. arguments: of Snakemake, beside the study.
        commands: folders that come first on PATH. failures: share of attempts that fail.
    """
    places = [*map(str, commands), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {
        "PATH": os.pathsep.join(places),
        "SIMULATED_FAILURES": str(failures),
    }
    begun, peak = time.monotonic(), 0.0
    with (workspace.path / "snakemake.log").open("w") as log:
        process = subprocess.Popen(
            # with a message per job, which `finished` counts
            ["snakemake", "--configfile", "study.yaml", "--printshellcmds", *arguments],
            cwd=workspace.path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while process.poll() is None:
            try:
                peak = max(peak, _peak_mib(process.pid))
                time.sleep(0.2)
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
    output = (workspace.path / "snakemake.log").read_text()
    return Outcome(process.returncode, output, time.monotonic() - begun, peak)


def _peak_mib(pid: int) -> float:
    """Return the largest resident memory of a process so far; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    sizes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return sizes[0] / KIB_IN_MIB if sizes else 0.0
