"""Checks of results/ before a study: working file locks, and enough disk space."""

import shutil
from pathlib import Path

from diffusability.artifacts.inventory import is_done
from diffusability.artifacts.lock import check_locks
from diffusability.errors import ArtifactError
from diffusability.study.core.commands import diffusability_command
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.stages import BULK, RESULTS
from diffusability.study.preflight.cost import Costs


def check_results(plan: Plan) -> str | None:
    """Check file locks and free disk space for a study.

    Returns:
        A warning if the study fits only with eviction of latents and samples, else None.

    Raises:
        ArtifactError: results/ does not support locks, or is too small even with eviction.
    """
    check_locks(Path(RESULTS))
    return _check_disk(plan, shutil.disk_usage(RESULTS).free)


def _check_disk(plan: Plan, free: int) -> str | None:
    """Compare the bytes to be written, computed from shapes, with the `free` bytes."""
    costs = Costs(plan.study)
    sizes = [(a.stage, costs.work(a).bytes) for a in plan if not is_done(a)]
    bulk = {stage: [size for of, size in sizes if of == stage] for stage in BULK}
    whole = sum(size for _, size in sizes)
    least = whole - sum(sum(each) - max(each, default=0) for each in bulk.values())
    if least > free:
        raise ArtifactError(
            f"{RESULTS}: study `{plan.study.name}` writes {_gib(least)} even if the latents and "
            f"samples of only one artifact are kept, but {_gib(free)} are free; free more, make "
            f"{RESULTS} a link to a larger disk, or run a part: "
            "--config 'select={tokenizers: [...]}'"
        )
    if whole <= free:
        return None
    evictable = sum(map(sum, bulk.values()))
    return (
        f"{RESULTS}: study `{plan.study.name}` writes {_gib(whole)}, {_gib(evictable)} of it "
        f"latents and samples, but {_gib(free)} are free; evict them while it runs: "
        + diffusability_command("gc", "--evict", "--yes")
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
