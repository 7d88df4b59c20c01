"""Run a whole study with stand-ins for its scripts: what the workflow itself costs.

Usage: python -m benchmarks.simulation [--study FILE] [--tokenizers N] [--slurm] [--folder DIR].
Every rule runs with its own command line, artifacts have a few bytes, a share of all attempts
fails, and tables are made to the last one. Without --slurm jobs run side by side right here; with
it, through a stub. With --folder a run that was interrupted goes on, and its costs add up.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from diffusability.artifacts.atomic import write_json
from diffusability.artifacts.card import read_card
from diffusability.study.planning.plan import Plan
from diffusability.study.planning.targets import table_file, table_names
from diffusability.study.reading.load import load_study, read_yaml
from tests.cluster import stub_slurm, warm_snakemake
from tests.cluster.simulation import HERE, NO_NEEDS, ON_SLURM, Outcome, create, simulate
from tests.workflow.workspace import Workspace


def main() -> int:
    """Print jobs, failures, wall time and memory; return Snakemake's status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="studies/imagenet256.yaml")
    parser.add_argument("--tokenizers", type=int, help="only the first so many")
    parser.add_argument("--failures", type=float, default=0.02, help="share of attempts that fail")
    parser.add_argument("--slurm", action="store_true", help="through a stub of Slurm")
    parser.add_argument("--folder", type=Path, help="kept, to go on in; else a temporary one")
    arguments = parser.parse_args()
    study = read_yaml(arguments.study)
    if arguments.tokenizers:
        study["select"]["tokenizers"] = list(study["tokenizers"])[: arguments.tokenizers]
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        workspace = Workspace(folder.resolve() / "work")
        if workspace.path.exists():
            if read_yaml(workspace.path / "study.yaml") != study:
                parser.error(
                    f"{folder} holds another study; name the one it holds, or a new folder"
                )
            workspace.run("snakemake", "--configfile", "study.yaml", "--unlock")
        else:
            create(workspace.path, study)
        commands = []
        if arguments.slurm:
            snakemake = stack.enter_context(warm_snakemake.serving(folder.resolve()))
            commands = [_stub(folder.resolve() / "slurm", snakemake)]
        outcome = simulate(
            workspace,
            *(ON_SLURM if arguments.slurm else HERE),
            *NO_NEEDS,
            "--rerun-incomplete",
            "tables",
            commands=commands,
            failures=arguments.failures,
        )
        _report(folder, workspace, outcome)
    return outcome.status


def _stub(folder: Path, snakemake: str) -> Path:
    """Return the folder of the stub's commands, installed once."""
    if (folder / "bin").exists():
        return folder / "bin"
    return stub_slurm.install(folder, snakemake=snakemake)


def _report(folder: Path, workspace: Workspace, outcome: Outcome) -> None:
    """Print what this run and the ones before it in the folder came to."""
    plan = Plan(load_study(workspace.path / "study.yaml"))
    made = [a for a in plan if (workspace.path / a.card).exists()]
    again = sum(int(read_card(workspace.path / a.path)["attempts"]) - 1 for a in made)
    tables = [workspace.path / table_file(plan.study, name) for name in table_names(plan.study)]
    seconds, finished, driver, runs = _added_up(folder / "costs.json", outcome)
    print(f"{len(made)} of {len(plan)} artifacts, {again} failed attempts at them")
    print(f"{sum(t.exists() for t in tables)} of {len(tables)} tables")
    print(f"{finished} jobs in {seconds:.0f} s, {seconds / max(1, finished):.3f} s a job")
    print(f"driver: {driver:.0f} MiB at most; {runs} runs")
    if (folder / "slurm").exists():
        print(f"{len(stub_slurm.submitted(folder / 'slurm'))} calls of sbatch")
    if outcome.status:
        print(outcome.output[-2000:], file=sys.stderr)


def _added_up(file: Path, outcome: Outcome) -> tuple[float, int, float, int]:
    """Return seconds, finished jobs, MiB of the driver and runs, earlier ones of the file too."""
    earlier = json.loads(file.read_text()) if file.exists() else [0.0, 0, 0.0, 0]
    seconds, finished, driver, runs = earlier
    now = (
        seconds + outcome.seconds,
        finished + outcome.finished,
        max(driver, outcome.driver_mib),
        runs + 1,
    )
    write_json(file, now)
    return now


if __name__ == "__main__":
    sys.exit(main())
