"""A plan as text: jobs, time and disk of every stage, total time, and missing inputs."""

import math
from collections.abc import Sequence
from itertools import groupby

from diffusability.execution.estimates import Estimates, StageCost
from diffusability.execution.schedule import critical_path, schedule
from diffusability.execution.this_machine import SIDE, START_UP, ThisMachine
from diffusability.study.core.commands import diffusability_command
from diffusability.study.entries.dataset import FOLDER_TRAIN, FOLDER_VAL, DecodedDataset
from diffusability.study.planning.plan import Plan
from diffusability.study.preflight.cost import DECODED, EAGER, MACHINE, SUSTAINED
from diffusability.study.preflight.memory import CONTEXT, PASSING, TRAININGS, largest_steps
from diffusability.study.preflight.needs import describe_package, missing, missing_packages
from diffusability.study.preflight.needs import study_needs as needs_of

COLUMNS = ("stage", "jobs", "done", "to do", "time each", "time", "disk", "time from")
WIDTHS = (-21, 6, 6, 7, 11, 11, 11)


def plan_table(plan: Plan, gpus: Sequence[int] = (8, 64), here: ThisMachine | None = None) -> str:
    """Return the cost of a plan, one line per stage, then totals, notes and missing inputs.

    Args:
        plan: of the study.
        gpus: numbers of GPUs for which to estimate time and disk use.
        here: a machine without GPUs, for which times are given instead.
    """
    estimates = Estimates(plan, here)
    stages = estimates.stages()
    rows = [COLUMNS, *(_row(stage) for stage in stages)]
    lines = [_line(row) for row in rows]
    notes = _notes(plan, stages, here)
    runs = []
    if any(stage.to_do for stage in stages):
        runs = _runs(plan, estimates, gpus) if here is None else _run_here(stages, here)
    memory = [*_memory(plan, stages), *_decoding(estimates)] if here is None else []
    total = _total(plan, stages, here)
    return "\n".join([*lines, "", total, *runs, *memory, "", *notes, *_lacking(plan)])


def _row(stage: StageCost) -> tuple[str, ...]:
    counts = (str(stage.jobs), str(stage.done), str(stage.to_do))
    if not stage.to_do:
        return (stage.stage, *counts, "", "", "", "")
    known = stage.seconds is not None
    return (
        *(stage.stage, *counts, _duration(stage.seconds or 0) if known else "unknown"),
        *(_duration(stage.whole) if known else "unknown", _size(stage.bytes), stage.source),
    )


def _line(row: tuple[str, ...]) -> str:
    cells = [
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}"
        for cell, width in zip(row[:-1], WIDTHS, strict=True)
    ]
    return f"{''.join(cells)}  {row[-1]}".rstrip()


def _total(plan: Plan, stages: list[StageCost], here: ThisMachine | None) -> str:
    to_do = sum(stage.to_do for stage in stages)
    counted = sum(stage.counted_seconds for stage in stages) / 3600
    measured = sum(stage.measured_seconds for stage in stages)
    disk = _size(sum(stage.bytes for stage in stages))
    on_cores = sum(stage.core_seconds for stage in stages) / 3600
    what = "GPU-hours" if here is None else "hours on this machine"
    line = f"{len(plan)} jobs, {to_do} to do: {counted:,.1f} {what} counted"
    if on_cores:
        line += f", {on_cores:,.1f} core-hours"
    if measured:
        line += f", {_duration(measured)} as timed, one job at a time"
    return f"{line}; {disk} on disk"


def _runs(plan: Plan, estimates: Estimates, gpus: Sequence[int]) -> list[str]:
    """Return the longest chain, and time and disk with each number of GPUs."""
    tasks = estimates.tasks()
    chain = critical_path(plan, tasks)
    longest = sum(tasks[artifact].seconds for artifact in chain)
    work = sum(task.seconds * task.gpus for task in tasks.values())
    steps = [
        f"{stage} {_duration(sum(tasks[artifact].seconds for artifact in part))}"
        for stage, part in groupby(chain, lambda artifact: artifact.stage)
    ]
    lines = ["", f"critical path: {_duration(longest)} ({', '.join(steps)})"]
    lines += [f"  {chain[-1].name}", ""]
    disk = "disk at its fullest, evicted: nothing / latents / both"
    lines.append(f"{'GPUs':>6}{'at least':>12}{'in order':>12}  {disk}")
    everything = sum(task.bytes for task in tasks.values())
    for count in gpus:
        found = schedule(plan, tasks, count)
        least = _duration(max(longest, work / count))
        sizes = (everything, found.disk_with_samples, found.disk)
        lines.append(
            f"{count:>6}{least:>12}{_duration(found.seconds):>12}  "
            f"{' / '.join(_size(size) for size in sizes)}"
        )
        lines.append(
            f"{'':>32}needed at once: latents of {found.latents} tokenizers "
            f"({_size(found.latent_bytes)}), {_size(found.sample_bytes)} of samples"
        )
    return lines


