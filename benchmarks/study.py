"""Time the workflow: stages of a finished study, training rates, start-up, and a large dry-run.

Usage: python -m benchmarks.study [--study FILE]. Stages are timed if it is finished in results/.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import yaml

from diffusability.artifacts.card import read_card
from diffusability.study.core.workflow_files import default_study
from diffusability.study.planning.plan import Plan
from diffusability.study.reading.load import load_study, read_yaml

TOKENIZERS = 86
GUIDANCE = [1.0, 1.5, 2.0]


def main() -> None:
    """Print four tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default=default_study())
    study = parser.parse_args().study
    plan = Plan(load_study(study))
    if all(Path(artifact.card).exists() for artifact in plan):
        stage_times(plan)
    else:
        print(f"stages: {study} is not finished in results/; run it first")
    start_up()
    dry_run(study)


def stage_times(plan: Plan) -> None:
    """Print seconds by stage, and steps per second of every training, from the cards."""
    print(f"{'stage':<16}{'jobs':>6}{'median s':>10}{'sum s':>9}{'steps/s':>9}")
    for stage in dict.fromkeys(artifact.stage for artifact in plan):
        artifacts = plan.of_stage(stage)
        seconds = [read_card(Path(a.path))["seconds"] for a in artifacts]
        rates = [
            a.spec["train"]["steps"] / s
            for a, s in zip(artifacts, seconds, strict=True)
            if "train" in a.spec
        ]
        rate = f"{median(rates):.1f}" if rates else ""
        print(f"{stage:<16}{len(seconds):>6}{median(seconds):>10.1f}{sum(seconds):>9.1f}{rate:>9}")


def start_up() -> None:
    """Print what a job costs before it works: interpreter, library, torch."""
    codes = {
        "python": "pass",
        "study layer": "import diffusability.study.planning.plan, diffusability.study.reading.load",
        "a metric stage": "import diffusability.stages.latent_metrics",
        "a training stage": "import diffusability.stages.diffusion",
    }
    for name, code in codes.items():
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - begun)
        print(f"start-up, {name:<18}{min(times):>6.2f} s")


def copies(entries: dict[str, dict], count: int) -> dict[str, dict]:
    """Return the first entry as often as asked, each with a step more: equal ones are refused."""
    name, entry = next(iter(entries.items()))
    steps = (entry.get("train") or {}).get("steps", 100)
    return {
        f"{name}-{k}": entry | {"train": (entry.get("train") or {}) | {"steps": steps + k}}
        for k in range(count)
    }


def dry_run(study: str) -> None:
    """Print jobs per second of a dry-run of a study with as many tokenizers as the paper's."""
    large = read_yaml(study)
    large["tokenizers"] = copies(large["tokenizers"], TOKENIZERS)
    large["backbones"] = copies(large["backbones"], 4)
    large["sampling"]["guidance"] = GUIDANCE
    large["select"] = {"dataset": large["select"]["dataset"]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "large.yaml")
        file.write_text(yaml.safe_dump(large))
        jobs = len(Plan(load_study(file)))
        begun = time.perf_counter()
        command = ["snakemake", "-n", "--quiet", "all", "--configfile", str(file)]
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - begun
    print(f"dry-run of {jobs} jobs: {seconds:.1f} s, {jobs / seconds:.0f} jobs/s")


if __name__ == "__main__":
    main()
