"""Run the study of a score through the workflow, and read what it measured."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from diffusability.artifacts.inventory import is_done
from diffusability.errors import StudyError
from diffusability.scoring.table import (
    FURTHER,
    Score,
    one_row_each,
    score_name,
    split_applicable,
    tokenizer_of,
)
from diffusability.study.core.workflow_files import workflow_folder
from diffusability.study.metrics.groups import METRIC_GROUPS
from diffusability.study.metrics.perspectives import ContinuityMetric
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import RESULTS, STAGES, name_template
from diffusability.study.preflight.class_sizes import lacking, least_per_class
from diffusability.study.reading.resolve import resolve_study
from diffusability.study.study import Study

LOG = "score.log"
STEPS = re.compile(r"^(\d+) of (\d+) steps")
ERROR = re.compile(r"^error: (.*(?:\n  .*)*)", re.MULTILINE)  # with its list of problems


def write_study(data: Mapping[str, Any], path: Path) -> None:
    """Write a study file that can be edited and run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(data), sort_keys=False, default_flow_style=None, width=120)
    path.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Finished:
    """A score that was run.

    Attributes:
        scores: one per tokenizer and seed.
        plan: of what a page can show; None: its tables could not be made.
    """

    scores: list[Score]
    plan: Plan | None

    @property
    def left_out(self) -> dict[str, dict[str, str]]:
        """Why metric groups and metrics were left out, by tokenizer."""
        found: dict[str, dict[str, str]] = {}
        for score in self.scores:
            found.setdefault(tokenizer_of(score.name), {}).update(score.left_out)
        return found


def run_study(
    data: Mapping[str, Any],
    folder: Path,
    cores: int,
    others: Mapping[str, str] | None = None,
) -> Finished:
    """Measure what a study without diffusion models names; finished parts are not measured again.

    Args:
        data: mapping of the study file, with absolute paths.
        folder: for `results/`, the study file, `score.csv` and `score.json`.
        cores: that are used at once.
        others: metric groups that the study does not declare though they could be measured, with
            the option that does. They, and those that cannot be, are left out with the reason;
            None: a person chose the groups, so nothing is said of others.

    Returns:
        The scores, in which a metric that fails is left out with its reason, and what a page shows.

    Raises:
        StudyError: nothing could be measured.
    """
    log = folder / LOG
    log.unlink(missing_ok=True)
    data, too_few = _enough_images(data, folder, cores, log)
    plan = Plan(resolve_study(data, "score"))
    write_study(data, folder / "score.yaml")
    done = _snakemake(folder, cores, log)
    with contextlib.chdir(folder):
        scores = [replace(s, left_out={**too_few, **s.left_out}) for s in _read(plan, others)]
        if not any(score.measurements for score in scores):
            reasons = _why_nothing(scores, plan.study)
            raise StudyError(f"nothing was measured: {reasons} (log: {log})")
        _write(scores)
    if not done:
        plan = _measured_part(plan, data, folder)
        done = _snakemake(folder, cores, log)
        write_study(data, folder / "score.yaml")
    return Finished(scores, plan if done else None)


def check_measurable(study: Study) -> None:
    """Refuse a study of which no metric group applies to any latent space.

    Raises:
        StudyError: with the reasons.
    """
    plan = Plan(study)
    if not plan.measured:
        raise StudyError(f"nothing can be measured: {_why_nothing(_read(plan, None), study)}")


def _why_nothing(scores: Iterable[Score], study: Study) -> str:
    """Return the reasons why metric groups that a study asks for were not measured."""
    said = [s.left_out.get(name) for s in scores for name in study.selected_metrics]
    return "; ".join(dict.fromkeys(filter(None, said)))


def _measured_part(plan: Plan, data: Mapping[str, Any], folder: Path) -> Plan:
    """Write the study without what failed, and return its plan.

    A metric group that failed is left out of that tokenizer alone, with all seeds of it; a
    tokenizer of which nothing was measured is not selected.
    """
    select = data.get("select") or {}
    without = {name: list(groups) for name, groups in (select.get("without") or {}).items()}
    measured: dict[str, None] = {}
    with contextlib.chdir(folder):
        for artifact in plan.measured:
            tokenizer = artifact.labels["tokenizer"]
            if is_done(artifact):
                measured[tokenizer] = None
            elif artifact.stage not in without.setdefault(tokenizer, []):
                without[tokenizer].append(artifact.stage)
    part = {**data, "select": {**select, "tokenizers": list(measured), "without": without}}
    write_study(part, folder / "score.yaml")
    return Plan(resolve_study(part, "score"))


