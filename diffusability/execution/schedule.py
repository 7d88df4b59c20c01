"""A study's jobs on a number of GPUs: how long they take, and what lies on disk meanwhile.

List scheduling: whenever something ends, the jobs that can start do so in the order of their
priorities. The first that needs more GPUs than are free has them reserved, and what is behind it
starts only where it does not delay that one, as in the queue of a cluster (backfill).
"""

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from diffusability.execution.priority import Priorities
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import BULK


@dataclass(frozen=True)
class Task:
    """What one artifact needs.

    Attributes:
        seconds: that it takes on its GPUs.
        gpus: that it holds; 0 for work of CPU cores.
        bytes: on disk when it is finished.
    """

    seconds: float
    gpus: int
    bytes: int


@dataclass(frozen=True)
class Schedule:
    """What became of a schedule.

    Attributes:
        seconds: until the last job ended.
        latents: tokenizers, at most at one time, whose latents something still needed.
        latent_bytes: of latents that something still needed, at most at one time.
        sample_bytes: of samples that something still needed, likewise.
        disk: bytes of everything at its fullest, with latents and samples evicted as soon as
            nothing needs them.
        disk_with_samples: likewise, with latents alone evicted.
    """

    seconds: float
    latents: int
    latent_bytes: int
    sample_bytes: int
    disk: int
    disk_with_samples: int


def critical_path(plan: Plan, tasks: Mapping[Artifact, Task]) -> list[Artifact]:
    """Return the chain of artifacts, each made from the one before, that takes longest."""
    ends: dict[Artifact, float] = {}
    before: dict[Artifact, Artifact | None] = {}
    for artifact in plan:
        if artifact not in tasks:
            continue
        upstream = [a for a in artifact.upstream.values() if a in tasks]
        latest = max(upstream, key=lambda a: ends[a], default=None)
        before[artifact] = latest
        ends[artifact] = tasks[artifact].seconds + (ends[latest] if latest else 0.0)
    chain: list[Artifact] = []
    last = max(ends, key=lambda a: ends[a], default=None)
    while last is not None:
        chain.insert(0, last)
        last = before[last]
    return chain


def schedule(plan: Plan, tasks: Mapping[Artifact, Task], gpus: int) -> Schedule:
    """Return what running the tasks of a plan on `gpus` GPUs comes to.

    Args:
        plan: of the study.
        tasks: of its artifacts that are to be made; what is not in it is there.
        gpus: that jobs can hold at once; a task that asks for more takes all of them, for longer.
    """
    return _Simulation(plan, tasks, gpus).run()


class _Simulation:
    def __init__(self, plan: Plan, tasks: Mapping[Artifact, Task], gpus: int) -> None:
        self.tasks, self.gpus, self.free = tasks, gpus, gpus
        self._priorities = Priorities(plan)
        self._missing: dict[Artifact, int] = {}  # inputs that are not there yet
        self._readers: dict[Artifact, list[Artifact]] = {}
        for artifact in tasks:
            upstream = set(artifact.upstream.values())
            self._missing[artifact] = sum(a in tasks for a in upstream)
            for needed in upstream:
                self._readers.setdefault(needed, []).append(artifact)
        self._unread = {a: len(readers) for a, readers in self._readers.items()}
        self._disk = _Disk(a for a in self._readers if a not in tasks)
        self._order = count()  # of equal priorities: as in the plan
        self._ready: list[tuple[int, int, Artifact]] = []
        self._running: list[tuple[float, int, Artifact]] = []

    def run(self) -> Schedule:
        now = 0.0
        for artifact, missing in self._missing.items():
            if not missing:
                self._make_ready(artifact)
        self._start(now)
        while self._running:
            now, _, artifact = heapq.heappop(self._running)
            self._end(artifact)
            while self._running and self._running[0][0] <= now:
                self._end(heapq.heappop(self._running)[2])
            self._start(now)
        return self._disk.schedule(now)

    def _make_ready(self, artifact: Artifact) -> None:
        place = -self._priorities.of(artifact), next(self._order), artifact
        heapq.heappush(self._ready, place)

    def _start(self, now: float) -> None:
        """Start what can start, the most important first."""
        waiting = []
        reserved, spare = (
            math.inf,
            0,
        )  # from when the first that waits has its GPUs; those left over
        while self._ready:
            entry = heapq.heappop(self._ready)
            artifact = entry[2]
            needed, end = self._needed(artifact), now + self._seconds(artifact)
            in_time = not needed or end <= reserved
            if needed > self.free:
                waiting.append(entry)
                if reserved == math.inf:
                    reserved, spare = self._reserve(needed)
            elif in_time or needed <= spare:
                spare -= 0 if in_time else needed
                self._begin(artifact, needed, end)
            else:
                waiting.append(entry)
        for entry in waiting:
            heapq.heappush(self._ready, entry)

    def _reserve(self, needed: int) -> tuple[float, int]:
        """Return when that many GPUs will be free, and how many more will be."""
        free = self.free
        for end, _, artifact in sorted(self._running, key=lambda entry: entry[0]):
            free += self._needed(artifact)
            if free >= needed:
                return end, free - needed
        raise AssertionError("no job asks for more GPUs than there are")

    def _begin(self, artifact: Artifact, needed: int, end: float) -> None:
        self.free -= needed
        self._disk.write(artifact, self.tasks[artifact].bytes)
        heapq.heappush(self._running, (end, next(self._order), artifact))

    def _needed(self, artifact: Artifact) -> int:
        return min(self.tasks[artifact].gpus, self.gpus)

    def _seconds(self, artifact: Artifact) -> float:
        task = self.tasks[artifact]
        return task.seconds * task.gpus / self._needed(artifact) if task.gpus else task.seconds

    def _end(self, artifact: Artifact) -> None:
        self.free += self._needed(artifact)
        for needed in set(artifact.upstream.values()):
            self._unread[needed] -= 1
            if not self._unread[needed]:
                self._disk.evict(needed)
        if not self._unread.get(artifact):
            self._disk.evict(artifact)
        for reader in self._readers.get(artifact, ()):
            self._missing[reader] -= 1
            if not self._missing[reader]:
                self._make_ready(reader)


class _Disk:
    """What lies on disk, and the most that ever did."""

    def __init__(self, there: Iterable[Artifact]) -> None:
        """Begin with what is there already; its bytes are not counted."""
        self._needed: dict[str, dict[Artifact, int]] = {stage: {} for stage in BULK}
        self._kept = self._samples = 0  # bytes: of all but bulk; of samples, evicted or not
        self._most = dict.fromkeys(
            ("latents", "latent_bytes", "sample_bytes", "disk", "disk_with_samples"), 0
        )
        for artifact in there:
            self.write(artifact, 0)

    def write(self, artifact: Artifact, size: int) -> None:
        if artifact.stage in self._needed:
            self._needed[artifact.stage][artifact] = size
            self._samples += size if artifact.stage == "samples" else 0
        else:
            self._kept += size
        latents, samples = (sum(self._needed[stage].values()) for stage in BULK)
        now = {
            "latents": len(self._needed["latents"]),
            "latent_bytes": latents,
            "sample_bytes": samples,
            "disk": self._kept + latents + samples,
            "disk_with_samples": self._kept + latents + self._samples,
        }
        self._most = {key: max(self._most[key], value) for key, value in now.items()}

    def evict(self, artifact: Artifact) -> None:
        self._needed.get(artifact.stage, {}).pop(artifact, None)

    def schedule(self, seconds: float) -> Schedule:
        return Schedule(seconds, **self._most)
