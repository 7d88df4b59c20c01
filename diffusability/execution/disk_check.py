"""Whether results/ can take a study: locks that hold, and room on the disk."""

import shutil
from pathlib import Path

from diffusability.artifacts.inventory import is_done
from diffusability.artifacts.lock import check_locks
from diffusability.errors import ArtifactError
from diffusability.study.commands import diffusability_command
from diffusability.study.cost import Costs
from diffusability.study.plan import Plan
from diffusability.study.stages import RESULTS


def check_results(plan: Plan) -> str | None:
    """Refuse a study that results/ cannot take.

    Returns:
        A warning if the study fits only while latents are evicted, else None.

    Raises:
        ArtifactError: results/ cannot be locked, or is too small even then.
    """
    check_locks(Path(RESULTS))
    return _check_disk(plan, shutil.disk_usage(RESULTS).free)


def _check_disk(plan: Plan, free: int) -> str | None:
    """Compare what is to be written, counted from shapes, with the `free` bytes."""
    costs = Costs(plan.study)
    sizes = [(a.stage, costs.work(a).bytes) for a in plan if not is_done(a)]
    latents = [size for stage, size in sizes if stage == "latents"]
    whole = sum(size for _, size in sizes)
    least = whole - sum(latents) + max(latents, default=0)
    if least > free:
        raise ArtifactError(
            f"{RESULTS}: study `{plan.study.name}` writes {_gib(least)} even if the latents of one "
            f"tokenizer are kept at a time, and {_gib(free)} are free; free more, make {RESULTS} a "
            "link to a larger disk, or run a part: --config 'select={tokenizers: [...]}'"
        )
    if whole <= free:
        return None
    return (
        f"{RESULTS}: study `{plan.study.name}` writes {_gib(whole)}, {_gib(sum(latents))} of it "
        f"latents, and {_gib(free)} are free; evict latents while it runs: "
        + diffusability_command("gc", "--evict", "latents", "--yes")
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
