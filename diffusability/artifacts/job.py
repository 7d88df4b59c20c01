"""The job that makes one artifact: verified inputs, and outputs published atomically."""

import contextlib
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusability.artifacts.atomic import (
    disk_errors,
    leftovers,
    move,
    sha256,
    write_bytes,
    write_json,
)
from diffusability.artifacts.bulk import evicted, marker
from diffusability.artifacts.card import verified
from diffusability.artifacts.inventory import remove_empty_parents
from diffusability.artifacts.lock import empty, exclusive, holder
from diffusability.artifacts.machine import describe_machine, peak_memory
from diffusability.artifacts.progress import (
    FILE,
    Progress,
    end_progress,
    read_progress,
    write_progress,
)
from diffusability.errors import ArtifactError, TrainingInterrupted
from diffusability.study.core.fingerprint import derive_seed, fingerprint
from diffusability.study.core.merge import merge
from diffusability.study.core.spec import TIME_BUDGET
from diffusability.study.planning.stages import CARD, RESULTS, STAGES

logger = logging.getLogger(__name__)
GLANCE = 1.0  # seconds; checking whether a lock is held takes it briefly


@dataclass(frozen=True)
class Job:
    """All information needed to make one artifact.

    Attributes:
        stage: kind of the artifact, a key of STAGES.
        version: the stage's version for which the job was planned.
        name: readable name, for messages.
        spec: resolved options of the stage, plain JSON values.
        seed: seed of the stage's randomness.
        upstream: role to `{"stage", "fingerprint", "path"}` of each input artifact, and `local` of
            a dataset or a tokenizer that was not trained: where its files are now.
        path: directory of the artifact.
        local: paths and runtime options of this machine; not part of the fingerprint.
        device: torch device; not part of the fingerprint.
        minutes: time after which training saves its state and stops; None for no limit.
    """

    stage: str
    version: int
    name: str
    spec: Mapping[str, Any]
    seed: int
    upstream: Mapping[str, Mapping[str, Any]]
    path: Path
    local: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    minutes: float | None = None
    started: float = field(default_factory=time.time)

    @classmethod
    def from_json(cls, text: str, **run: Any) -> "Job":
        """Return the job that Artifact.job() wrote.

        Raises:
            ArtifactError: the text is not a job, or was planned for another version of the stage.
        """
        try:
            plain = json.loads(text)
            job = cls(**(plain | {"path": Path(plain["path"])}), **run)
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"--job: not a job of a plan ({error}): {text:.80}") from None
        if job.stage not in STAGES or job.version != STAGES[job.stage].version:
            raise ArtifactError(f"--job: planned for another version of stage {job.stage}")
        return job

    @cached_property
    def fingerprint(self) -> str:
        """Recomputed from the content, so a job edited by hand cannot use another fingerprint."""
        roles = {role: entry["fingerprint"] for role, entry in self.upstream.items()}
        return fingerprint(self.stage, self.version, self.spec, self.seed, roles)

    @property
    def options(self) -> dict[str, Any]:
        """The complete options: the spec with the local options of this machine."""
        return merge(self.spec, self.local)

    @property
    def minutes_left(self) -> float | None:
        """Remaining minutes of the job's time limit."""
        if self.minutes is None:
            return None
        return self.minutes - (time.time() - self.started) / 60

    @property
    def state(self) -> Path:
        """Directory of lock, checkpoints and unpublished files; removed when the job is done."""
        return Path(RESULTS, "state", self.stage, self.name, self.fingerprint)

    def stream(self, use: str) -> int:
        """Return the seed of one use of randomness, the same for every artifact of one seed.

        The name is deliberately not part of it: tokenizers that differ only in their regularizer
        start from the same weights and see the same batches.
        """
        return derive_seed(self.stage, self.seed, use)

    def input(self, role: str) -> Path:
        """Return the directory of an upstream artifact after verifying its card and its files.

        Raises:
            ArtifactError: it is missing, altered, or not the one this job was planned for.
        """
        entry = self.upstream[role]
        path = Path(entry["path"])
        verified(path, entry["stage"], entry["fingerprint"])
        return path

    def made_by_another(self) -> bool:
        """Wait while another process makes this artifact; return whether it then exists.

        This happens after a restart of the driver or a node, while a job still runs elsewhere.
        Without another process it returns False immediately.

        Raises:
            ArtifactBusyError: the job's own time limit was reached first.
        """
        lock = self.state / "lock"
        at_work = holder(lock)
        if at_work is None:
            return False
        logger.info("waiting: %s is making %s", at_work, self.path)
        left = self.minutes_left
        with exclusive(lock, str(self.path), math.inf if left is None else 60 * TIME_BUDGET * left):
            pass
        with contextlib.suppress(OSError):  # not empty: the other process left its state
            if not lock.exists() and {file.name for file in self.state.iterdir()} <= {FILE}:
                (self.state / FILE).unlink(missing_ok=True)
            self.state.rmdir()
        remove_empty_parents(self.state)
        try:
            verified(self.path, self.stage, self.fingerprint)
        except ArtifactError:
            return False
        return True

    def made_since(self, when: float) -> bool:
        """Return whether the artifact is whole and was finished after a time.

        Args:
            when: seconds since 1970, on the clock of the machine that made it.
        """
        try:
            card = verified(self.path, self.stage, self.fingerprint)
        except ArtifactError:
            return False
        finished: float = card["started"] + card["seconds"]
        return finished >= when

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield a folder for the outputs; publish them with their card if the block succeeds.

        The card is moved last, so an artifact with a card is complete. If the block raises, its
        files are removed and the artifact's folder is unchanged; checkpoints are kept.

        Raises:
            ArtifactBusyError: another process is making this artifact.
            ArtifactError: the block did not write every declared output of the stage.
        """
        with self._attempt() as (staging, attempts):
            yield staging
            self._publish(staging, attempts)

    @contextlib.contextmanager
    def restoring(self) -> Iterator[Path]:
        """Yield a folder for the outputs; put back what was evicted if the block succeeds.

        Everything else of the artifact stays as it is, and its card too unless the bits of an
        evicted file are others than before.

        Raises:
            ArtifactBusyError: another process is making this artifact.
            ArtifactError: the artifact was never finished, or is still not whole.
        """
        with self._attempt() as (staging, _):
            before = verified(self.path, self.stage, self.fingerprint)
            yield staging
            self._put_back(staging, before)

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[tuple[Path, int]]:
        """Hold the lock and yield a folder to write into and the number of the attempt."""
        if self.path.name != self.fingerprint:
            raise ArtifactError(
                f"{self.path}: fingerprint mismatch (this job has {self.fingerprint}); "
                "refusing to write"
            )
        lock, reads = self.state / "lock", [u["fingerprint"] for u in self.upstream.values()]
        with disk_errors(self.path), exclusive(lock, str(self.path), wait=GLANCE, reads=reads):
            for left in (*leftovers(self.path), *leftovers(self.state)):
                left.unlink(missing_ok=True)
            staging = self.state / "staging"
            shutil.rmtree(staging, ignore_errors=True)  # left by an attempt that was killed
            staging.mkdir(parents=True)
            attempts = self._count_attempt()
            write_progress(self.state, self._begun())
            try:
                yield staging, attempts
            except BaseException as error:
                self.note_end(error)
                raise
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            empty(lock)
        remove_empty_parents(self.state)

    def note_end(self, error: BaseException) -> None:
        """Record in the job's state that it failed, for `diffusability status`."""
        interrupted = isinstance(error, TrainingInterrupted)
        with contextlib.suppress(OSError, ArtifactError):  # report the original error instead
            end_progress(self.state, "interrupted" if interrupted else "failed")

    def _begun(self) -> Progress:
        """Return the initial progress of an attempt: that of the last attempt."""
        last = read_progress(self.state) or Progress("running")
        return Progress("running", last.step, last.steps, last.loss)

    def _count_attempt(self) -> int:
        counter = self.state / "attempts"
        before = 0
        with contextlib.suppress(OSError, ValueError):  # none yet, or not readable
            before = int(counter.read_text())
        write_bytes(counter, str(before + 1).encode())
        return before + 1

    def _publish(self, staging: Path, attempts: int) -> None:
        files = sorted(p for p in staging.rglob("*") if p.is_file())
        names = [str(p.relative_to(staging)) for p in files]
        missing = set(STAGES[self.stage].outputs) - set(names)
        if missing:
            raise ArtifactError(f"{self.path}: {', '.join(sorted(missing))} was not written")
        outputs = {
            name: {"sha256": sha256(file), "bytes": file.stat().st_size}
            for name, file in zip(names, files, strict=True)
        }
        card = {
            "stage": self.stage,
            "version": self.version,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "spec": self.spec,
            "seed": self.seed,
            "upstream": self.upstream,
            "local": self.local,
            "outputs": outputs,
            "machine": describe_machine(self.device),
            "started": self.started,
            "seconds": max(0.0, time.time() - self.started),  # a clock may be set back
            "attempts": attempts,
            "peak_memory_bytes": peak_memory(self.device),
        }
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / CARD).unlink(missing_ok=True)
        for name, file in zip(names, files, strict=True):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            move(file, self.path / name)
        write_json(self.path / CARD, card)

    def _put_back(self, staging: Path, card: dict[str, Any]) -> None:
        names = [name for name in card["outputs"] if (staging / name).is_file()]
        found = {
            name: {"sha256": sha256(staging / name), "bytes": (staging / name).stat().st_size}
            for name in names
        }
        others = [name for name in names if found[name] != card["outputs"][name]]
        if others:
            logger.warning(
                "%s: %s: other bits than before, as GPUs give", self.path, ", ".join(others)
            )
        gone = [name for name in evicted(self.path, card) if name in found]
        if set(others) & set(gone):  # before the files: one that is there must be that of the card
            outputs = card["outputs"] | {name: found[name] for name in gone}
            write_json(self.path / CARD, card | {"outputs": outputs})
        for name in gone:
            move(staging / name, self.path / name)
        still = evicted(self.path, card)
        if still:
            raise ArtifactError(f"{self.path}: {', '.join(still)} was not made again")
        write_json(marker(self.path), {"restored": gone})
