"""The tables of a study as files: collected from its artifacts, read back, written."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from diffusability.analysis.learned_deviation import learned_deviations
from diffusability.analysis.schema import COLUMNS
from diffusability.analysis.tables import read_measurements
from diffusability.artifacts.atomic import write_bytes
from diffusability.artifacts.card import verified
from diffusability.errors import ArtifactError, MeasurementError
from diffusability.study.commands import snakemake_command
from diffusability.study.plan import Artifact, Plan
from diffusability.study.targets import TABLE_NAMES, table_file

# columns that hold text; an empty cell in any other is a missing number
TEXT_COLUMNS = frozenset(
    {
        *("target", "backbone", "family", "metric", "statistic", "tokenizer", "cluster", "kind"),
        *("method", "cluster_method", "p_method", "r2_method", "note", "predictors", "metric_1"),
        *("metric_2", "metric_a", "metric_b", "backbone_a", "backbone_b", "ordering_by"),
        *("perspective", "naive_metric", "chosen", "better"),
        *("id", "section", "statement", "verdict", "expected", "reason", "table", "refuted_by"),
        *("network", "exact", "space", "dataset", "role", "distance_metric", "order"),
    }
)


def tabulate(plan: Plan) -> pd.DataFrame:
    """Return the measurements of all artifacts of a plan, in planning order.

    Where the study names a tokenizer that is pixel space, the deviations of learned Fisher curves
    from those of its models follow.

    Raises:
        ArtifactError: a measurement is missing, altered, or not of this plan.
    """
    rows = [row for artifact in plan.measured for row in _rows(plan, artifact)]
    reference = plan.study.metrics.fisher.reference
    if reference is not None:
        rows += learned_deviations(rows, reference)
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


def read_tables(plan: Plan) -> dict[str, pd.DataFrame]:
    """Return every table of a study by its name, as they were written.

    Raises:
        ArtifactError: a table is missing, or holds the measurements of another state of the study.
        MeasurementError: a file is no table.
    """
    paths = {name: Path(table_file(plan.study, name)) for name in TABLE_NAMES}
    for path in paths.values():
        if not path.exists():
            command = snakemake_command("-c2", "tables")
            raise ArtifactError(f"{path}: not there yet. Make it with: {command}")
    measurements = read_measurements(paths["measurements"])
    if set(measurements["fingerprint"]) != {artifact.fingerprint for artifact in plan.measured}:
        path = paths["measurements"]
        raise ArtifactError(
            f"{path}: its measurements are not those of the study as it is now. "
            f"Make it again with: {snakemake_command('-c2', '-f', str(path))}"
        )
    others = {name: read_table(path) for name, path in paths.items() if name != "measurements"}
    return {"measurements": measurements, **others}


def read_table(path: Path) -> pd.DataFrame:
    """Return a table of the analysis; an empty cell is NaN in a number and "" in a text.

    Raises:
        MeasurementError: the file cannot be read as a table.
    """
    try:
        # "nan" may be the name of a tokenizer; only an empty cell is missing
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise MeasurementError(f"{path}: cannot be read as a table: {error}") from error
    for column in TEXT_COLUMNS.intersection(frame.columns):
        filled = frame[column].astype(object).where(frame[column].notna(), "")
        frame[column] = filled.astype(str)
    return frame


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, atomically; floats keep every digit that tells them apart."""
    write_bytes(path, table.to_csv(index=False).encode())


def write_tables(paths: Sequence[Path], tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the tables that the files are named after."""
    for path in paths:
        write_table(path, tables[path.stem])
