"""A copy of the workflow in a folder of its own, and what Snakemake says that it would do there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import REPOSITORY

PARTS = ("Snakefile", "rules", "scripts", "envs", "profiles", "slurm", "studies", "config.yaml")
PARTS += ("Makefile", "pyproject.toml", "requirements.lock", "README.md")
RULE = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$", re.MULTILINE)
TARGETS = ("all", "figures", "tables", "fisher_toy")  # rules that only name what is wanted
Jobs = dict[str, list[str]]  # rule to sorted "wildcard=value,..." of its jobs


def environment() -> dict[str, str]:
    """Return the variables of a process that finds the commands of this Python's environment."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@dataclass(frozen=True)
class Workspace:
    """A folder from which Snakemake can be run; dry-runs may use another command that starts it."""

    path: Path
    dry_run: tuple[str, ...] = ("snakemake",)

    @classmethod
    def create(cls, path: Path) -> "Workspace":
        """Copy the workflow, without results."""
        path.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            source = REPOSITORY / part
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, path / part)
        return cls(path)

    def copy(self, path: Path) -> "Workspace":
        """Return a copy with results and Snakemake's own records, times of files included."""
        shutil.copytree(self.path, path, symlinks=True)
        return Workspace(path, self.dry_run)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment here; stdout and stderr come back together."""
        result = subprocess.run(
            command,
            cwd=self.path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not check or result.returncode == 0, f"{' '.join(command)}\n{result.stdout}"
        return result

    def write_study(self, study: Mapping[str, Any], name: str = "study.yaml") -> None:
        """Write a study file."""
        (self.path / name).write_text(yaml.safe_dump(dict(study), sort_keys=False))

    def planned(self, *arguments: str, study: str = "study.yaml") -> Jobs:
        """Return the jobs of a dry-run by rule, without fingerprints and empty snapshots."""
        output = self.run(*self.dry_run, "-n", *arguments, "--configfile", study).stdout
        jobs: Jobs = {}
        for block in re.split(r"^\[\w{3} \w{3} .*\]$", output, flags=re.MULTILINE)[1:]:
            rule = RULE.search(block)
            if rule is None:
                continue
            wildcards = re.search(r"^ +wildcards: (.*)$", block, re.MULTILINE)
            pairs = wildcards[1].split(", ") if wildcards else []
            left = [p for p in pairs if not p.startswith("fingerprint=") and p != "snapshot="]
            named = ",".join(left)
            jobs.setdefault(rule[1], []).append(named)
        work = (rule for rule in sorted(jobs) if rule not in TARGETS)
        return {rule: sorted(jobs[rule]) for rule in work}
