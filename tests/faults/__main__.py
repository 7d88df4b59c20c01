"""Kill every stage at every place, fill the disk at every place, and compare the next run's files.

    python -m tests.faults [--stages latents tokenizer] [--every 1]

For each stage an undisturbed run is compared with two others: one that is killed at its n-th change
of a file, and one that finds the disk full at its n-th write, each followed by the same command.
Prints how many faults were tried, after how many the files are the same bits, and how many full
disks were refused in one sentence. Exits with 1 if any fault ended otherwise.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffusability.artifacts.records import record_study
from diffusability.errors import DiffusabilityError
from diffusability.stages.command import run
from diffusability.study.planning.plan import Artifact, Plan
from diffusability.study.planning.stages import CARD, STAGES
from tests.faults.inject import Fault, Injector
from tests.unit.study_run import plan_of, run_plan

DONE, REFUSED, TRACEBACK, KILLED = 0, 1, 99, -9
RESTORE = "latents --restore"
RECORD = "record of the study"
# parts of a card that differ between equal runs
VARYING = ("started", "seconds", "attempts", "machine", "peak_memory_bytes")


@dataclass
class Counts:
    """Outcome of the faults."""

    tried: int = 0
    identical: int = 0
    full: int = 0
    refused: int = 0
    unharmed: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        """Note and print what ended otherwise than it should."""
        self.wrong.append(what)
        print(f"WRONG {what}", flush=True)


def in_child(task: Sequence[str], plan: Plan, fault: Fault, at: int) -> tuple[int, int]:
    """Run one job in a fork with a fault; return how it ended and the number of places.

    A job that was killed has no count.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = TRACEBACK
        silent = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        injector = Injector("results", fault, at)
        try:
            injector.watch()
            if task[0] == RECORD:
                record_study(plan, ["smoke.yaml"], {})
                code = DONE
            else:
                code = run(None, task)
        except DiffusabilityError:
            code = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os.write(writing, str(injector.count).encode())
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        count = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(count or 0)


def contents() -> dict[str, str]:
    """Return a hash of every file of the results, cards without what differs between runs."""
    found = {}
    for file in sorted(Path("results").rglob("*")):
        if not file.is_file() or (file.parent.name == "studies" and file.suffix == ".tmp"):
            continue  # `diffusability gc` removes unfinished records after an hour
        data = file.read_bytes()
        if file.name == CARD or file.parent.name == "studies":
            card = {key: v for key, v in json.loads(data).items() if key not in VARYING}
            data = json.dumps(card, sort_keys=True).encode()
        found[str(file)] = hashlib.sha256(data).hexdigest()
    return found


def attack(
    name: str, task: Sequence[str], plan: Plan, base: Path, every: int, counts: Counts
) -> None:
    """Try every place of one job, which is missing in the folder `base`."""

    def fresh() -> None:
        os.chdir("/")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(base, work)
        os.chdir(work)

    work = base.with_name("work")
    fresh()
    code, places = in_child(task, plan, "none", -1)
    expected = contents()
    if code != DONE:
        said = Path("said.txt").read_text()[-500:]
        counts.add(f"{name}: the undisturbed run ended with {code}: {said}")
        return
    fresh()
    writes = in_child(task, plan, "full", -1)[1]
    for fault, number in (("kill", places), ("full", writes)):
        for at in range(0, number, every):
            fresh()
            first, _ = in_child(task, plan, fault, at)
            said = Path("said.txt").read_text()
            counts.tried += 1
            if fault == "full":
                counts.full += 1
                counts.refused += first == REFUSED
                counts.unharmed += first == DONE
                if first not in (REFUSED, DONE):
                    counts.add(f"{name}, full at {at}: ended with {first}: {said[-400:]}")
            elif first != KILLED:
                counts.add(f"{name}, kill at {at}: ended with {first}")
            second, _ = in_child(task, plan, "none", -1)
            found = contents()
            counts.identical += second == DONE and found == expected
            if second != DONE:
                said = Path("said.txt").read_text()[-400:]
                counts.add(f"{name}, after {fault} at {at}: ended with {second}: {said}")
            elif found != expected:
                other = {k for k in {**found, **expected} if found.get(k) != expected.get(k)}
                counts.add(f"{name}, after {fault} at {at}: other {sorted(other)}")
    print(
        f"{name}: {places} places to kill, {writes} to find the disk full; so far "
        f"{counts.tried} tried, {counts.identical} survived, {counts.refused} of {counts.full} "
        f"full disks refused, {counts.unharmed} harmless, {len(counts.wrong)} wrong",
        flush=True,
    )


def task_of(artifact: Artifact, *more: str) -> list[str]:
    """Return the arguments with which the workflow makes an artifact."""
    return [artifact.stage, *more, "--job", artifact.job(), "--threads", "1", "--device", "cpu"]


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if every fault ended well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stages", nargs="+", help="stages (those that the smoke study has)")
    parser.add_argument("--every", type=int, default=1, help="try every n-th place only")
    arguments = parser.parse_args(argv)
    plan = plan_of({"select": {"tokenizers": ["conv-vf-glyph"]}})
    counts = Counts()
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, "whole")
        whole.mkdir()
        os.chdir(whole)
        present = [stage for stage in STAGES if plan.of_stage(stage)]
        chosen = arguments.stages or [*present, RESTORE, RECORD]
        run_plan(plan, *[name.partition(" ")[0] for name in chosen if name != RECORD])
        for name in chosen:
            base = Path(scratch, "base")
            shutil.rmtree(base, ignore_errors=True)
            shutil.copytree(whole, base)
            if name == RECORD:
                attack(name, [RECORD], plan, base, arguments.every, counts)
                continue
            artifact = plan.of_stage(name.partition(" ")[0])[0]
            if artifact.stage == "latents":
                shutil.rmtree(base / "results" / "cache")
            if name != RESTORE:
                shutil.rmtree(base / artifact.path)
            task = task_of(artifact, *(["--restore"] if name == RESTORE else []))
            attack(name, task, plan, base, arguments.every, counts)
        os.chdir("/")
    kills = counts.tried - counts.full
    print(f"tried: {counts.tried} faults ({kills} kills, {counts.full} full disks)")
    print(f"survived bit-identically: {counts.identical} (the next run made the same files)")
    print(
        f"refused clearly: {counts.refused} of {counts.full} full disks in one sentence; "
        f"{counts.unharmed} did no harm"
    )
    return 1 if counts.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
