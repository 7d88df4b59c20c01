"""What figures are drawn from: the tables of one study, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from diffusability.analysis.headline import target_metric
from diffusability.analysis.tables import families, read_measurements
from diffusability.errors import ArtifactError
from diffusability.study.plan import Plan
from diffusability.study.targets import table_files

STATEMENTS = ("note", "metric_2", "backbone")  # text columns that may be empty in every row


@dataclass(frozen=True)
class Results:
    """The tables of a study, and how figures name what is in them.

    Attributes:
        tables: by name; ``measurements`` is checked (``check_measurements``), the others are those
            of ``analyse``. What a study lacks is absent.
        numbers: order number of each tokenizer in the study file, from 1 (the ID of Table 1).
        target: the Fréchet distance of generated images, lower is better.
    """

    tables: Mapping[str, pd.DataFrame]
    numbers: Mapping[str, int]
    target: str

    @property
    def measurements(self) -> pd.DataFrame:
        """The tidy table."""
        return self.tables["measurements"]

    @property
    def families(self) -> list[str]:
        """The tokenizer families, in the order of the table."""
        return families(self.measurements)[1:]

    def measured(self, pattern: str) -> str | None:
        """Return the first metric that fits a shell pattern, None where there is none."""
        names = dict.fromkeys(self.measurements["metric"])
        return next((name for name in names if fnmatchcase(name, pattern)), None)

    def row(self, table: str, **wanted: object) -> dict[str, Any] | None:
        """Return the first row of a table whose columns equal what is wanted, None if none does.

        A wanted None is a missing cell: as ``cfg``, each tokenizer's best guidance scale.
        """
        frame = self.tables.get(table)
        if frame is None:
            return None
        for column, value in wanted.items():  # one after the other: tables can be long
            if frame.empty:
                return None
            frame = frame[frame[column].isna() if value is None else frame[column] == value]
        return None if frame.empty else {str(k): v for k, v in frame.iloc[0].items()}


def read_results(plan: Plan) -> Results:
    """Return the tables of a study as they were written.

    Raises:
        ArtifactError: a table is missing, or holds the measurements of another state of the study.
        MeasurementError: the tidy table is not one.
    """
    paths = {Path(path).stem: Path(path) for path in table_files(plan.study)}
    for path in paths.values():
        if not path.exists():
            raise ArtifactError(f"{path}: not there yet. Make it with: snakemake -c2 tables")
    measurements = read_measurements(paths["measurements"])
    if set(measurements["fingerprint"]) != {artifact.fingerprint for artifact in plan.measured}:
        path = paths["measurements"]
        raise ArtifactError(
            f"{path}: its measurements are not those of the study as it is now. "
            f"Make it again with: snakemake -c2 -f {path}"
        )
    others = {name: read_table(path) for name, path in paths.items() if name != "measurements"}
    numbers = {name: place for place, name in enumerate(plan.study.tokenizers, start=1)}
    return Results({"measurements": measurements, **others}, numbers, target_metric(plan.study))


def read_table(path: Path) -> pd.DataFrame:
    """Return a table of the analysis; an empty cell is NaN in a number and "" in a statement."""
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    for column in STATEMENTS:
        if column in frame:
            frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
    return frame
