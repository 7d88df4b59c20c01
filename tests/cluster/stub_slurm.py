"""A stand-in for Slurm's commands: it writes down what it was asked for, and runs jobs right here.

`install(folder)` puts the commands in `folder`/bin, to stand first on PATH; what they say comes
from `folder`/cluster.json. Jobs run in a few slots, without limits of time or memory.
"""

import argparse
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SNAKEMAKE = re.compile(r"\S*python[\d.]* -m snakemake(?= )")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "sacct", "sacctmgr", "sshare", "sinfo")
COMMANDS += ("scontrol",)
CLUSTER: dict[str, Any] = {
    "accounts": ["study", "other"],
    "needs_account": True,
    "partitions": {
        "cpu": {"gpus": {}, "minutes": 2880, "cpus": 64, "mem_mb": 256_000},
        "gpu": {"gpus": {"h100": 8}, "minutes": 1440, "cpus": 64, "mem_mb": 512_000},
    },
    "slots": 2,
    "snakemake": None,  # what to call in its place (warm_snakemake.serving)
    "fails": [],  # [pattern of a comment, state]: the first job it fits ends so, without running
}


def install(folder: Path, **over: Any) -> Path:
    """Write the commands and the cluster they speak for; return the folder for PATH."""
    binaries = folder / "bin"
    binaries.mkdir(parents=True)
    (folder / "jobs").mkdir()
    (folder / "cluster.json").write_text(json.dumps(CLUSTER | over))
    for name in COMMANDS:
        call = f'exec "{sys.executable}" "{Path(__file__).resolve()}" "{folder}" {name} "$@"'
        (binaries / name).write_text(f"#!/bin/sh\n{call}\n")
        (binaries / name).chmod(0o755)
    return binaries


def submitted(folder: Path) -> list[dict[str, Any]]:
    """Return what sbatch was asked for, in order, each with its state at the end."""
    files = sorted((folder / "jobs").glob("*.json"), key=lambda file: int(file.stem))
    return [
        json.loads(file.read_text()) | {"state": file.with_suffix(".state").read_text()}
        for file in files
    ]


def main(argv: Sequence[str]) -> int:
    """Run one of the commands and return its exit status."""
    folder, command, *rest = argv
    return _Slurm(Path(folder)).run(command, rest)