def _run_here(stages: list[StageCost], here: ThisMachine) -> list[str]:
    """Return how long all jobs take on this machine."""
    whole = sum(stage.whole for stage in stages)
    return [
        "",
        f"on this machine, without a GPU: about {_duration(whole)} one job after the other, at "
        f"least {_duration(whole / here.cores)} with `-c{here.cores}`",
    ]


def _memory(plan: Plan, stages: list[StageCost]) -> list[str]:
    """Return the memory of every kind of training, and what makes it fit where it does not."""
    limit = plan.study.gpu_memory
    if not any(stage.to_do for stage in stages if stage.stage in TRAININGS):
        return []
    lines = []
    for name, memory in largest_steps(plan):
        rest = "" if memory.fits(limit * 1e9) else f": too much; {memory.remedy(limit * 1e9)}"
        at_once = f"{memory.images} of {memory.share}"
        lines.append(f"  {name:<32}{at_once:>16}{memory.bytes() / 1e9:>10.1f} GB{rest}")
    if not lines:
        return []
    heading = f"training step on a GPU of {limit:g} GB"
    return ["", f"{heading:<34}{'images at once':>16}{'memory':>13}", *lines]


def _decoding(estimates: Estimates) -> list[str]:
    """Return how many cores decode image files as fast as a GPU needs them."""
    found = estimates.decoding()
    if found is None:
        return []
    rate, artifact = found
    cores = math.ceil(rate / DECODED)
    return [
        "",
        f"image files: a GPU needs up to {rate:,.0f} in a second ({artifact.stage} "
        f"{artifact.name}): {cores} core{'s' * (cores > 1)} for each GPU, where a core decodes "
        f"{DECODED} JPEGs of 500 x 375 pixels (`set-threads` and `cpus_per_gpu` of a profile)",
    ]


def _notes(plan: Plan, stages: list[StageCost], here: ThisMachine | None) -> list[str]:
    notes = []
    if here is not None:
        notes.append(
            "counted: multiplications of the networks (a training step is three forward passes), "
            f"at the {here.rate / 1e9:.0f} GFLOP/s that a matrix product of {SIDE} x {SIDE} just "
            f"reached, and {START_UP:g} s of start-up per job. Networks reach a part of that "
            "rate. For GPUs: `--gpus 8 64`"
        )
    elif any(stage.counted for stage in stages):
        rates = ", ".join(f"{rate / 1e12:g} TFLOP/s in {name}" for name, rate in SUSTAINED.items())
        notes.append(
            "counted: multiplications of the networks (a training step is three forward passes), "
            f"on {MACHINE} that sustains {rates}: in bf16 by the published speed of "
            "LightningDiT-B, compiled; in fp32, which is TF32 where a stage allows it, in "
            f"proportion to the chip's peaks; {EAGER:g} of that in diffusion trainings without "
            "`train.compile`. Nothing was measured on a GPU; small networks and small batches run "
            "far below that"
        )
    if any(stage.timed for stage in stages):
        notes.append(
            "timed: median of finished artifacts in results/ with the same options, except for "
            "seeds, regularizers and what they align with"
        )
    if any(stage.unknown for stage in stages):
        notes.append("unknown: work of CPU cores that is not counted; timed once one is finished")
    if any(stage.core_seconds for stage in stages):
        notes.append(
            "counted, of a core: in proportion to the numbers that are read, as measured once on a "
            "shared server's core (benchmarks/RESULTS.md)"
        )
    notes.append("disk: from shapes (weights, latents, images)")
    if here is None:
        notes.append(
            "memory: weights, gradients, moments, averaged weights and frozen networks, and all "
            f"that is kept for the backward pass, {PASSING - 1:.0%} more for what comes and goes, "
            f"and {CONTEXT / 1e9:g} GB; counted from shapes, not measured on a GPU. `gpu_memory` "
            "of the study says what a GPU has"
        )
    if here is None and any(stage.to_do for stage in stages):
        notes.append(
            "in order: jobs start in the order of the rules' priorities, one tokenizer after "
            "another; several GPUs share a job without loss, and what is unknown takes no time. "
            f"Evicted (`{diffusability_command('gc', '--evict', '--yes')}` while it runs) are "
            "latents and samples that no remaining job needs; `--keep SIZE` enforces a size in any "
            "order, and further jobs restore what is needed again"
        )
    data = plan.study.dataset
    if isinstance(data, DecodedDataset) and not data.counted:
        notes.append(
            f"images: taken to be ImageNet's {FOLDER_TRAIN:.0f} training and {FOLDER_VAL:.0f} "
            "validation images per class"
        )
    return notes


def _lacking(plan: Plan) -> list[str]:
    lacking = [describe_package(package) for package in missing_packages(plan.study)]
    lacking += [str(need) for need in missing(needs_of(plan.study))]
    return [f"missing: {line}" for line in lacking]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _size(count: int) -> str:
    if not count:
        return "-"
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"
