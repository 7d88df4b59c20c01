"""What is read of Snakemake's workflow object is there, in the version that is installed."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from snakemake.common import get_input_function_aux_params
from snakemake.resources import Resource

from diffusability.errors import StudyError
from diffusability.execution import snakemake_adapter
from tests.conftest import REPOSITORY

# writes down what the adapter answers: at once, and when jobs are about to run
SNAKEFILE = """
import json
from diffusability.execution import snakemake_adapter as adapter

def note(name, answers):
    with open(name, "w") as file:
        json.dump(answers, file)

if adapter.starts_run(workflow):
    note("parsed.json", {
        "study": adapter.given_study(workflow, config),
        "used_as_module": adapter.is_module(workflow),
        "main": str(adapter.snakefile(workflow)),
        "directory": adapter.given_directory(workflow),
        "folder": str(adapter.workflow_folder(workflow)),
        "conda": adapter.uses_conda(workflow),
    })

rule all:
    input:
        "a",

rule make:
    output:
        "a",
    threads: 2
    resources:
        mem_mb=5,
    shell:
        "touch a"

onstart:
    adapter.lift_default_rate_limit(workflow)
    note("started.json", {
        "submits": adapter.submits_jobs(workflow),
        "executor": adapter.executor(workflow),
        "jobs": [
            (job.rule.name, job.group, job.threads, job.resources.get("mem_mb"))
            for job in adapter.jobs_to_run(workflow)
        ],
        "groups": adapter.jobs_per_group(workflow),
        "limited": workflow.scheduler.job_rate_limiter is not None,
        "forced": adapter.is_forced(workflow, "make", ["a"]),
    })
"""

CHECKPOINT = """
import os

def needs(wildcards):
    if not os.path.exists("consumer") and not os.path.exists("first"):
        FIRST.get()
    return []

rule first:
    output:
        "first",
    shell:
        "printf 'made first' > first"

FIRST = adapter.make_checkpoint(rules.first.rule, checkpoints)

rule consumer:
    input:
        needs,
    output:
        "consumer",
    shell:
        "cp first consumer"
"""


class Probe:
    """A Snakefile that is run, and what it wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.rules = self.folder / "flow" / "rules"  # the adapter looks at the folder above
        self.rules.mkdir(parents=True)
        self.snakefile = self.rules / "Snakefile"
        self.snakefile.write_text(SNAKEFILE)
        (self.folder / "s.yaml").write_text("name: s\n")

    def run(self, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "snakemake", "-s", str(self.snakefile), *arguments]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        files = self.folder.glob("**/*ed.json")
        return {key: value for f in files for key, value in json.loads(f.read_text()).items()}


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    return Probe(tmp_path)


def test_what_a_plain_run_says(probe: Probe) -> None:
    said = probe.run("-c2")
    assert said["study"] == [["flow/config.yaml"], {}]
    assert said["main"] == str(probe.snakefile)
    assert said["folder"] == str(probe.rules.parent)
    assert (said["directory"], said["used_as_module"], said["conda"]) == ("", False, False)
    assert (said["submits"], said["executor"], said["groups"]) == (False, "local", {})
    assert sorted(job[0] for job in said["jobs"]) == ["all", "make"]
    assert ["make", None, 2, 5] in said["jobs"]
    assert not said["forced"]
    assert not said["limited"]  # else every job that ends is another look per second, without end


def test_what_options_change(probe: Probe) -> None:
    said = probe.run(
        *("-c2", "--directory", "work", "--configfile", "s.yaml", "--config", "select={a: [b]}"),
        *("--groups", "make=g", "--group-components", "g=3", "--max-jobs-per-timespan", "5/2s"),
    )
    assert said["study"] == [[str(probe.folder / "s.yaml")], {"select": {"a": ["b"]}}]
    assert said["directory"] == str(probe.folder / "work")
    assert said["groups"] == {"make": 3}
    assert said["limited"]  # a limit that someone asked for stays


def test_a_module_gets_its_study_from_the_snakefile_that_uses_it(probe: Probe) -> None:
    outer = probe.folder / "Snakefile"
    outer.write_text(
        f'module m:\n    snakefile: "{probe.snakefile}"\n    config: {{"name": "inner"}}\n'
        "use rule * from m as m_*\n"
    )
    probe.snakefile, inner = outer, probe.snakefile
    said = probe.run("-n", "m_all", "--config", "name=outer")
    assert said["study"] == [["none"], {"name": "inner"}]
    assert said["used_as_module"]
    assert said["main"] == str(outer)
    assert said["folder"] == str(inner.parent.parent)


@pytest.mark.parametrize("forced", [("-f", "./a"), ("-R", "make"), ("-R", "a")])
def test_what_is_forced(probe: Probe, forced: tuple[str, str]) -> None:
    assert probe.run("-c1", *forced)["forced"]


def test_a_rule_becomes_a_checkpoint(probe: Probe) -> None:
    """What a consumer asks for runs first; then its input function is asked again."""
    text = probe.snakefile.read_text() + CHECKPOINT
    probe.snakefile.write_text(text)
    probe.run("-c1", "consumer")
    assert (probe.folder / "consumer").read_text() == "made first"
    (probe.folder / "first").unlink()
    probe.run("-c1", "consumer")  # nothing asks for it
    assert not (probe.folder / "first").exists()


def test_conda_is_noticed(probe: Probe) -> None:
    assert probe.run("-n", "--sdm", "conda")["conda"]


@pytest.mark.parametrize("version", ["9.19.0", "10.0.1", "8.30"])
def test_versions_that_were_not_tried(version: str) -> None:
    with pytest.raises(StudyError, match=rf"Snakemake {version} is installed; .* at least 9\.20"):
        snakemake_adapter.check_version(version)


@pytest.mark.parametrize("version", ["9.20.0", "9.99.1", None])
def test_versions_that_work(version: str | None) -> None:
    snakemake_adapter.check_version(version)


def test_arguments_of_functions_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known = snakemake_adapter.with_known_arguments(lambda wildcards, attempt: attempt)
    snakemake_adapter.know_arguments_of_resources()
    resource = Resource("mem_mb", known)
    monkeypatch.setattr(inspect, "signature", None)  # asking again would fail
    offered = {"attempt": 3, "threads": 2}
    assert get_input_function_aux_params(known, offered) == {"attempt": 3}
    # a resource hands on whatever it is given, and its function takes what it names
    assert get_input_function_aux_params(resource.evaluate, offered) == offered
    assert resource.evaluate({}, **offered).value == 3