class _Slurm:
    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, folder / "jobs"
        self.cluster = json.loads((folder / "cluster.json").read_text())

    def run(self, command: str, rest: list[str]) -> int:
        return int(getattr(self, command)(rest) or 0)

    def sbatch(self, rest: list[str]) -> int:
        asked = _options().parse_args(rest)
        refused = self._refusal(asked)
        if refused:
            print(f"sbatch: error: {refused}", file=sys.stderr)
            return 1
        if asked.test_only:
            return 0
        number = self._next_number()
        job = {key: value for key, value in vars(asked).items() if value is not None}
        self._state(number, "PENDING")
        _replace(self.jobs / f"{number}.json", json.dumps(job))
        start = [sys.executable, __file__, str(self.folder), "work", str(number)]
        log = Path(asked.output.replace("%j", str(number)))
        with log.open("w") as out:
            streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
            subprocess.Popen(start, cwd=asked.chdir, start_new_session=True, **streams)
        print(number)
        return 0

    def _refusal(self, asked: argparse.Namespace) -> str | None:
        """Return why the cluster would not take the job, in Slurm's words."""
        known = self.cluster["accounts"]
        if asked.account is None and self.cluster["needs_account"]:
            return "You must specify an account (--account)"
        if asked.account is not None and asked.account not in known:
            return "Invalid account or account/partition combination specified"
        partition = self.cluster["partitions"].get(asked.partition)
        if partition is None:
            return f"invalid partition specified: {asked.partition}"
        kind, _, count = (asked.gpus or "").rpartition(":")
        if asked.gres:
            _, *kinds, count = asked.gres.split(":")
            kind = kinds[0] if kinds else ""
        have = sum(n for name, n in partition["gpus"].items() if kind in ("", name))
        short = int(asked.time or 0) > partition["minutes"] or int(count or 0) > have
        cpus = int(asked.cpus_per_gpu or 0) * int(count or 0) or int(asked.cpus_per_task)
        short |= cpus > partition["cpus"]
        if short or int(asked.mem or 0) > partition["mem_mb"]:
            return "Requested node configuration is not available"
        return None

    def work(self, rest: list[str]) -> None:
        """Wait for a slot, run a job, and note how it ended."""
        number = int(rest[0])
        job = json.loads((self.jobs / f"{number}.json").read_text())
        with self._slot():
            if self._state(number) == "CANCELLED":
                return
            state = self._injected(job.get("comment", ""))
            if state is None:
                self._state(number, "RUNNING")
                environment = os.environ | {"SLURM_JOB_ID": str(number)}
                shell = ["/bin/sh", "-c", self._warmed(job["wrap"])]
                process = subprocess.Popen(shell, env=environment, start_new_session=True)
                (self.jobs / f"{number}.pid").write_text(str(process.pid))
                state = "FAILED" if process.wait() else "COMPLETED"
            if self._state(number) != "CANCELLED":
                self._state(number, state)

    def _slot(self) -> Any:
        """Return one of the open files that stand for free places, locked."""
        while True:
            for k in range(self.cluster["slots"]):
                slot = (self.folder / f"slot{k}").open("w")
                try:
                    fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return slot
                except BlockingIOError:
                    slot.close()
            time.sleep(0.1)

    def _injected(self, comment: str) -> str | None:
        for k, (pattern, state) in enumerate(self.cluster["fails"]):
            if re.search(pattern, comment):
                try:
                    (self.folder / f"failed{k}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                return str(state)
        return None

    def _next_number(self) -> int:
        with (self.folder / "numbers").open("a+") as numbers:
            fcntl.flock(numbers, fcntl.LOCK_EX)
            numbers.write("x")
            numbers.flush()
            return numbers.tell()

    def _state(self, number: int, state: str | None = None) -> str:
        file = self.jobs / f"{number}.state"
        if state is not None:
            _replace(file, state)
        return file.read_text()

    def srun(self, rest: list[str]) -> None:
        while rest and rest[0].startswith("-"):
            rest = rest[1:]
        command = self._warmed(shlex.join(rest))
        os.execvp("/bin/sh", ["/bin/sh", "-c", f"exec {command}"])

    def _warmed(self, command: str) -> str:
        instead = self.cluster["snakemake"]
        return SNAKEMAKE.sub(lambda _: instead, command) if instead else command

    def squeue(self, rest: list[str]) -> None:
        name = rest[rest.index("--name") + 1] if "--name" in rest else None
        for job in self._named(name):
            print(f"{job['number']}|{self._state(job['number'])}")

    def _named(self, name: str | None) -> list[dict[str, Any]]:
        jobs = [
            json.loads(file.read_text()) | {"number": int(file.stem)}
            for file in self.jobs.glob("*.json")
        ]
        return [job for job in jobs if name in (None, job["job_name"])]

    def scancel(self, rest: list[str]) -> None:
        for number in (int(part) for part in rest if part.isdecimal()):
            self._state(number, "CANCELLED")
            pid = self.jobs / f"{number}.pid"
            if pid.exists():
                os.killpg(int(pid.read_text()), signal.SIGTERM)

    def sacct(self, rest: list[str]) -> None:
        name = next((part.partition("=")[2] for part in rest if part.startswith("--name=")), None)
        for job in self._named(name):
            used = f"00:01:00|00:00:30|1|{job['cpus_per_task']}"
            print(f"{job['number']}|{job['job_name']}|{job['comment']}|{used}||{job['mem']}M")
            print(f"{job['number']}.0|snakemake||{used}|512M|")

    def sacctmgr(self, rest: list[str]) -> None:
        print("\n".join(self.cluster["accounts"]))

    sshare = sacctmgr

    def sinfo(self, rest: list[str]) -> None:
        for name, partition in self.cluster["partitions"].items():
            kinds = ",".join(f"gpu:{kind}:{n}(S:0-1)" for kind, n in partition["gpus"].items())
            print(f"{name} {kinds or '(null)'}" if "%G" in " ".join(rest) else name)

    def scontrol(self, rest: list[str]) -> None:
        print("MaxArraySize            = 1001\nMinJobAge               = 300 sec")


def _replace(file: Path, text: str) -> None:
    """Write a file that another process may be reading."""
    scratch = file.with_name(f"scratch.{file.name}.{os.getpid()}.tmp")
    scratch.write_text(text)
    scratch.replace(file)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sbatch", allow_abbrev=False)
    for flag in ("--parsable", "--requeue", "--test-only"):
        parser.add_argument(flag, action="store_true")
    for option in ("--job-name", "--export", "--comment", "--mem", "--gpus", "--gres", "--wrap"):
        parser.add_argument(option)
    parser.add_argument("--output", default="/dev/null")
    for option in ("--ntasks", "--nodes", "--cpus-per-gpu"):
        parser.add_argument(option)
    parser.add_argument("--cpus-per-task", default="1")
    for short, long in (("-A", "--account"), ("-p", "--partition"), ("-t", "--time")):
        parser.add_argument(short, long)
    parser.add_argument("-D", "--chdir")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
