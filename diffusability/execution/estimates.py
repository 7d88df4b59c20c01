"""Estimated cost of a plan: measured on similar finished artifacts, else counted in FLOPs."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import median
from typing import Any

from diffusability.artifacts.card import read_card
from diffusability.artifacts.inventory import finished, is_done
from diffusability.errors import ArtifactError
from diffusability.execution.schedule import Task
from diffusability.execution.this_machine import ThisMachine
from diffusability.study.core.fingerprint import fingerprint
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import STAGES
from diffusability.study.preflight.cost import Costs, Work

# options that may differ within one kind, because they hardly change the cost
FREE = {"tokenizer": "regularizer", "samples": "step"}
FREE_ROLE = "encoder"  # encoder that a tokenizer is aligned with


@dataclass(frozen=True)
class StageCost:
    """Estimated cost of one stage of a plan.

    Attributes:
        stage: name of the stage.
        jobs: artifacts of the plan.
        done: finished ones.
        measured_seconds: total for unfinished jobs of a kind that was timed.
        counted_seconds: total for unfinished jobs whose FLOPs are counted.
        core_seconds: total for unfinished jobs of CPU cores, in proportion to what they read.
        counted: number of jobs of these two kinds.
        unknown: number of unfinished jobs of unknown cost.
        bytes: size of unfinished artifacts, computed from shapes.
        timed: number of finished artifacts behind the measured time.
        devices: devices of these.
    """

    stage: str
    jobs: int
    done: int
    measured_seconds: float
    counted_seconds: float
    core_seconds: float
    counted: int
    unknown: int
    bytes: int
    timed: int
    devices: tuple[str, ...]

    @property
    def to_do(self) -> int:
        """Number of unfinished artifacts."""
        return self.jobs - self.done

    @property
    def seconds(self) -> float | None:
        """Mean seconds of an unfinished job, over those of known cost."""
        known = self.to_do - self.unknown
        return self.whole / known if known else None

    @property
    def whole(self) -> float:
        """Seconds of all unfinished jobs of known cost, one after the other."""
        return self.measured_seconds + self.counted_seconds + self.core_seconds

    @property
    def source(self) -> str:
        """The source of the time estimate."""
        measured = f"{self.timed} timed on {', '.join(self.devices)}" if self.timed else ""
        counted = "counted, of a core" if self.core_seconds else "counted"
        parts = [measured, counted * bool(self.counted), "unknown" * bool(self.unknown)]
        return " + ".join(part for part in parts if part)


class Estimates:
    """Cost estimates of a plan, from timings of similar artifacts in results/ if there are any."""

    def __init__(self, plan: Plan, here: ThisMachine | None = None) -> None:
        """Look which artifacts are finished; timings in results/ are read on first use."""
        self.plan, self.costs = plan, Costs(plan.study)
        self._here = here  # else on the assumed GPUs
        self._kinds: dict[Path, str | None] = {}
        self._works: dict[Artifact, Work] = {}
        self._unfinished = {artifact for artifact in plan if not is_done(artifact)}

    def stages(self) -> list[StageCost]:
        """Return the cost of every stage of the plan, in workflow order."""
        used = [stage for stage in STAGES if self.plan.of_stage(stage)]
        return [self._stage(stage) for stage in used]

    def tasks(self) -> dict[Artifact, Task]:
        """Return the unfinished tasks with their needs; unknown work counts as 0 s."""
        found = {}
        for artifact in self.plan:
            if artifact not in self._unfinished:
                continue
            gpus = artifact.local.get("gpus", 1) if STAGES[artifact.stage].gpu else 0
            work = self._work(artifact)
            seconds = self._timed_seconds(artifact) or self._seconds(work) or 0.0
            size = work.bytes
            found[artifact] = Task(seconds / max(1, gpus), gpus, size)
        return found

    def decoding(self) -> tuple[float, Artifact] | None:
        """Return the most image files that a GPU needs in a second, and for which artifact."""
        rates = []
        for artifact in self._unfinished:
            work = self._work(artifact)
            seconds = self._timed_seconds(artifact) or self._seconds(work)
            if work.decoded and seconds:
                rates.append((work.decoded / seconds, artifact))
        return max(rates, key=lambda rate: (rate[0], rate[1].path), default=None)

    def _work(self, artifact: Artifact) -> Work:
        """Return the counted cost of an artifact, counted once."""
        if artifact not in self._works:
            self._works[artifact] = self.costs.work(artifact)
        return self._works[artifact]

    def _seconds(self, work: Work) -> float | None:
        """Return the counted time of a job, on the assumed GPU or on this machine."""
        if work.macs is None and work.core_seconds is None:
            return None
        if self._here is None:
            return work.core_seconds if work.seconds is None else work.seconds
        return self._here.seconds(work.macs) + (work.core_seconds or 0.0)

    def _timed_seconds(self, artifact: Artifact) -> float | None:
        runs = self._timed.get(kind_of(artifact)) if self._timed else None
        return median(seconds for seconds, _ in runs) if runs else None

    def _stage(self, stage: str) -> StageCost:
        artifacts = self.plan.of_stage(stage)
        to_do = [artifact for artifact in artifacts if artifact in self._unfinished]
        measured = counted = on_cores = 0.0
        counts = Counter[str]()
        size = 0
        timed: dict[str, int] = {}
        devices: set[str] = set()
        for artifact in to_do:
            work = self._work(artifact)
            size += work.bytes
            seconds = self._timed_seconds(artifact)
            if seconds is not None:
                kind = kind_of(artifact)
                measured += seconds
                timed[kind] = len(self._timed[kind])
                devices |= {device for _, device in self._timed[kind]}
                continue
            known = self._seconds(work)
            counts["unknown" if known is None else "counted"] += 1
            if work.macs is None and work.core_seconds is not None:
                on_cores += known or 0.0
            else:
                counted += known or 0.0
        return StageCost(
            stage=stage,
            jobs=len(artifacts),
            done=len(artifacts) - len(to_do),
            measured_seconds=measured,
            counted_seconds=counted,
            core_seconds=on_cores,
            counted=counts["counted"],
            unknown=counts["unknown"],
            bytes=size,
            timed=sum(timed.values()),
            devices=tuple(sorted(devices)),
        )

    @cached_property
    def _timed(self) -> dict[str, list[tuple[float, str]]]:
        """GPU-seconds and device of finished artifacts by kind, without resumed ones."""
        found = defaultdict(list)
        for path in finished():
            kind = self._kind_of_card(path)
            card = read_card(path) if kind is not None else {}
            if kind is not None and card.get("attempts") == 1:
                seconds = float(card["seconds"]) * card.get("local", {}).get("gpus", 1)
                found[kind].append((seconds, str(card["machine"]["device"])))
        return dict(found)

    def _kind_of_card(self, path: Path) -> str | None:
        """Return the kind of a finished artifact; None if one of its inputs is gone."""
        if path not in self._kinds:
            try:
                card = read_card(path)
                found = {
                    role: self._kind_of_card(Path(entry["path"]))
                    for role, entry in card["upstream"].items()
                }
                made_from = {role: kind for role, kind in found.items() if kind is not None}
                whole = len(made_from) == len(found)
                self._kinds[path] = _kind(card["stage"], card["spec"], made_from) if whole else None
            except (ArtifactError, KeyError):
                self._kinds[path] = None
        return self._kinds[path]


@cache
def kind_of(artifact: Artifact) -> str:
    """Return the key of artifacts with about the same cost.

    They have the same options, including those of their inputs, except for seeds, regularizers and
    the encoder that a tokenizer is aligned with.
    """
    made_from = {role: kind_of(upstream) for role, upstream in artifact.upstream.items()}
    return _kind(artifact.stage, artifact.spec, made_from)


def _kind(stage: str, spec: Mapping[str, Any], made_from: Mapping[str, str]) -> str:
    fixed = {key: value for key, value in spec.items() if key != FREE.get(stage)}
    roles = {r: k for r, k in made_from.items() if (stage, r) != ("tokenizer", FREE_ROLE)}
    return fingerprint(stage, STAGES[stage].version, fixed, 0, roles)
