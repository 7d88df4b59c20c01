"""Collect every measurement of a study in one tidy table: one row a number."""

import json
from pathlib import Path

import pandas as pd

from diffusability.artifacts.atomic import write_bytes
from diffusability.artifacts.card import verified
from diffusability.errors import ArtifactError
from diffusability.study.plan import Artifact, Plan
from diffusability.study.targets import table_files

COLUMNS = (
    "study",
    "dataset",
    "tokenizer",
    "family",
    "cluster",
    "tokenizer_seed",
    "backbone",
    "seed",
    "cfg",
    "metric",
    "value",
    "stderr",
    "n",
    "unit",
    "higher_is_better",
    "flags",
    "options",
    "fingerprint",
)


def tabulate(plan: Plan) -> pd.DataFrame:
    """Return the measurements of all artifacts of a plan, in planning order.

    Raises:
        ArtifactError: a measurement is missing, altered, or not of this plan.
    """
    rows = [row for artifact in plan.measured for row in _rows(plan, artifact)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(plan: Plan, artifact: Artifact) -> list[dict[str, object]]:
    path = Path(artifact.path)
    verified(path, artifact.stage, artifact.fingerprint)
    tokenizer = plan.study.tokenizers[artifact.labels["tokenizer"]]
    identity = {
        "study": plan.study.name,
        "dataset": plan.study.select.dataset,
        "tokenizer": artifact.labels["tokenizer"],
        "family": tokenizer.family,
        "cluster": tokenizer.cluster,
        "tokenizer_seed": artifact.labels["tokenizer_seed"],
        "backbone": artifact.labels.get("backbone", ""),
        "seed": artifact.labels.get("seed", ""),
        "cfg": artifact.labels.get("guidance", ""),
        "fingerprint": artifact.fingerprint,
    }
    measurements = json.loads((path / "measurements.json").read_text())
    return [
        {
            **identity,
            **measurement,
            "flags": "; ".join(measurement["flags"]),
            "options": json.dumps(measurement["options"], sort_keys=True),
        }
        for measurement in measurements
    ]


def read_tables(plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return measurements and correlations of a plan, as they were tabulated.

    Raises:
        ArtifactError: a table is missing, or holds the measurements of another state of the study.
    """
    paths = table_files(plan.study)
    for path in paths:
        if not Path(path).exists():
            raise ArtifactError(f"{path}: not there yet. Make it with: snakemake -c2 tables")
    measurements, correlations = (pd.read_csv(path) for path in paths)
    expected = {artifact.fingerprint for artifact in plan.measured}
    if set(measurements["fingerprint"]) != expected:
        raise ArtifactError(
            f"{paths[0]}: its measurements are not those of the study as it is now. "
            f"Make it again with: snakemake -c2 -f {paths[0]}"
        )
    return measurements, correlations


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, atomically; floats keep every digit that tells them apart."""
    write_bytes(path, table.to_csv(index=False).encode())
