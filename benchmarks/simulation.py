"""Run a whole study with stand-ins for its scripts: what the workflow itself costs.

Usage: python -m benchmarks.simulation [--study FILE] [--tokenizers N] [--slurm]. Every rule runs
with its own command line, artifacts have a few bytes, a share of all attempts fails, and tables are
made to the last one. Without --slurm jobs run side by side right here; with it, through a stub.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from diffusability.study.load import load_study, read_yaml
from diffusability.study.plan import Plan
from diffusability.study.targets import TABLE_NAMES, table_file
from tests.cluster import stub_slurm
from tests.cluster.simulation import HERE, NO_NEEDS, ON_SLURM, create, simulate


def main() -> int:
    """Print jobs, failures, wall time and memory; return Snakemake's status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="studies/imagenet256.yaml")
    parser.add_argument("--tokenizers", type=int, help="only the first so many")
    parser.add_argument("--failures", type=float, default=0.02, help="share of attempts that fail")
    parser.add_argument("--slurm", action="store_true", help="through a stub of Slurm")
    parser.add_argument("--resamples", type=int, default=199, help="draws of every interval")
    arguments = parser.parse_args()
    study = read_yaml(arguments.study)
    study["analysis"] = {"resamples": arguments.resamples}
    if arguments.tokenizers:
        study["select"]["tokenizers"] = list(study["tokenizers"])[: arguments.tokenizers]
    with tempfile.TemporaryDirectory() as scratch:
        workspace = create(Path(scratch, "work"), study)
        commands = [stub_slurm.install(Path(scratch, "slurm"))] if arguments.slurm else []
        outcome = simulate(
            workspace,
            *(ON_SLURM if arguments.slurm else HERE),
            NO_NEEDS,
            "tables",
            commands=commands,
            failures=arguments.failures,
        )
        if outcome.status:
            print(outcome.output[-4000:])
            return outcome.status
        plan = Plan(load_study(workspace.path / "study.yaml"))
        tables = [Path(workspace.path, table_file(plan.study, name)) for name in TABLE_NAMES]
        print(
            f"{len(plan)} artifacts, {outcome.jobs} jobs, {outcome.failed_attempts} failed attempts"
        )
        print(f"{sum(t.exists() for t in tables)} of {len(tables)} tables")
        print(f"{outcome.seconds:.0f} s, {outcome.seconds / outcome.jobs:.3f} s a job")
        print(f"driver: {outcome.driver_mib:.0f} MiB at most")
        if arguments.slurm:
            print(f"{len(stub_slurm.submitted(Path(scratch, 'slurm')))} calls of sbatch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