def _enough_images(
    data: Mapping[str, Any], folder: Path, cores: int, log: Path
) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Count the images of every class; return the study without the metrics that need more.

    Returns:
        The study, and why each metric group was left out.
    """
    study = resolve_study(data, "score")
    chosen = study.selected_metrics
    free = measurable(study)
    if not free or len(free) == len(chosen):
        return data, {}
    counted = _select(data, free)
    (dataset,) = Plan(resolve_study(counted, "score")).of_stage("dataset")
    write_study(counted, folder / "score.yaml")
    manifest = Path(dataset.path, "manifest.json")
    if not (folder / manifest).exists() and not _snakemake(folder, cores, log, str(manifest)):
        return data, {}  # the whole study says why
    by_class = json.loads((folder / manifest).read_text(encoding="utf-8"))["images_by_class"]
    too_few = dict(lacking(study, by_class, chosen))
    left = {name: options for name, options in chosen.items() if name not in too_few}
    return (_select(data, left), too_few) if too_few and left else (data, {})


def measurable(study: Study) -> list[str]:
    """Return the metric groups that any number of images is enough for."""
    several = study.dataset.num_classes > 1
    return [
        name
        for name, options in study.selected_metrics.items()
        if not isinstance(options, ContinuityMetric)
        and not (several and least_per_class(study, options))
    ]


def _select(data: Mapping[str, Any], metrics: Iterable[str]) -> dict[str, Any]:
    """Return a study that measures only some of its metric groups."""
    return {**data, "select": {**(data.get("select") or {}), "metrics": list(metrics)}}


def _snakemake(folder: Path, cores: int, log: Path, *targets: str) -> bool:
    """Run the workflow, showing its progress; return whether everything was made."""
    snakefile = str(workflow_folder() / "Snakefile")
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "-c", str(cores)]
    command += [*targets, "--configfile", "score.yaml", "--keep-going"]
    command += ["--printshellcmds"]  # a message per job, for the log and for STEPS
    places = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    with (
        log.open("a", encoding="utf-8") as out,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            out.write(line)
            steps = STEPS.match(line)
            if steps:
                print(f"\r{steps[1]} of {steps[2]} steps", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return process.returncode == 0


def _read(plan: Plan, others: Mapping[str, str] | None) -> list[Score]:
    """Return the scores of a plan's tokenizers, from the artifacts that are there."""
    study = plan.study
    by_space: dict[tuple[str, str], list[Artifact]] = {
        (name, str(seed)): []
        for name in study.selected_tokenizers
        for seed, _ in study.seeds_of(name)
    }
    for artifact in plan.measured:  # of some spaces none, which are left out with the reason
        by_space[artifact.labels["tokenizer"], artifact.labels["tokenizer_seed"]].append(artifact)
    seeds = {seed for _, seed in by_space}
    found = []
    for (tokenizer, seed), artifacts in by_space.items():
        unasked = {} if others is None else _not_declared(study, tokenizer, others)
        name = score_name(tokenizer, seed, seeds)
        found.append(_score(name, artifacts, {**unasked, **study.left_out(tokenizer)}))
    return found


def _not_declared(study: Study, tokenizer: str, others: Mapping[str, str]) -> dict[str, str]:
    """Return why metric groups of the table that a study does not declare are not measured."""
    shown = [group.name for group in METRIC_GROUPS.values() if group.shows or group.name in FURTHER]
    missing = [name for name in shown if name not in study.metrics.groups]
    reasons = {name: study.unmeasurable(tokenizer, name) or others.get(name) for name in missing}
    return {name: reason for name, reason in reasons.items() if reason}


def _score(name: str, artifacts: list[Artifact], reasons: Mapping[str, str]) -> Score:
    left_out = dict(reasons)
    measurements: list[Mapping[str, Any]] = []
    for artifact in artifacts:
        if not is_done(artifact):
            # some errors begin with the group, which tables name before the reason
            left_out[artifact.stage] = _failure(artifact).removeprefix(f"{artifact.stage}: ")
            continue
        cells = json.loads(Path(artifact.path, "measurements.json").read_text(encoding="utf-8"))
        found, without = split_applicable(cells)
        measurements += found
        left_out |= without
    return Score(name, measurements, left_out)


def _failure(artifact: Artifact) -> str:
    """Return the error of what failed: the artifact's own job, or the first of those it needs."""
    for each in _needed(artifact):
        name = name_template(each.stage).format(**each.labels, fingerprint=each.fingerprint)
        log = Path(RESULTS, "logs", STAGES[each.stage].rule, f"{name}.log")
        if is_done(each) or not log.exists():
            continue
        text = log.read_text(encoding="utf-8", errors="replace").strip()
        if errors := ERROR.findall(text):
            return "; ".join(line.strip() for line in errors[-1].splitlines())
        last = text.splitlines()[-1] if text else "its job failed"  # of a traceback: the exception
        return f"{last} (log: {log.absolute()})"
    return f"a job that it needs failed; the log is {LOG}"


def _needed(artifact: Artifact) -> Iterator[Artifact]:
    """Yield an artifact after all that it is made from, however far upstream."""
    for each in artifact.upstream.values():
        yield from _needed(each)
    yield artifact


def _write(scores: list[Score]) -> None:
    """Write score.csv and score.json."""
    one_row_each(scores).to_csv("score.csv", index=False)
    found = {
        score.name: {"measurements": list(score.measurements), "left_out": dict(score.left_out)}
        for score in scores
    }
    Path("score.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
