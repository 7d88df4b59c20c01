"""A plan as text: jobs, time and disk of every stage, where they come from, and what is missing."""

from diffusability.artifacts.estimates import Estimates, StageCost
from diffusability.study.cost import FOLDER_TRAIN, FOLDER_VAL, MACHINE, SUSTAINED
from diffusability.study.dataset import FolderDataset
from diffusability.study.needs import describe, describe_package, missing, missing_packages
from diffusability.study.needs import study_needs as needs_of
from diffusability.study.plan import Plan

COLUMNS = ("stage", "jobs", "done", "to do", "time each", "time", "disk", "time from")
WIDTHS = (-15, 6, 6, 7, 11, 11, 11)


def plan_table(plan: Plan) -> str:
    """Return what a plan will cost and what it lacks, one line a stage, then totals and notes."""
    estimates = Estimates(plan)
    stages = estimates.stages()
    rows = [COLUMNS, *(_row(stage) for stage in stages)]
    lines = [_line(row) for row in rows]
    notes = _notes(plan, stages, estimates)
    return "\n".join([*lines, "", _total(plan, stages), *notes, *_lacking(plan)])


def _row(stage: StageCost) -> tuple[str, ...]:
    counts = (str(stage.jobs), str(stage.done), str(stage.to_do))
    if not stage.to_do:
        return (stage.stage, *counts, "", "", "", "")
    whole = stage.measured_seconds + stage.counted_seconds
    known = stage.seconds is not None
    return (
        *(stage.stage, *counts, _duration(stage.seconds or 0) if known else "unknown"),
        *(_duration(whole) if known else "unknown", _size(stage.bytes), stage.source),
    )


def _line(row: tuple[str, ...]) -> str:
    cells = [
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}"
        for cell, width in zip(row[:-1], WIDTHS, strict=True)
    ]
    return f"{''.join(cells)}  {row[-1]}".rstrip()


def _total(plan: Plan, stages: list[StageCost]) -> str:
    to_do = sum(stage.to_do for stage in stages)
    counted = sum(stage.counted_seconds for stage in stages) / 3600
    measured = sum(stage.measured_seconds for stage in stages)
    disk = _size(sum(stage.bytes for stage in stages))
    line = f"{len(plan)} jobs, {to_do} to do: {counted:,.1f} GPU-hours counted"
    if measured:
        line += f", {_duration(measured)} as timed, one job at a time"
    return f"{line}; {disk} on disk"


def _notes(plan: Plan, stages: list[StageCost], estimates: Estimates) -> list[str]:
    notes = []
    if any(stage.counted for stage in stages):
        rates = ", ".join(f"{rate / 1e12:g} TFLOP/s in {name}" for name, rate in SUSTAINED.items())
        notes.append(
            "counted: multiplications of the networks (a training step is three forward passes), "
            f"on {MACHINE} that sustains {rates} (published speeds of LightningDiT-B); small "
            "networks and small batches run far below that"
        )
    if any(stage.timed for stage in stages):
        notes.append(
            "timed: median of finished artifacts in results/ with the same options, but for "
            "seeds, regularizers and what they align with"
        )
    if any(stage.unknown for stage in stages):
        notes.append("unknown: work of CPU cores that is not counted; timed once one is finished")
    whole, largest = (_size(size) for size in estimates.latents())
    notes.append(
        f"disk: from shapes (weights, latents, images). Latents of the whole plan are {whole}; "
        f"evicted before the next tokenizer's (`diffusability gc --latents`), they are {largest}"
    )
    if isinstance(plan.study.dataset, FolderDataset):
        notes.append(
            f"images: taken to be ImageNet's {FOLDER_TRAIN:.0f} training and {FOLDER_VAL:.0f} "
            "validation images a class"
        )
    return notes


def _lacking(plan: Plan) -> list[str]:
    lacking = [describe_package(package) for package in missing_packages(plan.study)]
    lacking += [describe(need) for need in missing(needs_of(plan.study))]
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
